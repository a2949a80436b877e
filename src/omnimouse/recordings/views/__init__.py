"""A recording summed up: in text, in a picture, in a fingerprint."""
