"""A run of a pre-training on disk and between processes: folder, history, speed, trackers."""
