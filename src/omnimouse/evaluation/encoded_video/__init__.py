"""Video features of a core that does not change, so that no window is encoded twice."""
