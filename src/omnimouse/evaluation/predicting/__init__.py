"""Predictions as arrays: in memory or in a file that grows, and further than one window."""
