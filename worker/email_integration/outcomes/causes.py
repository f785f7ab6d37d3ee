"""Why an attempt ended as it did: one word for machines, which is stored, and a sentence for people.

``recognition`` finds the cause in a server's reply, ``classification`` decides what it means for the mail.
"""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Every way an attempt or a delivery can end, apart from plain acceptance.

    The value is stored: at most ``LONGEST`` characters, and it never changes. ``words`` are shown, and may change.
    They hold neither addresses nor the server's text.
    """

    words: str

    def __new__(cls, value: str, words: str = "") -> Cause:
        cause = str.__new__(cls, value)
        cause._value_ = value
        cause.words = words
        return cause

    # -- the login and the encryption --
    STARTTLS_FIRST = "starttls_first", "the server wants an encrypted connection first"
    PASSWORDS_OFF = (
        "passwords_off",
        "the server takes no logins by user name and password: basic authentication is turned off",
    )
    LOCKED = "locked", "the server says our account is locked or disabled"
    TOO_MANY_LOGINS = "too_many_logins", "too many logins have failed, and the server wants a pause"
    TOKEN = (
        "token",  # a word
        "the server refused the OAuth token: check its scope, and whether the app may send for this mailbox",
    )
    APP_PASSWORD = (
        "app_password",  # a word
        "the login is wrong: the server wants an app password with the user name",
    )
    LOGIN = "login", "the login is wrong: check user name and password of the configuration"
    LOGIN_NEEDED = "login_needed", "the server wants a login: check user name and password of the configuration"
    LOGIN_LATER = "login_later", "the server cannot set up the login or the encryption at the moment"
    # -- the account --
    ACCOUNT_RATE = "account_rate", "the account sends faster than its provider allows"
    ACCOUNT_QUOTA = "account_quota", "the account has used up what its provider lets it send for now"
    ACCOUNT_CREDIT = "account_credit", "the plan of the account has ended, or its credit is used up"
    ACCOUNT_BLOCKED = "account_blocked", "the provider has stopped the account from sending"
    ACCOUNT_IP = "account_ip", "the provider takes no mail of the account from this IP address"
    ACCOUNT_FULL = "account_full", "the mailbox of the account that sends is full"
    # -- the host --
    LIMIT = "limit", "the server limits how much we send, and the limit is reached"
    UNAVAILABLE = "unavailable", "the server is not available at the moment"
    CLIENT = "client", "the server takes no mail from the address of this machine"
    RELAYING = "relaying", "the server does not relay for us"
    DENIED = "denied", "the server denies us access"
    # -- the sender --
    SENDER = "sender", "the server does not accept the sender"
    SENDER_NOT_ALLOWED = "sender_not_allowed", "the account may not send with this sender"
    CONFIG_SENDER = "config_sender", "the server refused the configuration's sender; correct its from_email"
    UNPROVEN = "unproven", "the server cannot verify that the mail comes from its sender (SPF, DKIM or DMARC)"
    # -- the recipient --
    TOO_MANY_RECIPIENTS = "too_many_recipients", "too many recipients at a time"
    NO_MAILBOX = "no_mailbox", "the server says the mailbox does not exist"
    MOVED = "moved", "the server says the mailbox has moved"
    DISABLED = "disabled", "the mailbox is disabled"
    FULL = "full", "the mailbox is full"
    MAILBOX_BUSY = "mailbox_busy", "the mailbox gets more mail than it takes at a time"
    BAD_ADDRESS = "bad_address", "the address is not allowed"
    NO_DOMAIN = "no_domain", "the domain of the address does not exist"
    NO_MAIL_DOMAIN = "no_mail_domain", "the domain of the address takes no mail"
    LIST = "list", "the mailing list does not take our mail"
    UNWANTED = "unwanted", "the server does not take our mail for this address"
    # -- the mail --
    TOO_BIG = "too_big", "the mail is too big"
    SPAM = "spam", "the server's policy refuses the mail: it looks like spam"
    VIRUS = "virus", "the server's policy refuses the mail: something in it is taken for dangerous"
    POLICY = "policy", "the server's policy refuses the mail"
    CONTENT = "content", "the server cannot handle the mail's content"
    NO_SMTPUTF8 = "no_smtputf8", "the server cannot take addresses with letters beyond ASCII (no SMTPUTF8)"
    # -- the server --
    GREYLISTED = "greylisted", "the server asks us to come back later: greylisting"
    BUSY = "busy", "the server is busy and asks us to come back later"
    NO_SPACE = "no_space", "the server has no space left"
    TROUBLE = "trouble", "the server has trouble of its own"
    NETWORK = "network", "the server cannot pass the mail on"
    LOOP = "loop", "the server says the mail goes round in circles"
    PROTOCOL = "protocol", "the server did not understand us"
    OUT_OF_TURN = "out_of_turn", "the server's answer makes no sense here"
    # A reply that says no more than no: for good, and for now.
    REFUSED = "refused", "the server refused"
    PUT_OFF = "put_off", "the server refused for now"
    # -- no reply: the connection --
    NOT_CONNECTED = "not_connected", "there is no connection to the server"
    TLS_FAILED = "tls_failed", "the connection could not be made secure"
    NOT_OFFERED = "not_offered", "the server does not offer what the settings ask for"
    CONNECTION_LOST = "connection_lost", "the connection was lost"
    SILENT = "silent", "the server did not answer in time"
    MALFORMED = "malformed", "the server's answer is not SMTP"
    IN_DOUBT = "in_doubt", "there was no reply to the final dot: the server may have the mail"
    # -- no reply: us --
    NO_TOKEN = "no_token", "there is no OAuth token to log in with"  # a word
    POOL_BUSY = "pool_busy", "all sessions with the server are in use"
    SESSION_ENDED = "session_ended", "the session ended before the turn of the mail"
    TOO_SLOW = "too_slow", "the claim would have ended before the reply"
    PAUSED = "paused", "sending is paused"
    NO_RELAY = "no_relay", "there is no server to send through"
    UNUSABLE = "unusable", "the configuration cannot be used"
    SETTINGS = "settings", "the settings of the project cannot be understood"
    WITHHELD = "withheld", "withheld: not in ALLOWED_RECIPIENTS"
    CONTENT_UNAVAILABLE = "content_unavailable", "the content of the mail cannot be read"
    DAMAGED = "damaged", "the row of the mail cannot be read"
    WORKER_LOST = "worker_lost", "the worker was lost"
    INTERNAL_ERROR = "internal_error", "an error of the application"
    # -- ended without an attempt --
    EXPIRED = "expired", "not accepted in time"
    CANCELLED = "cancelled", "cancelled"
    DISCARDED = "discarded", "given up by a person"
    NO_RECIPIENTS = "no_recipients", "nobody is left to send it to"
    ERASED = "erased", "erased"


#: Characters of the longest value there may be: what the columns hold.
LONGEST = 32


def words_of(value: str) -> str:
    """Return the words of a stored cause; one that this version does not know stands for itself."""
    try:
        return Cause(value).words
    except ValueError:
        return value


# -- groups ---------------------------------------------------------------------------------------------------------

#: The server does not let us in, and will not until a person does something.
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

#: About our login, and so about us and not about the mail, wherever they come (RFC 4954 §4 and §6, RFC 3207 §4).
ABOUT_LOGIN = REFUSED_LOGIN | {Cause.STARTTLS_FIRST, Cause.LOGIN_LATER}

#: About the account that sends. Only a provider's own reply, one before any recipient is named, or one that says 'your'
#: plan, is recognised as one of these, so that they hold in every phase.
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

#: The mail is not to blame.
ABOUT_US = ABOUT_LOGIN | ACCOUNT_WIDE | {Cause.LIMIT, Cause.UNAVAILABLE}

#: An administrator can fix these, and no mail fails until then. This mail alone waits: others may pass.
ADMIN_FIXABLE = frozenset({Cause.RELAYING, Cause.CLIENT, Cause.SENDER_NOT_ALLOWED})

#: These end by themselves, often soon, and to ask again costs nothing: logins that fail are not among them.
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
