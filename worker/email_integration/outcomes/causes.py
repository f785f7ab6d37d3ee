"""The causes of an attempt's end: a stored code for programs, and a sentence for people.

``recognition`` finds the cause in a server's reply, and ``classification`` decides its meaning for the mail.
"""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Every way an attempt or a delivery can end, apart from plain acceptance.

    The value is stored: it has at most ``LONGEST`` characters, and never changes. ``words`` are shown, and may change.
    They contain neither addresses nor the server's text.
    """

    words: str

    def __new__(cls, value: str, words: str = "") -> Cause:
        cause = str.__new__(cls, value)
        cause._value_ = value
        cause.words = words
        return cause

    # -- the login and the encryption --
    STARTTLS_FIRST = "starttls_first", "the server requires an encrypted connection"
    PASSWORDS_OFF = (
        "passwords_off",
        "the server does not accept logins with user name and password: basic authentication is turned off",
    )
    LOCKED = "locked", "the server says the account is locked or disabled"
    TOO_MANY_LOGINS = "too_many_logins", "too many logins have failed: the server accepts no login for some time"
    TOKEN = (
        "token",  # a word
        "the server refused the OAuth token: check its scope, and whether the app may send for this mailbox",
    )
    APP_PASSWORD = (
        "app_password",  # a word
        "the server refused the login: it requires an app password with the user name",
    )
    LOGIN = "login", "the server refused the login: check the user name and password of the configuration"
    LOGIN_NEEDED = "login_needed", "the server requires a login: check the user name and password of the configuration"
    LOGIN_LATER = "login_later", "the server cannot process the login or set up encryption at the moment"
    # -- the account --
    ACCOUNT_RATE = "account_rate", "the account sends faster than its provider allows"
    ACCOUNT_QUOTA = "account_quota", "the account has used up its sending quota for now"
    ACCOUNT_CREDIT = "account_credit", "the plan of the account has ended, or its credit is used up"
    ACCOUNT_BLOCKED = "account_blocked", "the provider has blocked the account from sending"
    ACCOUNT_IP = "account_ip", "the provider does not accept mail of the account from this IP address"
    ACCOUNT_FULL = "account_full", "the mailbox of the sending account is full"
    # -- the host --
    LIMIT = "limit", "the server's sending limit is reached"
    UNAVAILABLE = "unavailable", "the server is not available at the moment"
    CLIENT = "client", "the server does not accept mail from the address of this machine"
    RELAYING = "relaying", "the server does not relay mail for us"
    DENIED = "denied", "the server denies access"
    # -- the sender --
    SENDER = "sender", "the server does not accept the sender"
    SENDER_NOT_ALLOWED = "sender_not_allowed", "the account is not allowed to send with this sender"
    CONFIG_SENDER = "config_sender", "the server refused the configuration's sender; correct its from_email"
    UNPROVEN = "unproven", "the server cannot verify that the mail comes from its sender (SPF, DKIM or DMARC)"
    # -- the recipient --
    TOO_MANY_RECIPIENTS = "too_many_recipients", "too many recipients at a time"
    NO_MAILBOX = "no_mailbox", "the server says the mailbox does not exist"
    MOVED = "moved", "the server says the mailbox has moved"
    DISABLED = "disabled", "the mailbox is disabled"
    FULL = "full", "the mailbox is full"
    MAILBOX_BUSY = "mailbox_busy", "the mailbox receives too much mail at the moment"
    BAD_ADDRESS = "bad_address", "the address is not allowed"
    NO_DOMAIN = "no_domain", "the domain of the address does not exist"
    NO_MAIL_DOMAIN = "no_mail_domain", "the domain of the address does not accept mail"
    LIST = "list", "the mailing list does not accept our mail"
    UNWANTED = "unwanted", "the server does not accept our mail for this address"
    # -- the mail --
    TOO_BIG = "too_big", "the mail is too big"
    SPAM = "spam", "the server's policy refuses the mail: it looks like spam"
    VIRUS = "virus", "the server's policy refuses the mail: its content looks dangerous"
    POLICY = "policy", "the server's policy refuses the mail"
    CONTENT = "content", "the server cannot handle the mail's content"
    NO_SMTPUTF8 = "no_smtputf8", "the server does not accept addresses with non-ASCII characters (no SMTPUTF8)"
    # -- the server --
    GREYLISTED = "greylisted", "the server asks us to try again later: greylisting"
    BUSY = "busy", "the server is busy and asks us to try again later"
    NO_SPACE = "no_space", "the server has no space left"
    TROUBLE = "trouble", "the server has an internal problem"
    NETWORK = "network", "the server cannot forward the mail"
    LOOP = "loop", "the server says the mail is in a loop"
    PROTOCOL = "protocol", "the server did not understand a command"
    OUT_OF_TURN = "out_of_turn", "the server's reply does not fit the command"
    # A reply without a reason: permanent, and temporary.
    REFUSED = "refused", "refused by the server"
    PUT_OFF = "put_off", "temporarily refused by the server"
    # -- no reply: the connection --
    NOT_CONNECTED = "not_connected", "no connection to the server could be opened"
    TLS_FAILED = "tls_failed", "the TLS connection could not be set up"
    NOT_OFFERED = "not_offered", "the server does not offer a feature that the settings require"
    CONNECTION_LOST = "connection_lost", "the connection was lost"
    SILENT = "silent", "the server did not answer in time"
    MALFORMED = "malformed", "the server's reply is not valid SMTP"
    IN_DOUBT = "in_doubt", "the server did not reply to the final dot: it may have the mail"
    # -- no reply: this app --
    NO_TOKEN = "no_token", "there is no OAuth token to log in with"  # a word
    POOL_BUSY = "pool_busy", "all sessions with the server are in use"
    SESSION_ENDED = "session_ended", "the session ended before this mail was sent"
    TOO_SLOW = "too_slow", "the lease would have expired before the reply"
    PAUSED = "paused", "sending is paused"
    NO_RELAY = "no_relay", "there is no server to send through"
    UNUSABLE = "unusable", "the configuration cannot be used"
    SETTINGS = "settings", "the settings of the project are not valid"
    WITHHELD = "withheld", "withheld: not in ALLOWED_RECIPIENTS"
    CONTENT_UNAVAILABLE = "content_unavailable", "the content of the mail cannot be read"
    DAMAGED = "damaged", "the row of the mail cannot be read"
    WORKER_LOST = "worker_lost", "the worker was lost"
    INTERNAL_ERROR = "internal_error", "an internal error of the application"
    # -- ended without an attempt --
    EXPIRED = "expired", "not accepted in time"
    CANCELLED = "cancelled", "cancelled"
    DISCARDED = "discarded", "discarded by a user"
    NO_RECIPIENTS = "no_recipients", "no recipient is left"
    ERASED = "erased", "erased"


#: Maximum length of a value in characters: the size of the columns.
LONGEST = 32


def words_of(value: str) -> str:
    """Return the words of a stored cause. For a cause that this version does not know, return the value itself."""
    try:
        return Cause(value).words
    except ValueError:
        return value


# -- groups ---------------------------------------------------------------------------------------------------------

#: The server refuses the login, and will do so until a person acts.
REFUSED_LOGIN = frozenset(
    {
        Cause.PASSWORDS_OFF,
        Cause.LOCKED,
        Cause.TOO_MANY_LOGINS,
        Cause.TOKEN,
        Cause.APP_PASSWORD,
        Cause.LOGIN,
        Cause.LOGIN_NEEDED,
    }
)

#: About the login, and so about this app and not about the mail, in any phase (RFC 4954 §4 and §6, RFC 3207 §4).
ABOUT_LOGIN = REFUSED_LOGIN | {Cause.STARTTLS_FIRST, Cause.LOGIN_LATER}

#: About the account that sends. A reply is recognised as one of these only if it is a provider's own, comes before any
#: recipient is named, or says 'your' plan. Therefore they apply in every phase.
ACCOUNT_WIDE = frozenset(
    {
        Cause.ACCOUNT_RATE,
        Cause.ACCOUNT_QUOTA,
        Cause.ACCOUNT_CREDIT,
        Cause.ACCOUNT_BLOCKED,
        Cause.ACCOUNT_IP,
        Cause.ACCOUNT_FULL,
    }
)

#: The mail is not the cause.
ABOUT_US = ABOUT_LOGIN | ACCOUNT_WIDE | {Cause.LIMIT, Cause.UNAVAILABLE}

#: No server has decided these: this app, its settings, or a person.
NOT_BY_SERVER = frozenset(
    {
        Cause.NO_TOKEN,
        Cause.POOL_BUSY,
        Cause.SESSION_ENDED,
        Cause.TOO_SLOW,
        Cause.PAUSED,
        Cause.NO_RELAY,
        Cause.UNUSABLE,
        Cause.SETTINGS,
        Cause.WITHHELD,
        Cause.CONTENT_UNAVAILABLE,
        Cause.DAMAGED,
        Cause.WORKER_LOST,
        Cause.INTERNAL_ERROR,
        Cause.EXPIRED,
        Cause.CANCELLED,
        Cause.DISCARDED,
        Cause.NO_RECIPIENTS,
        Cause.ERASED,
    }
)

#: An administrator can fix these, and no mail fails until then. Only this mail waits: others may be accepted.
ADMIN_FIXABLE = frozenset({Cause.RELAYING, Cause.CLIENT, Cause.SENDER_NOT_ALLOWED})

#: These end without an action, often soon, and trying again costs nothing: failed logins are not among them.
ENDS_BY_ITSELF = frozenset(
    {
        Cause.NOT_CONNECTED,
        Cause.TLS_FAILED,
        Cause.NOT_OFFERED,
        Cause.CONNECTION_LOST,
        Cause.SILENT,
        Cause.MALFORMED,
        Cause.NO_TOKEN,
        Cause.UNAVAILABLE,
        Cause.BUSY,
        Cause.LIMIT,
        Cause.ACCOUNT_RATE,
    }
)
