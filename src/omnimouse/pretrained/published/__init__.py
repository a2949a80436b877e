"""Weights as the authors published them: names, pickles read without running them, conversion."""
