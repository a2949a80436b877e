"""Kernels of attention on accelerators, each tried before it is used."""
