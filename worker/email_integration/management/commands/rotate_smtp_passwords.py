"""``manage.py rotate_smtp_passwords``: seal what is stored anew, under the newest key."""

from __future__ import annotations

import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from email_integration.message.resealing import reseal
from email_integration.models.rotation import rotate
from email_integration.secrecy import with_secrets


class Command(BaseCommand):
    """Re-encrypt all SMTP passwords, and the contents of all mails, under the first of SMTP_PASSWORD_KEYS."""

    help = (
        "Re-encrypt all SMTP passwords, and the contents of stored mails, under the first of SMTP_PASSWORD_KEYS, and "
        "seal passwords found in plain text. Exits with 1 if there is something that no key opens."
    )

    @with_secrets
    def handle(self, *args: Any, **options: Any) -> None:
        """Say how many, and name those that could not be done."""
        try:
            done, contents = rotate(), reseal()
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{_passwords(len(done.rotated))} re-encrypted under the newest key.")
        if done.sealed:
            self.stdout.write(f"{_passwords(len(done.sealed))} found in plain text and sealed.")
        if done.current:
            self.stdout.write(f"{_passwords(len(done.current))} under the newest key already.")
        if contents.rotated:
            self.stdout.write(f"{_mails(contents.rotated)} re-encrypted under the newest key.")
        if contents.current:
            self.stdout.write(f"{_mails(contents.current)} under the newest key already.")
        for name in done.unreadable:
            self.stdout.write(
                f"✗ “{name}”: no key in SMTP_PASSWORD_KEYS opens its password. Put the key it was sealed with at the "
                "end of SMTP_PASSWORD_KEYS and run this again, or enter the password again in the admin."
            )
        for name in done.misplaced:
            self.stdout.write(
                f"✗ “{name}”: a secret in this row was sealed for another row or another field, and is not opened. "
                "Enter it again in the admin."
            )
        if contents.unreadable:
            self.stdout.write(
                f"✗ {_mails(contents.unreadable)} that no key in SMTP_PASSWORD_KEYS opens. Put the key they were "
                "sealed with at the end of SMTP_PASSWORD_KEYS and run this again; until then they wait."
            )
        if done.unreadable or done.misplaced or contents.unreadable:
            sys.exit(1)


def _passwords(number: int) -> str:
    return "1 password" if number == 1 else f"{number} passwords"


def _mails(number: int) -> str:
    return "The content of 1 mail" if number == 1 else f"The contents of {number} mails"
