"""Responses to single images: the metrics and submissions of SENSORIUM 2022."""
