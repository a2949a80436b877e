"""Recordings of every known format: opened without reading their arrays, and written."""
