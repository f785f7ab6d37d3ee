"""Django's settings, from the environment and an optional .env; .env.example explains each variable."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import django
from cryptography.fernet import Fernet
from django.core.management.utils import get_random_secret_key

from config import env, logs, policy, services
from config.env import WrongValue
from email_integration import conf

BASE_DIR = Path(__file__).resolve().parent.parent
env.load_file(BASE_DIR / ".env")

VAR_DIR = Path(env.text("VAR_DIR", str(BASE_DIR / "var")))
STATIC_ROOT = VAR_DIR / "static"
try:
    STATIC_ROOT.mkdir(parents=True, exist_ok=True)
except OSError as error:
    raise WrongValue("VAR_DIR", f"{str(VAR_DIR)!r} cannot be written to: {type(error).__name__}") from None

# Security

DEBUG = env.boolean("DEBUG", False)
SECRET_KEY = env.text("SECRET_KEY")
if not SECRET_KEY:
    if not DEBUG:
        raise WrongValue(
            "SECRET_KEY",
            "is required unless DEBUG is true; create one with "
            "python -c 'import secrets; print(secrets.token_urlsafe(50))'",
        )
    SECRET_KEY = env.kept("SECRET_KEY", VAR_DIR / "secret_key", get_random_secret_key)

# Always allow loopback, for a container's own health check.
ALLOWED_HOSTS = [*env.host_patterns("ALLOWED_HOSTS", []), "localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = env.listed("CSRF_TRUSTED_ORIGINS")
for origin in CSRF_TRUSTED_ORIGINS:
    if not origin.startswith(("http://", "https://")):
        raise WrongValue(
            "CSRF_TRUSTED_ORIGINS", f"must be origins like https://mail.example.com; {origin!r} is not one"
        )

# Only if enabled: without a proxy that sets the header, any client could claim to use HTTPS.
BEHIND_TLS = env.boolean("BEHIND_TLS", False)
HTTPS_ONLY = env.boolean("HTTPS_ONLY", BEHIND_TLS or not DEBUG)
HSTS_SUBDOMAINS = env.boolean("HSTS_SUBDOMAINS", False)
if HSTS_SUBDOMAINS and not HTTPS_ONLY:
    raise WrongValue("HSTS_SUBDOMAINS", "has no effect with HTTPS_ONLY=false; leave one of them unset")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_TLS else None
# Only if Django knows which requests used HTTPS. Otherwise this would redirect in a loop.
SECURE_SSL_REDIRECT = BEHIND_TLS and HTTPS_ONLY
# Machines request these directly, not through the proxy.
SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]
# Subdomains of a whole domain and the preload lists of browsers require a year.
SECURE_HSTS_SECONDS = (365 if HSTS_SUBDOMAINS else 30) * 24 * 3600 if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HSTS_SUBDOMAINS
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS_ONLY
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
CSRF_FAILURE_VIEW = "config.admin_auth.refusals.csrf_failure"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_REFERRER_POLICY = SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
# The only page in a frame, the HTML of a mail, sets its own header.
X_FRAME_OPTIONS = "DENY"
SECURE_CSP = policy.DIRECTIVES

ADMIN_REQUIRE_2FA = env.boolean("ADMIN_REQUIRE_2FA", False)
if ADMIN_REQUIRE_2FA and not (find_spec("django_otp") and find_spec("segno")):
    raise WrongValue("ADMIN_REQUIRE_2FA", "needs django-otp and segno; install them, or leave it unset")

# Application

INSTALLED_APPS = [
    "config.admin_auth.apps.AdminAuth",
    "config.admin_auth.apps.AdminWithSecondFactor" if ADMIN_REQUIRE_2FA else "config.admin_auth.apps.Admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_celery_results",
    "simple_history",
    "email_integration",
]
if ADMIN_REQUIRE_2FA:
    INSTALLED_APPS += ["django_otp", "django_otp.plugins.otp_totp", "django_otp.plugins.otp_static"]
    #: The issuer that an authenticator app shows for the account.
    OTP_TOTP_ISSUER = "Mail dispatch"
    #: Users who may manage devices do not see their secrets.
    OTP_ADMIN_HIDE_SENSITIVE_DATA = True

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    policy.MIDDLEWARE,
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
]
if ADMIN_REQUIRE_2FA:
    MIDDLEWARE.insert(
        MIDDLEWARE.index("django.contrib.auth.middleware.AuthenticationMiddleware") + 1,
        "django_otp.middleware.OTPMiddleware",
    )

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{validator}"}
    for validator in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "static/"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
    # The contents of large mails. No URL serves these files, and other users cannot read them.
    "email_integration": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {
            "location": env.text("PAYLOAD_DIR", str(VAR_DIR / "payloads")),
            "file_permissions_mode": 0o600,
            "directory_permissions_mode": 0o700,
        },
    },
}
MEDIA_ROOT = VAR_DIR / "media"

# Django warns that MySQL and MariaDB have no partial indexes. There, our indexes cover the whole table.
SILENCED_SYSTEM_CHECKS = ["models.W037"]

# Database, cache

DATABASES = {
    "default": {
        **services.database("DATABASE_URL", f"sqlite:///{VAR_DIR / 'db.sqlite3'}"),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }
}

REDIS_URL = services.redis_url("REDIS_URL", "redis://127.0.0.1:6379/0")
CACHES = {
    "default": {
        "BACKEND": "config.cache.RedisCache",
        "LOCATION": REDIS_URL,
        # An unreachable cache costs one second, not the kernel's timeout. With the older protocol, redis-py closes the
        # connections of a thread when the thread ends, not only at garbage collection.
        "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1, "protocol": 2},
    }
}

# Mail. Variables that are not set stay unset here too, so that the app can recognise 'not set by the project'.

if env.boolean("EMAIL_USE_TLS", False) and env.boolean("EMAIL_USE_SSL", False):
    raise WrongValue(
        "EMAIL_USE_SSL",
        "cannot be true together with EMAIL_USE_TLS; use EMAIL_USE_TLS for STARTTLS (port 587), or "
        "EMAIL_USE_SSL for TLS from the start (port 465)",
    )
# The server that sends mail while no configuration is active.
_server: dict[str, Any] = {}
if env.is_set("EMAIL_HOST"):
    _server["host"] = env.host("EMAIL_HOST")
if env.is_set("EMAIL_PORT"):
    _server["port"] = env.whole("EMAIL_PORT", 0, at_least=1, at_most=65535)
if env.is_set("EMAIL_USE_TLS"):
    _server["use_tls"] = env.boolean("EMAIL_USE_TLS", False)
if env.is_set("EMAIL_USE_SSL"):
    _server["use_ssl"] = env.boolean("EMAIL_USE_SSL", False)
if env.is_set("EMAIL_HOST_USER"):
    _server["username"] = env.text("EMAIL_HOST_USER")
if env.is_set("EMAIL_HOST_PASSWORD"):
    _server["password"] = env.raw("EMAIL_HOST_PASSWORD")
if env.is_set("EMAIL_TIMEOUT"):
    _server["timeout"] = env.seconds("EMAIL_TIMEOUT", 0)

_backend = "email_integration.backends.queued.EmailBackend"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": _backend, "OPTIONS": _server}}
else:
    EMAIL_BACKEND = _backend
    _renamed = {"username": "HOST_USER", "password": "HOST_PASSWORD"}
    globals().update({f"EMAIL_{_renamed.get(name, name.upper())}": value for name, value in _server.items()})
if env.is_set("DEFAULT_FROM_EMAIL"):
    DEFAULT_FROM_EMAIL = env.address("DEFAULT_FROM_EMAIL")

# Django 6.0 takes plain addresses and deprecates the pairs.
ADMINS: list[Any] = [address if django.VERSION >= (6, 0) else (address, address) for address in env.addresses("ADMINS")]


def _integration() -> dict[str, Any]:
    """Read each key of EMAIL_INTEGRATION from the variable of that name, with the type of the app's default."""
    # Each has its own queue, so that neither a lot of mail nor the project's other tasks delay the sweep.
    queues = {"QUEUE": "mail", "SWEEP_QUEUE": "mail.sweep", "HIGH_QUEUE": "mail.high", "BULK_QUEUE": "mail.bulk"}
    defaults = {**conf.DEFAULTS, **queues}
    values: dict[str, Any] = {}
    for key, default in defaults.items():
        match default:
            case bool():
                values[key] = env.boolean(key, default)
            case int():
                values[key] = env.whole(key, default, at_least=0 if key in conf.MAY_BE_ZERO else 1)
            case float():
                values[key] = env.seconds(key, default, zero=key in conf.MAY_BE_ZERO)
            case list():
                values[key] = env.listed(key, default)
            case dict():
                values[key] = env.named(key)
            case _:
                values[key] = env.text(key, default)
    values["IN_DOUBT"] = env.one_of("IN_DOUBT", defaults["IN_DOUBT"], ("resend", "hold"))
    values["REDIRECT_ALL_TO"] = env.addresses("REDIRECT_ALL_TO")
    values["ALLOWED_RECIPIENTS"] = env.recipients("ALLOWED_RECIPIENTS")
    if values["PAYLOAD_STORAGE"] not in STORAGES:
        raise WrongValue("PAYLOAD_STORAGE", f"must be one of {', '.join(STORAGES)}, not {values['PAYLOAD_STORAGE']!r}")
    values["WORKER_METRICS_PORT"] = env.whole("WORKER_METRICS_PORT", 0, at_least=0, at_most=65535)
    values["SMTP_PASSWORD_KEYS"] = env.fernet_keys("SMTP_PASSWORD_KEYS", [])
    if DEBUG and not values["SMTP_PASSWORD_KEYS"]:
        key = env.kept("SMTP_PASSWORD_KEYS", VAR_DIR / "smtp_password_key", lambda: Fernet.generate_key().decode())
        values["SMTP_PASSWORD_KEYS"] = [key]
    if values["CACHE"] not in CACHES:
        raise WrongValue("CACHE", f"must be one of {', '.join(CACHES)}, not {values['CACHE']!r}")
    if values["LEASE"] <= values["REPLY_TIMEOUT"]:
        raise WrongValue(
            "LEASE",
            f"must be longer than REPLY_TIMEOUT ({values['REPLY_TIMEOUT']:g} s), not {values['LEASE']:g}: "
            "a mail whose claim ends while the server may still reply is sent again",
        )
    for first, longest in conf.BACKOFFS:
        if values[longest] < values[first]:
            raise WrongValue(
                longest, f"must not be shorter than {first} ({values[first]:g} s), not {values[longest]:g}"
            )
    return values


