"""In which precision scores and predictions are computed."""
