"""The single setting, ``EMAIL_INTEGRATION``: its keys, their defaults, and the function that reads them.

Settings are read on each use, so ``override_settings`` works and no value is fixed at import.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

#: Every key of ``settings.EMAIL_INTEGRATION`` with its default. Times are in seconds.
DEFAULTS: dict[str, Any] = {
    # How often beat wakes the queues that have due mail, and recovers the batches of lost processes.
    "SWEEP_INTERVAL": 5.0,
    # Backoff of a mail after a transient failure: exponential between these two values, with full jitter.
    "RETRY_FIRST": 5.0,
    "RETRY_MAX": 900.0,
    # The time until a failing relay is probed, for all mail that waits for it: exponential between these two values.
    "BREAKER_PROBE_FIRST": 5.0,
    "BREAKER_PROBE_MAX": 900.0,
    # A mail without 'expires_at' that is not accepted within this time is given up (RFC 5321 §4.5.4.1).
    "GIVE_UP_AFTER": 5 * 24 * 3600.0,
    # How long to wait for the reply to the final dot (RFC 5321 §4.5.3.2.6 asks for minutes).
    "REPLY_TIMEOUT": 120.0,
    # How long a process owns a batch after the claim and after each record; must be longer than REPLY_TIMEOUT.
    "LEASE": 150.0,
    # How to handle a mail in doubt, which the server may or may not have: 'resend' or 'hold'.
    "IN_DOUBT": "resend",
    # A mail that kills its worker process this many times in a row, as the only mail in progress, is quarantined.
    "QUARANTINE_AFTER": 3,
    # Whether the contents of mails are encrypted in the database and in the storage, with the keys of the passwords.
    "ENCRYPT_CONTENT": True,
    # Contents with more octets than the threshold are kept in this storage (a key of STORAGES), if it exists.
    "PAYLOAD_STORAGE": "email_integration",
    "PAYLOAD_STORAGE_THRESHOLD": 256 * 1024,
    # Finished deliveries are deleted after this many days, with their attempts and results ...
    "RETENTION_DAYS": 30,
    # ... and the contents of accepted mails after this many days; 0 deletes them at once.
    "CONTENT_RETENTION_DAYS": 0,
    # The right-hand side of the Message-IDs that this app makes; '' is the name of the host.
    "MESSAGE_ID_DOMAIN": "",
    # How long a process may use its copy of the active configuration without asking the database.
    "CONFIG_CACHE_TTL": 5.0,
    # The Django cache that carries the configuration generation; must be shared by all processes.
    "CACHE": "default",
    # The Celery queues of deliveries and of the sweep; '' means the queue that Celery chooses.
    "QUEUE": "",
    "SWEEP_QUEUE": "",
    # The queues of deliveries with priority 'high' and 'bulk'; '' means the queue of all other deliveries.
    "HIGH_QUEUE": "",
    "BULK_QUEUE": "",
    # How long a submission may wait for the broker, once per transaction.
    "BROKER_TIMEOUT": 1.0,
    # How many SMTP sessions a process uses at the same time.
    "SESSIONS": 10,
    # The folder of the journals, where each process notes its mails in progress; '' is one below the temporary folder.
    "JOURNAL_DIR": "",
    # How many mails of a batch may be in doubt when their process dies and there is no journal.
    "IN_DOUBT_WINDOW": 5,
    # An SMTP session is closed after this much idle time, this age, or this many transactions.
    "SESSION_MAX_IDLE": 30.0,
    "SESSION_MAX_AGE": 300.0,
    "SESSION_MAX_TRANSACTIONS": 100,
    # How many times one attempt tries to open a session.
    "CONNECT_TRIES": 2,
    # Refuse to activate a configuration that has not passed a connection test since its last change.
    "REQUIRE_TEST_BEFORE_ACTIVATE": False,
    # Accept mail and send none, whatever the database says: for a restored backup.
    "EMAIL_PAUSED": False,
    # For copies of a production database: send everything to these addresses instead ...
    "REDIRECT_ALL_TO": [],
    # ... and send only to these addresses and domains; [] means to all recipients.
    "ALLOWED_RECIPIENTS": [],
    # /readyz reports a failure when a mail of priority 'high' or 'normal' has been due for this long.
    "QUEUE_AGE_LIMIT": 900.0,
    # How often alerts are evaluated; 0 means never.
    "ALERT_INTERVAL": 30.0,
    # The time until the notification of an active alert is repeated; 0 means never.
    "ALERT_REPEAT": 24 * 3600.0,
    # How long a server must accept no mail before people are notified. A refused login is notified at once.
    "ALERT_RELAY_AFTER": 300.0,
    # How many days before the expiry of an OAuth client secret or certificate people are notified.
    "SECRET_ENDS_WITHIN": 14,
    # The name of the SMTP configuration that sends alerts to ADMINS, one that is not active; '' sends none.
    "ALERT_CONFIGURATION": "",
    # The URL that alerts are posted to as JSON: https, or http on this machine.
    "ALERT_WEBHOOK_URL": "",
    # Whether OpenTelemetry spans are made for each mail; needs opentelemetry-api.
    "TRACES": False,
    # The bearer token that a request for /metrics must send; '' means that the page does not exist.
    "METRICS_TOKEN": "",
    # The host and port where each worker serves the metrics of its processes; port 0 means that they count nothing.
    "WORKER_METRICS_HOST": "127.0.0.1",
    "WORKER_METRICS_PORT": 0,
    # Whether log lines contain the recipients of mails.
    "LOG_ADDRESSES": False,
    # Whether each view of a mail's page, and of the history of a configuration, is recorded.
    "AUDIT_VIEWS": False,
    # The Fernet keys that encrypt SMTP passwords, newest first.
    "SMTP_PASSWORD_KEYS": [],
    # The references that a password or an OAuth secret may be given as: patterns such as 'env:SMTP_*'.
    "SECRET_REFERENCES": [],
    # Further kinds of references: a dotted path of a class for each.
    "SECRET_PROVIDERS": {},
    # How long a process caches a secret that it has read, and how long it waits to read one.
    "SECRET_TTL": 60.0,
    "SECRET_TIMEOUT": 5.0,
}

#: The numeric keys that may be zero: read each time, close at once, keep nothing, serve nothing.
MAY_BE_ZERO = frozenset(
    {
        "ALERT_INTERVAL",
        "ALERT_REPEAT",
        "CONFIG_CACHE_TTL",
        "SESSION_MAX_IDLE",
        "CONTENT_RETENTION_DAYS",
        "PAYLOAD_STORAGE_THRESHOLD",
        "SECRET_TTL",
        "WORKER_METRICS_PORT",
    }
)

#: The first and the longest wait of each backoff.
BACKOFFS = (("RETRY_FIRST", "RETRY_MAX"), ("BREAKER_PROBE_FIRST", "BREAKER_PROBE_MAX"))

#: The cache of Django's settings object, which Django clears when a setting changes. Reading from it takes a tenth of
#: the time of reading the attribute, and each mail reads settings some dozens of times.
_kept: dict[str, Any] = vars(settings)


def get(key: str) -> Any:
    """Return the current value of ``EMAIL_INTEGRATION[key]``, or its default. Times are in seconds.

    Raises ``ImproperlyConfigured`` when the setting is not a dictionary, and ``KeyError`` for a key that does not
    exist.
    """
    default = DEFAULTS[key]
    given = _kept["EMAIL_INTEGRATION"] if "EMAIL_INTEGRATION" in _kept else getattr(settings, "EMAIL_INTEGRATION", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured("EMAIL_INTEGRATION must be a dictionary of the keys in email_integration.conf.")
    return given.get(key, default)
