"""The documented replies of providers to a submitted mail, and their effect here.

The rows are in ``provider_replies.csv``. ``python -m tests.provider_replies`` writes the same rows to docs/replies.md.
The table has no reply whose page was not read, and no words that only a client or a web page shows.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from email_integration.outcomes.causes import Cause
from email_integration.smtp import Phase

TABLE = Path(__file__).with_suffix(".csv")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "replies.md"

#: Effect of a reply: all mail of the account waits and the circuit breaker opens, only this mail waits, or it fails.
ACCOUNT, WAITS, FAILS = "all mail waits", "this mail waits", "fails"

_MICROSOFT = "https://github.com/MicrosoftDocs/SupportArticles-docs/blob/main/Exchange/ExchangeOnline"
_LEARN = "https://learn.microsoft.com/en-us/exchange"
_COPIES = "https://github.com/azumakuniyuki/feb-2024-no-auth-no-entry/blob/main"

#: The pages by their short names. G1, G2 and H1 are dated copies of Google's and Yahoo's pages.
PAGES = {
    "M1": f"{_MICROSOFT}/email-delivery/ndr/non-delivery-reports-in-exchange-online.md",
    "M2": f"{_LEARN}/troubleshoot/send-emails/smtp-submission-improvements",
    "M3": "https://learn.microsoft.com/en-us/Exchange/mail-flow-best-practices/"
    "continuous-error-throttling-smtp-auth-submissions",
    "M4": f"{_MICROSOFT}/email-delivery/"
    "fix-issues-with-printers-scanners-and-lob-applications-that-send-email-using-off.md",
    "M5": f"{_MICROSOFT}/email-delivery/ndr/fix-error-codes-550-5-7-703-550-5-7-705-550-5-7-708-550-5-7-750.md",
    "M6": f"{_MICROSOFT}/email-delivery/ndr/fix-error-code-550-5-1-8.md",
    "M8": "https://techcommunity.microsoft.com/t5/exchange-team-blog/"
    "changes-coming-to-the-smtp-authenticated-submission-client/ba-p/607825",
    "M10": f"{_MICROSOFT}/email-delivery/ndr/relay-access-denied-smtp.md",
    "M11": f"{_MICROSOFT}/email-delivery/ndr/unable-to-relay-blocked-by-allow-list.md",
    "M12": f"{_MICROSOFT}/email-delivery/ndr/fix-error-code-451-4-7-500-699-asxxx-in-exchange-online.md",
    "M13": f"{_MICROSOFT}/email-delivery/ndr/invalid-message-ndr.md",
    "M14": f"{_MICROSOFT}/email-delivery/ndr/fix-error-code-550-5-1-20-multiple-from-addresses.md",
    "M15": f"{_MICROSOFT}/email-delivery/ndr/remote-server-returned-mailbox-busy.md",
    "G1": f"{_COPIES}/google-3726730-smtp-errors-and-codes/text/google-3726730-smtp-errors-and-codes-2026-02-15.txt",
    "G2": f"{_COPIES}/google-3726730-smtp-errors-and-codes/text/3726730-2023-03-06.txt",
    "G3": "https://support.google.com/a/answer/2956491",
    "A1": "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html",
    "A3": "https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html",
    "A4": "https://aws.amazon.com/blogs/ses/how-to-handle-a-throttling-maximum-sending-rate-exceeded-error",
    "A6": "https://www.repost.aws/ja/knowledge-center/ses-501-errors-smtp-endpoint",
    "S1": "https://www.twilio.com/docs/sendgrid/for-developers/sending-email/smtp-errors-and-troubleshooting",
    "Z1": "https://www.zoho.com/zeptomail/help/api/smtp-error-codes.html",
    "Z2": "https://github.com/zoho/zohodesk-oas/blob/main/v1.0/EmailFailureAlert.json",
    "Y1": "https://www.yandex.com/support/mail/bounces/yandex.html",
    "Y5": "https://yandex.com/support/mail/bounces/yandex/policy-rejection-on-the-target-address.html",
    "H1": f"{_COPIES}/yahoo-senders-smtp-error-codes/text/yahoo-senders-smtp-error-codes-2026-02-15.txt",
    "H3": "https://help.yahoo.com/kb/SLN3436.html",
    "H4": "http://help.yahoo.com/l/in/yahoo/mail/original/abuse/abuse-57.html",
    "H7": "http://postmaster.info.aol.com/errors/",
}


@dataclass(frozen=True)
class Documented:
    """A documented reply: its text as on the page, the phase in which it is sent, and its effect."""

    provider: str
    phase: Phase
    reply: str
    cause: Cause
    ends: str
    pages: str

    @property
    def wire(self) -> str:
        """Return the reply with a code: the usual code if the page has only the enhanced code, or only words."""
        if self.reply[:3].isdigit():
            return self.reply
        return f"{self.reply[0] if self.reply[0] in '45' else '5'}50 {self.reply}"


def _read() -> list[Documented]:
    with TABLE.open(newline="") as file:
        return [
            Documented(row["provider"], Phase(row["to"]), row["reply"], Cause(row["cause"]), row["ends"], row["pages"])
            for row in csv.DictReader(file)
        ]


#: The replies in the order of the table, in which those of each provider are together.
REPLIES = _read()

_WHERE = {
    Phase.GREETING: "the connection",
    Phase.EHLO: "EHLO",
    Phase.AUTH: "AUTH",
    Phase.MAIL: "MAIL",
    Phase.RCPT: "RCPT",
    Phase.DATA: "DATA",
    Phase.FINAL_DOT: "the mail",
}

_HEAD = """\
# Replies of providers

This page lists replies of mail servers and their effect here. The replies are those that providers
document on their own pages, and each has a link to its page. If a page has only the enhanced
code, or only words, the code in front is the usual one. Mailgun, Postmark, Brevo and mail.ru have
no such page that could be read: `outcomes/providers.py` has the known replies of these providers.
Google's and Yahoo's lists were read in dated copies.

- **all mail waits**: the server refuses the account or this machine. No mail fails. The
  [circuit breaker](reliability.md#a-relay-at-fault) opens, and one mail at a time tries again.
- **this mail waits**: the mail is tried again, later each time, until it expires. If the sender is
  the configuration's own, `sender_not_allowed` makes all mail wait, with the cause `config_sender`.
- **fails**: the mail is not tried again. If the reply concerns one recipient, only that recipient
  fails.

The cause is the value that is stored with each attempt, as in
[the metrics](monitoring.md#what-a-worker-counts-its-own-port).

`python -m tests.provider_replies` writes this page.
"""


def page() -> str:
    """Return the text of docs/replies.md."""
    parts = [_HEAD]
    for provider in dict.fromkeys(row.provider for row in REPLIES):
        rows = [row for row in REPLIES if row.provider == provider]
        parts.append(f"## {provider}\n\n| reply | to | cause | effect | page |\n| --- | --- | --- | --- | --- |")
        parts.extend(
            f"| `{row.reply}` | {_WHERE[row.phase]} | `{row.cause}` | {row.ends} | "
            f"{', '.join(f'[{name}]' for name in row.pages.split())} |"
            for row in rows
        )
        parts.append("")
    causes = [f"| `{cause}` | {cause.words} |" for cause in Cause]
    parts += ["## All causes\n\n| cause | in words |\n| --- | --- |", *causes, ""]
    parts += [*(f"[{name}]: {address}" for name, address in PAGES.items()), ""]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
