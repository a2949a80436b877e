"""Adapting a model to one recording."""
