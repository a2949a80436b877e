"""Recordings made and written: from arrays, as session folders, as tables of `datasets`."""
