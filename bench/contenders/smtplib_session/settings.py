"""No apps."""

from common import *  # noqa: F403
