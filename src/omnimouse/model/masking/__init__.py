"""Masks: what of a window is visible and what is predicted, as rules, as data, and fitted to a recording."""
