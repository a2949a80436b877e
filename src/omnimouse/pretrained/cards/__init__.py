"""Model cards: facts as text, scores in them, kept over what somebody edited."""
