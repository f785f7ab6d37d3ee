"""What is said of a failure, by the heading in docs/configuration.md under which there is more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Text

#: What is said, by the heading in docs/configuration.md.
ADVICE: dict[str, Text] = {
    "name": _("There is no server of the name {host}. Look for a typing error, and ask the provider for the name."),
    "refused": _(
        "Nothing listens on port {port} of {host}. Check host and port: 587 is usual with TLS, 465 with SSL. "
        "Some networks block these ports."
    ),
    "unreachable": _(
        "{host} cannot be reached from this machine. Check the network and the firewall, and that the host is right."
    ),
    "timeout": _(
        "{host} did not answer on port {port} within {timeout} seconds. Often a firewall drops the connection: many "
        "providers of servers block port 25, some 465 and 587. If the server is just slow, raise the timeout."
    ),
    "silence": _(
        "The server ended the conversation or fell silent. Try again; if it happens each time, it may limit "
        "connections, the port may belong to something else than a mail server, or something between here and there, "
        "such as a virus scanner, interferes."
    ),
    "tls-from-the-start": _(
        "The server takes the connection and says nothing, as one does that waits for encryption: try TLS from the "
        "start, which is SSL on and TLS off. If that changes nothing, the server refuses this machine, is slower than "
        "the timeout allows, or is no mail server."
    ),
    "tls-by-starttls": _(
        "SSL is on, and the server on port {port} begins in the clear: turn SSL off and TLS on, which is STARTTLS; or "
        "enter the port that is for SSL, usually 465."
    ),
    "not-smtp": _(
        "Another kind of server answers on port {port} of {host}. Enter the port that takes mail: mostly 587 with TLS, "
        "or 465 with SSL."
    ),
    "lmtp": _(
        "The server on port {port} of {host} speaks LMTP, by which mail is put into mailboxes, and not SMTP. Enter the "
        "port that takes mail by SMTP: mostly 587 with TLS, 465 with SSL, or 25."
    ),
    "ehlo-name": _(
        "The server does not accept the name by which this machine introduces itself (EHLO). Enter one that it accepts "
        "into the field 'EHLO name', under 'Advanced': mostly the full domain name of this machine."
    ),
    "port-and-encryption": _(
        "Port and encryption do not fit together. Port 587 (and 25) wants TLS, which is STARTTLS; port 465 wants SSL."
    ),
    "starttls": _(
        "The server does not offer STARTTLS on port {port}. Try port 587, or port 465 with SSL instead of TLS. Turn "
        "encryption off only for a server on your own network."
    ),
    "starttls-first": _("The server wants encryption first: turn TLS on for port 587 or 25, SSL for port 465."),
    "tls-version": _(
        "The server and this machine have no version of TLS in common. The server is probably too old: it should "
        "speak TLS 1.2 or later."
    ),
    "tls-refused": _(
        "The server broke the encryption off. The failed step says what it complained of; a fault of its own has to "
        "be fixed by its operator. Check that the host is written as the provider writes it, or try the other way: "
        "port 465 with SSL instead of 587 with TLS, or the other way round."
    ),
    "tls-name": _(
        "The server does not know itself by the name {host}. Enter the host as the provider writes it; an alias or an "
        "address in numbers does not do."
    ),
    "tls-client-certificate": _(
        "The server asks for a certificate of ours, and there is none: logins by certificate are not supported. Ask "
        "the provider for a port that takes username and password."
    ),
    "certificate": _(
        "The server's certificate is signed by nobody who is trusted here. If it is a server of your own, paste the "
        "certificate of its authority into the field 'Certificate authority', under 'Advanced'. Otherwise ask the "
        "provider."
    ),
    "certificate-name": _(
        "The server's certificate is for another name than {host}. Enter the name that the certificate has; an "
        "address in numbers hardly ever works."
    ),
    "certificate-expired": _(
        "The server's certificate has expired. Whoever runs the server has to renew it. If it looks valid, check the "
        "clock of this machine."
    ),
    "login-not-offered": _(
        "The server offers no login on this connection. Many do so only once it is encrypted: turn TLS or SSL on. If "
        "the server needs no login, leave the username blank."
    ),
    "token-not-offered": _(
        "The server offers no login by OAuth on this connection. Many do so only once it is encrypted: turn TLS or SSL "
        "on. If it offers none even then, choose the password."
    ),
    "token": _(
        "The server does not accept the OAuth token. Check the scope, that the username is the mailbox, that the "
        "registered app may send for it, and that SMTP is turned on for it."
    ),
    "token-endpoint": _(
        "No OAuth token could be fetched, and the step above says why. Check the token endpoint, the client id, the "
        "secrets and the scope, and that this machine can reach the endpoint."
    ),
    "login-needed": _(
        "A login is missing: enter username and password. If they are there, turn TLS or SSL on as well: many servers "
        "offer a login only once the connection is encrypted."
    ),
    "password": _(
        "The server does not accept the username and password. Enter the password again; the username is often the "
        "whole mail address, and for services such as Amazon SES it is one made for SMTP."
    ),
    "app-password": _(
        "The server does not accept this password. Google and others want an app password: turn on 2-Step Verification "
        "for the account, make one (at https://myaccount.google.com/apppasswords for Google) and enter it here instead "
        "of the account's own."
    ),
    "basic-auth": _(
        "Microsoft has turned password logins off for this mailbox or tenant. An administrator can turn on "
        "'Authenticated SMTP' for the mailbox in the Microsoft 365 admin center; security defaults may have to be "
        "changed as well."
    ),
    "locked": _(
        "The account is locked or disabled. Log in to it in a browser and follow what it says, or ask its "
        "administrator; then test again."
    ),
    "too-many-logins": _("Too many logins have failed. Wait a while, correct the password, then test once."),
    "ip-address": _(
        "The server does not take mail from the address of this machine. Ask the provider to allow it, or see in its "
        "console which addresses may connect; a block list named in the reply has a page for removal."
    ),
    "relaying": _(
        "The server does not relay mail for us to that recipient. Log in with username and password, or have the "
        "server allow this machine."
    ),
    "sender": _(
        "The server does not take mail with this sender. Use a from email that belongs to the account, or verify the "
        "address or its domain with the provider."
    ),
    "recipient": _("The server does not take mail for that recipient. Check the address."),
    "greylisting": _(
        "This is greylisting: the server takes mail from senders that it does not know yet only at a second try. It is "
        "normal, and the settings are right. It passes by itself after some minutes; mail is tried again until then."
    ),
    "connections": _(
        "The server limits how many connections it takes at a time, and our own may fill that limit: each worker "
        "process has up to “connections at a time” open, or as many as the setting SESSIONS says. Set the former "
        "lower, or run fewer worker processes."
    ),
    "server-fault": _(
        "The server has a fault in its own configuration, or other trouble of its own; neither the settings here nor "
        "the sender are to blame. Its operator finds more in its log. Mail is tried again by itself."
    ),
    "later": _("The server asks to try again later. It is often a limit on logins or mails: wait some minutes."),
    "in-doubt": _("The server did not say whether it took the mail. Look whether it has arrived before sending again."),
    "other": _("The server's reply above says what it wants; its provider's documentation explains it."),
}
