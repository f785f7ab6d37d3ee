"""``config.settings`` without USE_TZ: the database holds naive datetimes, in a time zone that is not UTC."""

from config.settings import *  # noqa: F403 - all of them, that is the point

USE_TZ = False
TIME_ZONE = "Asia/Kathmandu"
