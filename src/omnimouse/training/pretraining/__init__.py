"""Training a core on many recordings, on many processes."""
