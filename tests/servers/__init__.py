"""Unmodified mail servers of other projects, tested on loopback with our mail."""
