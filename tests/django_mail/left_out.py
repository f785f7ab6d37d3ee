"""Django's mail tests that cannot apply to our backends, each with its reason.

They are run all the same and must fail: one that passes, or is not there any more, fails the run.
"""

from __future__ import annotations

_CONFIGURATION = "where and how to connect is said by the active configuration, not by attributes of the backend"
_CREDENTIALS = "credentials per call are refused: they belong into a configuration, where they are sealed"
_SESSION = "there is no connection to open: sessions are pooled, and opened when a mail is sent"
_DOMAIN = "an address without a domain is refused at once: no relay knows whose it is"

LEFT_OUT = {
    # Addresses
    "test_lazy_addresses": _DOMAIN,  # SMTPTests has one with domains
    "test_recipient_without_domain": _DOMAIN,
    # get_connection()
    "test_backend_arg": "it ends by asking for Django's backend without naming it, and ours is the default here",
    "test_all_params_can_be_set_before_send": _CREDENTIALS,
    # Of Django's SMTP backend
    "test_auth_attempted": _CREDENTIALS,
    "test_email_authentication_override_settings": _CREDENTIALS,
    "test_email_authentication_use_settings": _CONFIGURATION,
    "test_email_disabled_authentication": _CONFIGURATION,
    "test_connection_timeout_custom": _CONFIGURATION,
    "test_email_ssl_attempts_ssl_connection": _CONFIGURATION,
    "test_email_ssl_certfile_default_disabled": _CONFIGURATION,
    "test_email_ssl_certfile_override_settings": _CONFIGURATION,
    "test_email_ssl_certfile_use_settings": _CONFIGURATION,
    "test_email_ssl_default_disabled": _CONFIGURATION,
    "test_email_ssl_keyfile_default_disabled": _CONFIGURATION,
    "test_email_ssl_keyfile_override_settings": _CONFIGURATION,
    "test_email_ssl_keyfile_use_settings": _CONFIGURATION,
    "test_email_ssl_override_settings": _CONFIGURATION,
    "test_email_ssl_use_settings": _CONFIGURATION,
    "test_email_timeout_override_settings": _CONFIGURATION,
    "test_email_tls_attempts_starttls": _CONFIGURATION,
    "test_email_tls_default_disabled": _CONFIGURATION,
    "test_email_tls_override_settings": _CONFIGURATION,
    "test_email_tls_use_settings": _CONFIGURATION,
    "test_ssl_tls_mutually_exclusive": _CONFIGURATION,
    "test_reopen_connection": _SESSION,
    "test_reopen_replaces_partial_connection": _SESSION,
    "test_send_messages_after_open_failed": _SESSION,
    "test_server_open": _SESSION,
    "test_fail_silently_on_connection_error": _SESSION,
    "test_email_msg_uses_crlf": "it looks for a command of smtplib's that we do not use; SameBytes compares every byte",
}

CLASSES_LEFT_OUT = {
    "FileBackendTests": "what this backend has in common with the others is run, and the rest is about its files",
    "FileBackendPathLibTests": "the same, with another kind of path",
    "ConsoleBackendTests": "what this backend has in common with the others is run, and the rest is about its output",
}
