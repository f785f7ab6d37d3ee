"""System checks: what can be known to be wrong without asking the network. The ids stay the same."""

from . import databases, keys, optional, surroundings

__all__ = ["databases", "keys", "optional", "surroundings"]
