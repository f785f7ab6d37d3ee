"""``manage.py rotate_smtp_passwords``: encrypt the stored secrets again, with the newest key."""

from __future__ import annotations

import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from email_integration.management.printing import PrintingCommand
from email_integration.message.resealing import reseal
from email_integration.models.rotation import rotate
from email_integration.secrecy import with_secrets


class Command(PrintingCommand):
    """Encrypt all SMTP passwords and the contents of all mails again, with the first of SMTP_PASSWORD_KEYS."""

    help = (
        "Re-encrypt all SMTP passwords, and the contents and subjects of stored mails, with the first of "
        "SMTP_PASSWORD_KEYS, and encrypt passwords found in plain text. Exits with code 1 if some of them cannot be "
        "decrypted."
    )

    @with_secrets
    def handle(self, *args: Any, **options: Any) -> None:
        """Print the numbers, and the names of configurations that failed."""
        try:
            done, contents = rotate(), reseal()
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{_passwords(len(done.rotated))} re-encrypted with the newest key.")
        if done.sealed:
            self.stdout.write(f"{_passwords(len(done.sealed))} found in plain text and encrypted.")
        if done.current:
            self.stdout.write(f"{_passwords(len(done.current))} already encrypted with the newest key.")
        if contents.rotated:
            self.stdout.write(f"{_mails(contents.rotated)} re-encrypted with the newest key.")
        if contents.current:
            self.stdout.write(f"{_mails(contents.current)} already encrypted with the newest key.")
        if contents.subjects_rotated:
            self.stdout.write(f"{_subjects(contents.subjects_rotated)} re-encrypted with the newest key.")
        for name in done.unreadable:
            self.stdout.write(
                f"✗ “{name}”: no key in SMTP_PASSWORD_KEYS can decrypt its password. Put the key that encrypted it at "
                "the end of SMTP_PASSWORD_KEYS and run this command again, or enter the password again in the admin."
            )
        for name in done.misplaced:
            self.stdout.write(
                f"✗ “{name}”: a secret in this row was encrypted for another row or another field, so it is not used. "
                "Enter it again in the admin."
            )
        if contents.unreadable:
            self.stdout.write(
                f"✗ {_mails(contents.unreadable)} that no key in SMTP_PASSWORD_KEYS can decrypt. Put the missing key "
                "at the end of SMTP_PASSWORD_KEYS and run this command again. Until then, this mail waits."
            )
        if contents.subjects_unreadable:
            self.stdout.write(
                f"✗ {_subjects(contents.subjects_unreadable)} that no key in SMTP_PASSWORD_KEYS can decrypt. The "
                "admin does not show them."
            )
        if contents.claimed:
            self.stdout.write(
                f"✗ Not re-encrypted, because mails are being sent: {contents.claimed}. Run this command again."
            )
        if done.unreadable or done.misplaced or contents.unreadable or contents.subjects_unreadable or contents.claimed:
            sys.exit(1)


def _passwords(number: int) -> str:
    return "1 password" if number == 1 else f"{number} passwords"


def _subjects(number: int) -> str:
    return "The subject of 1 mail" if number == 1 else f"The subjects of {number} mails"


def _mails(number: int) -> str:
    return "The content of 1 mail" if number == 1 else f"The contents of {number} mails"
