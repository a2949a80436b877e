"""The release's corpus: which sessions there are, and fetching them."""
