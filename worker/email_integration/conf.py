"""The one setting, ``EMAIL_INTEGRATION``: its keys, their defaults, and how they are read.

Settings are read when they are used, so ``override_settings`` works and nothing is fixed at import.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

#: Every key of ``settings.EMAIL_INTEGRATION`` with its default. Times are in seconds.
DEFAULTS: dict[str, Any] = {
    # How often beat wakes the queues that have mail due, and recovers what a lost process had in hand.
    "SWEEP_INTERVAL": 5.0,
    # Backoff of a mail after a transient failure: exponential between these two, with full jitter.
    "RETRY_FIRST": 5.0,
    "RETRY_MAX": 900.0,
    # The time until a relay at fault is probed, for all mail that waits for it: exponential between these two.
    "BREAKER_PROBE_FIRST": 5.0,
    "BREAKER_PROBE_MAX": 900.0,
    # A mail without 'expires_at' that was not accepted by then is given up (RFC 5321 §4.5.4.1).
    "GIVE_UP_AFTER": 5 * 24 * 3600.0,
    # How long to wait for the reply to the final dot (RFC 5321 §4.5.3.2.6 asks for minutes).
    "REPLY_TIMEOUT": 120.0,
    # How long a batch is its process's own after the claim and each record; must be longer than REPLY_TIMEOUT.
    "LEASE": 150.0,
    # What becomes of a mail that the server may or may not have: 'resend' or 'hold'.
    "IN_DOUBT": "resend",
    # A mail that killed its worker this many times in a row, while it alone was in hand, is put aside.
    "QUARANTINE_AFTER": 3,
    # Whether the contents of mails are sealed in the database and in the storage, with the keys of the passwords.
    "ENCRYPT_CONTENT": True,
    # Contents of more octets than this lie in the storage of this name (a key of STORAGES), if there is one.
    "PAYLOAD_STORAGE": "email_integration",
    "PAYLOAD_STORAGE_THRESHOLD": 256 * 1024,
    # What is finished is deleted after so many days, with its attempts and its result ...
    "RETENTION_DAYS": 30,
    # ... and the contents of what was accepted after so many; 0 deletes them at once.
    "CONTENT_RETENTION_DAYS": 0,
    # The right-hand side of Message-IDs that are made here; '' is the name of the host.
    "MESSAGE_ID_DOMAIN": "",
    # How long a process may use its copy of the active configuration without asking the database.
    "CONFIG_CACHE_TTL": 5.0,
    # The Django cache that carries the configuration generation; must be shared by all processes.
    "CACHE": "default",
    # The Celery queues of deliveries and of the sweep; '' means the queue Celery would choose.
    "QUEUE": "",
    "SWEEP_QUEUE": "",
    # The queues of deliveries with priority 'high' and 'bulk'; '' means that of all others.
    "HIGH_QUEUE": "",
    "BULK_QUEUE": "",
    # How long submitting may wait for the broker, once per transaction.
    "BROKER_TIMEOUT": 1.0,
    # How many SMTP sessions a process sends over at a time.
    "SESSIONS": 10,
    # The folder of the journals, in which each process notes what it has in hand; '' is one below the temporary folder.
    "JOURNAL_DIR": "",
    # How many mails of a batch may be in doubt when its process dies, where there is no journal.
    "IN_DOUBT_WINDOW": 5,
    # An SMTP session is closed after so much idle time, age, or so many transactions.
    "SESSION_MAX_IDLE": 30.0,
    "SESSION_MAX_AGE": 300.0,
    "SESSION_MAX_TRANSACTIONS": 100,
    # How often opening a session is tried within one attempt.
    "CONNECT_TRIES": 2,
    # Refuse to activate a configuration that has not passed a connection test since its last change.
    "REQUIRE_TEST_BEFORE_ACTIVATE": False,
    # Take mail and send none, whatever the database says: for a restored backup.
    "EMAIL_PAUSED": False,
    # For copies of a production database: send everything to these addresses instead ...
    "REDIRECT_ALL_TO": [],
    # ... and write to nobody but these addresses and domains; [] means everybody.
    "ALLOWED_RECIPIENTS": [],
    # /readyz says no when a mail of priority 'high' or 'normal' has been due for so long.
    "QUEUE_AGE_LIMIT": 900.0,
    # How often alerts are evaluated; 0 is never.
    "ALERT_INTERVAL": 30.0,
    # After how long people are notified again of an alert that is still on; 0 is never.
    "ALERT_REPEAT": 24 * 3600.0,
    # For how long a server takes no mail, other than for a login it refuses, before people are notified.
    "ALERT_RELAY_AFTER": 300.0,
    # How many days before a client secret or a certificate of OAuth ends people are notified.
    "SECRET_ENDS_WITHIN": 14,
    # The SMTP configuration, by name, that alerts are written to ADMINS by; '' writes none. One that is not active.
    "ALERT_CONFIGURATION": "",
    # Where alerts are sent to as JSON: https, or http on this machine.
    "ALERT_WEBHOOK_URL": "",
    # Whether spans for OpenTelemetry are made of each mail; needs opentelemetry-api.
    "TRACES": False,
    # Who may read /metrics: whoever sends this as a bearer token; '' means that there is no such page.
    "METRICS_TOKEN": "",
    # Where each worker serves what its processes count, on a port; 0 means that they count nothing.
    "WORKER_METRICS_HOST": "127.0.0.1",
    "WORKER_METRICS_PORT": 0,
    # Whether the lines of the log name the recipients of mails.
    "LOG_ADDRESSES": False,
    # Whether each view of a mail's page, and of the history of a configuration, is recorded.
    "AUDIT_VIEWS": False,
    # The Fernet keys that seal SMTP passwords, newest first.
    "SMTP_PASSWORD_KEYS": [],
    # What a password, or a secret of OAuth, may refer to instead of being one: patterns such as 'env:SMTP_*'.
    "SECRET_REFERENCES": [],
    # More kinds of references: the dotted path of a class for each.
    "SECRET_PROVIDERS": {},
    # How long a process keeps a secret that it has read, and how long it waits for one.
    "SECRET_TTL": 60.0,
    "SECRET_TIMEOUT": 5.0,
}

#: The numbers among them that may be zero: ask each time, close at once, keep nothing, serve nothing.
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

#: The first and the longest wait of each backoff among them.
BACKOFFS = (("RETRY_FIRST", "RETRY_MAX"), ("BREAKER_PROBE_FIRST", "BREAKER_PROBE_MAX"))

#: What Django's settings keep of what they were asked for, and forget when it changes: a look here takes a tenth of the
#: time of asking them, which each mail does some dozens of times.
_kept: dict[str, Any] = vars(settings)


def get(key: str) -> Any:
    """Return the value of ``EMAIL_INTEGRATION[key]`` as it is now, or its default.

    Raises ``ImproperlyConfigured`` when the setting is not a dictionary, and ``KeyError`` for a key
    that does not exist.
    """
    default = DEFAULTS[key]
    given = _kept["EMAIL_INTEGRATION"] if "EMAIL_INTEGRATION" in _kept else getattr(settings, "EMAIL_INTEGRATION", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured("EMAIL_INTEGRATION must be a dictionary of the keys in email_integration.conf.")
    return given.get(key, default)
