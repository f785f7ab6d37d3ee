"""The texts of the advice, by their heading in docs/configuration.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Text

#: The text of each advice, by its heading in docs/configuration.md.
ADVICE: dict[str, Text] = {
    "name": _("No server with the name {host} was found. Check the spelling, or ask the provider for the name."),
    "refused": _(
        "No program listens on port {port} of {host}. Check host and port: 587 is usual with STARTTLS, 465 with TLS. "
        "Some networks block these ports."
    ),
    "unreachable": _("This machine cannot reach {host}. Check the network, the firewall and the host name."),
    "timeout": _(
        "{host} did not answer on port {port} within {timeout} seconds. Often a firewall drops the connection: many "
        "hosting providers block port 25, and some block 465 and 587. If the server is only slow, raise the timeout."
    ),
    "silence": _(
        "The server ended the connection or stopped answering. Try again. If it happens each time, the server may "
        "limit connections, the port may belong to something other than a mail server, or something on the way, such "
        "as a virus scanner, may interfere."
    ),
    "tls-from-the-start": _(
        "The server accepts the connection and sends nothing, as a server does that waits for encryption. Try TLS from "
        "the start: choose the encryption TLS (465). If that changes nothing, the server refuses this machine, is "
        "slower than the timeout allows, or is not a mail server."
    ),
    "tls-by-starttls": _(
        "The encryption is TLS, but the server on port {port} starts without encryption. Choose STARTTLS, or enter the "
        "port for TLS, usually 465."
    ),
    "not-smtp": _(
        "Another kind of server answers on port {port} of {host}. Enter the port for SMTP: usually 587 with STARTTLS, "
        "or 465 with TLS."
    ),
    "lmtp": _(
        "The server on port {port} of {host} speaks LMTP, which delivers mail into mailboxes, and not SMTP. Enter the "
        "port for SMTP: usually 587 with STARTTLS, 465 with TLS, or 25."
    ),
    "ehlo-name": _(
        "The server does not accept the name by which this machine introduces itself (EHLO). Enter a name that it "
        "accepts in the field 'EHLO name', under 'Advanced': usually the full domain name of this machine."
    ),
    "port-and-encryption": _(
        "Port and encryption do not fit together. Ports 587 and 25 require STARTTLS; port 465 requires TLS."
    ),
    "starttls": _(
        "The server does not offer STARTTLS on port {port}. Try port 587, or port 465 with TLS. Choose no encryption "
        "only for a server on your own network."
    ),
    "starttls-first": _("The server requires encryption first. Choose STARTTLS for port 587 or 25, TLS for port 465."),
    "tls-version": _(
        "The server and this machine have no TLS version in common. The server is probably too old: it should support "
        "TLS 1.2 or later."
    ),
    "tls-refused": _(
        "The server ended the TLS handshake. The failed step shows the reason that the server gave. If the reason is a "
        "fault of the server, its operator has to fix it. Check that you entered the host as the provider writes it, "
        "or try the other combination: port 465 with TLS instead of 587 with STARTTLS, or the reverse."
    ),
    "tls-name": _(
        "The server does not know the name {host}. Enter the host as the provider writes it; an alias or a numeric "
        "address does not work."
    ),
    "tls-client-certificate": _(
        "The server asks for a client certificate. Logins by client certificate are not supported. Ask the provider "
        "for a port that accepts username and password."
    ),
    "certificate": _(
        "The server's certificate is not signed by an authority that this machine trusts. For your own server, paste "
        "the certificate of its authority into the field 'Certificate authority', under 'Advanced'. Otherwise ask the "
        "provider."
    ),
    "certificate-name": _(
        "The server's certificate is for another name than {host}. Enter the name that is in the certificate; a "
        "numeric address rarely works."
    ),
    "certificate-expired": _(
        "The server's certificate has expired. The operator of the server has to renew it. If it looks valid, check "
        "the clock of this machine."
    ),
    "login-not-offered": _(
        "The server offers no login on this connection. Many servers offer one only on an encrypted connection: choose "
        "STARTTLS or TLS. If the server needs no login, leave the username blank."
    ),
    "token-not-offered": _(
        "The server offers no OAuth login on this connection. Many servers offer one only on an encrypted connection: "
        "choose STARTTLS or TLS. If it offers none even then, choose the password."
    ),
    "token": _(
        "The server does not accept the OAuth token. Check that the scope is right, that the username is the mailbox, "
        "that the registered app may send for the mailbox, and that SMTP is turned on for it."
    ),
    "token-endpoint": _(
        "No OAuth token could be fetched; the step above shows the reason. Check the token endpoint, the client id, "
        "the secrets and the scope, and check that this machine can reach the endpoint."
    ),
    "login-needed": _(
        "A login is missing: enter username and password. If you have entered them, choose STARTTLS or TLS as well: "
        "many servers offer a login only on an encrypted connection."
    ),
    "password": _(
        "The server does not accept the username and password. Enter the password again. The username is often the "
        "whole mail address; services such as Amazon SES have a separate username for SMTP."
    ),
    "app-password": _(
        "The server does not accept this password. Google and others require an app password: turn on 2-Step "
        "Verification for the account, make an app password (at https://myaccount.google.com/apppasswords for Google), "
        "and enter it here instead of the password of the account."
    ),
    "basic-auth": _(
        "Microsoft has turned off password logins for this mailbox or tenant. An administrator can turn on "
        "'Authenticated SMTP' for the mailbox in the Microsoft 365 admin center; the security defaults may have to be "
        "changed as well."
    ),
    "locked": _(
        "The account is locked or disabled. Log in with a browser and follow the instructions there, or ask the "
        "administrator of the account. Then test again."
    ),
    "too-many-logins": _("Too many logins have failed. Wait for a while, correct the password, then test once."),
    "ip-address": _(
        "The server does not accept mail from the IP address of this machine. Ask the provider to allow it, or check "
        "in the provider's console which addresses may connect. If the reply names a block list, the site of the list "
        "explains how to be removed."
    ),
    "relaying": _(
        "The server does not relay our mail to that recipient. Log in with username and password, or ask the operator "
        "of the server to allow this machine."
    ),
    "sender": _(
        "The server does not accept mail with this sender. Use a from email that belongs to the account, or verify the "
        "address or its domain with the provider."
    ),
    "recipient": _("The server does not accept mail for that recipient. Check the address."),
    "greylisting": _(
        "This is greylisting: the server defers mail from a sender that it does not know yet, and accepts it at a "
        "later try. This is normal, and the settings are right. It ends after some minutes; the app tries the mail "
        "again until then."
    ),
    "connections": _(
        "The server limits the number of connections at a time, and the connections of this app may fill that limit: "
        "each worker process opens up to “connections at a time”, or as many as the setting SESSIONS says. Lower "
        "“connections at a time”, or run fewer worker processes."
    ),
    "server-fault": _(
        "The server has an error in its configuration, or another internal problem. Neither the settings here nor the "
        "sender are the cause. The operator of the server finds the details in its log. The app tries the mail again."
    ),
    "later": _("The server asks to try again later, often because of a limit on logins or mails. Wait some minutes."),
    "in-doubt": _(
        "The server did not say whether it accepted the mail. Check whether the mail has arrived before you send it "
        "again."
    ),
    "other": _("The server's reply above says what is wrong; the documentation of the provider explains it."),
}
