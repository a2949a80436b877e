"""The network with its files: loading, saving, session adapters, pushing."""
