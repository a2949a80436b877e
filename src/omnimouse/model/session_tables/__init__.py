"""Sessions in memory: their tables, names, where they begin, and what of a model is core."""
