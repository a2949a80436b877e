"""The command `omnimouse`: a shell over the public functions."""
