"""``config.settings`` for many logins: checking a password takes no time."""

from config.settings import *  # noqa: F403 - every setting is wanted

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
