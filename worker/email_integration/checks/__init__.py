"""System checks: problems that can be found without the network. Their ids are stable."""

from . import databases, keys, optional, surroundings

__all__ = ["databases", "keys", "optional", "surroundings"]
