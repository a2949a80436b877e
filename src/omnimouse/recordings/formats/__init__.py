"""Session folders of every known format, opened without reading their arrays."""
