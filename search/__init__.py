"""Search engine: spaces, supernets, strategies and runs that find the architectures of :mod:`zoo`."""
