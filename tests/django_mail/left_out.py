"""Django's mail tests that cannot apply to our backends, each with its reason.

They are still run and must fail: a test that passes, or that no longer exists, fails the run. Each table applies to the
Django in use. A plain name means the tests of all classes here, 'Class.name' the test of one class.
"""

from __future__ import annotations

import sys

import django

_CONFIGURATION = "where and how to connect is said by the active configuration, not by attributes of the backend"
_CREDENTIALS = "credentials per call are refused: they belong into a configuration, where they are sealed"
_SESSION = "there is no connection to open: sessions are pooled, and opened when a mail is sent"
_SMTPUTF8 = "Django refuses a local part beyond ASCII; ours goes to each server that offers SMTPUTF8"

LEFT_OUT = {
    # Tests of Django's SMTP backend
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
}

CLASSES_LEFT_OUT = {
    "FileBackendTests": "what this backend has in common with the others is run, and the rest is about its files",
    "FileBackendPathLibTests": "the same, with another kind of path",
    "ConsoleBackendTests": "what this backend has in common with the others is run, and the rest is about its output",
}

#: Tests whose mail our backends send in another form than Django's SMTP backend, or do not send.
NOT_THE_SAME: dict[str, str] = {}

_HALF = "half of a character is refused; Django sends octets that are not in the charset it names"

_CRLF = "it looks for a command of smtplib's that we do not use; SameBytes compares every byte"

if django.VERSION < (6, 1):
    LEFT_OUT |= {
        "test_backend_arg": "it ends by asking for Django's backend without naming it, and ours is the default here",
        "test_all_params_can_be_set_before_send": _CREDENTIALS,
        "test_email_msg_uses_crlf": _CRLF,
    }

# These versions of Python can render such a message.
if django.VERSION < (6, 0) and (sys.version_info >= (3, 12, 3) or (3, 11, 9) <= sys.version_info < (3, 12)):
    NOT_THE_SAME |= {"test_nonascii_as_string_with_ascii_charset": _HALF}

if django.VERSION >= (6, 0):
    LEFT_OUT |= {
        "test_rejects_non_ascii_local_part": _SMTPUTF8,
        "test_prep_address_without_force_ascii": "a method for subclasses of Django's backend that speak SMTPUTF8",
    }
    CLASSES_LEFT_OUT |= {
        "DeprecationWarningTests": "about functions of Django's that build and check headers; nothing is sent",
        "UndocumentedFeatureErrorTests": "about attributes that Django's rendering refuses; nothing is sent",
        "LegacyAPINotUsedTests": "about Django's imports",
    }
    NOT_THE_SAME |= {
        "test_message_policy_smtputf8": _SMTPUTF8,
    }

if django.VERSION >= (6, 1):
    LEFT_OUT |= {
        "test_connection_timeout_default": _CONFIGURATION,
        "test_direct_construction_deprecated": _CONFIGURATION,
        "test_email_host_override_settings": _CONFIGURATION,
        "test_email_host_use_settings": _CONFIGURATION,
        "test_email_timeout_use_settings": _CONFIGURATION,
        "test_host_option_required": _CONFIGURATION,
        "test_ignores_settings_when_initialized_with_alias": _CONFIGURATION,
        "test_port_default_adapts_to_security": _CONFIGURATION,
        "test_smtp_connection_uses_host_and_port": _CONFIGURATION,
        "test_smtp_connection_uses_timeout": _CONFIGURATION,
        "test_ssl_context_uses_ssl_certfile_and_keyfile": _CONFIGURATION,
        "test_ssl_tls_settings_mutually_exclusive": _CONFIGURATION,
        "test_serialized_message_uses_crlf_line_ending": _CRLF,
        "OutboxTests.test_fail_silently_arg_accepted": "Django's does not support it; ours does, as SMTPTests shows",
        "test_adds_sent_using_attribute": "its mail has no recipient, and only a backend for tests keeps such a one",
    }
    CLASSES_LEFT_OUT |= {
        "BaseEmailBackendTests": "about Django's base class by itself",
        "DeprecatedEmailSettingsTests": "about the settings, with the defaults of Django; nothing is sent",
        "DeprecatedInternalsTests": "about functions of Django's that build and check headers; nothing is sent",
        "DummyBackendTests": "what this backend has in common with the others is run; it sends nothing",
        "MailersCompatibilityTests": "about MAILERS that are not defined, with backends of Django's",
    }
