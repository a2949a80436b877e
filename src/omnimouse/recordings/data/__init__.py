"""What a recording is made of, whatever format it came from."""
