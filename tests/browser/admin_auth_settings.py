"""``config.settings`` for people who log in often: looking at a password takes no time."""

from config.settings import *  # noqa: F403 - all of them, that is the point

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