EMAIL_INTEGRATION = _integration()

# Celery

CELERY_BROKER_URL = services.broker_url("BROKER_URL", REDIS_URL)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_TIMEOUT = 2
CELERY_BROKER_TRANSPORT_OPTIONS = services.broker_options(CELERY_BROKER_URL)
CELERY_BROKER_POOL_ACQUIRE_TIMEOUT = 2
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXPIRES = 7 * 24 * 3600
# A worker without --queues serves these. Each has an exchange and a routing key of its own name, as Celery declares a
# queue that is not in the list; with the defaults of kombu's Queue, each message would go to all of them.
CELERY_TASK_QUEUES = services.queues(EMAIL_INTEGRATION)
# Otherwise the worker opens a database connection for each task. config/celery.py has the liveness check for it.
CELERY_DB_REUSE_MAX = 500
CELERY_TIMEZONE = "UTC"
# Beat checks its schedule at least this often, in seconds. After the clock is set back, it would sleep for five
# minutes, even if the clock is corrected before.
CELERY_BEAT_MAX_LOOP_INTERVAL = 5

# Logging: to the console.

LOG_LEVEL = env.one_of("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
LOG_FORMAT = env.one_of("LOG_FORMAT", "console", logs.FORMATS)
LOGGING = logs.settings(LOG_FORMAT, LOG_LEVEL)
if LOG_FORMAT == "json":
    logs.begin(LOGGING)
