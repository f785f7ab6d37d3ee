"""``manage.py import_smtp_settings``: create a configuration from the settings, to replace those in ``.env``."""

from __future__ import annotations

import math
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from email_integration import references, routing, validators
from email_integration.exceptions import SecretUnreadable
from email_integration.management.printing import PrintingCommand
from email_integration.models import SMTPConfig
from email_integration.secrecy import with_secrets
from email_integration.smtp import Relay

_NAME = "Imported from settings"


class Command(PrintingCommand):
    """Create an SMTP configuration from EMAIL_* or MAILERS. A second run changes nothing."""

    help = "Create an SMTP configuration from the current settings (EMAIL_* or MAILERS). A second run changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the name and the options of the import."""
        parser.add_argument("--name", help=f"the name of the configuration (default: {_NAME})")
        parser.add_argument("--activate", action="store_true", help="make it the active configuration")
        parser.add_argument("--dry-run", action="store_true", help="only show what would be done")

    @with_secrets
    def handle(self, *args: Any, **options: Any) -> None:
        """Import, activate, or print why that is not possible."""
        route = routing.settings_relay()
        if isinstance(route, routing.Nowhere):
            raise CommandError(f"There is nothing to import: {route.reason}.")
        values = _values(route)
        config = self._existing(options["name"], values)
        dry = options["dry_run"]
        if config is None:
            config = self._create(options["name"] or _NAME, values, dry=dry)
        else:
            self.stdout.write(f"“{config.name}” already has these settings.")
        if options["activate"]:
            self._activate(config, dry=dry)

    def _existing(self, name: str | None, values: dict[str, Any]) -> SMTPConfig | None:
        """Return the configuration of an earlier import; without ``name``, any configuration with these settings."""
        named = SMTPConfig.objects.filter(name=name or _NAME).first()
        if named is not None:
            if different := _differing(named, values):
                raise CommandError(
                    f"The configuration “{named.name}” exists and has other settings ({', '.join(different)}). "
                    "Give another --name, or change this configuration in the admin."
                )
            return named
        if name is not None:
            return None
        candidates = SMTPConfig.objects.filter(host=values["host"], port=values["port"], username=values["username"])
        return next((config for config in candidates if not _differing(config, values)), None)

    def _create(self, name: str, values: dict[str, Any], *, dry: bool) -> SMTPConfig:
        config = SMTPConfig(name=name, **values)
        try:
            config.full_clean()
        except ValidationError as invalid:
            problems = "; ".join(f"{field}: {' '.join(said)}" for field, said in invalid.message_dict.items())
            raise CommandError(f"The settings cannot be imported. Correct them: {problems}") from None
        self.stdout.write(f"{'Would create' if dry else 'Created'} “{name}”:")
        for field, value in values.items():
            shown = ("set" if value else "none") if field == "password" else value
            self.stdout.write(f"   {field}: {shown}")
        for doubt in _doubts(values):
            self.stdout.write(f"⚠ {doubt}")
        if values["from_email"].endswith("@localhost"):
            self.stdout.write(
                "⚠ Few servers accept mail from this sender. Set DEFAULT_FROM_EMAIL, or change the sender in the admin."
            )
        if not dry:
            setattr(config, "_change_reason", "imported from the settings")  # noqa: B010  # read by simple-history
            config.save()
        return config

    def _activate(self, config: SMTPConfig, *, dry: bool) -> None:
        if config.is_active:
            self.stdout.write(f"“{config.name}” is already active.")
            return
        if not dry:
            try:
                SMTPConfig.objects.activate(config)
            except ValidationError as invalid:
                raise CommandError(" ".join(invalid.messages)) from None
        self.stdout.write(f"{'Would activate' if dry else 'Activated'} “{config.name}”.")


def _values(relay: Relay) -> dict[str, Any]:
    return {
        "host": relay.host,
        "port": relay.port,
        "username": relay.username,
        "password": references.as_password(relay.password),
        "use_tls": relay.use_tls,
        "use_ssl": relay.use_ssl,
        "from_email": relay.from_email,
        "timeout": max(1, math.ceil(relay.timeout)),
    }


def _doubts(values: dict[str, Any]) -> list[str]:
    """Return warnings about probable mistakes: a login without user or password, or extra characters in a password."""
    doubt = validators.doubt_about_secret(values["password"])
    return [
        *validators.login_warnings(username=values["username"], password=bool(values["password"])),
        *([f"The password: {doubt}"] if doubt else []),
    ]


def _differing(config: SMTPConfig, values: dict[str, Any]) -> list[str]:
    try:
        return [field for field, value in values.items() if getattr(config, field) != value]
    except SecretUnreadable as error:
        raise CommandError(f"“{config.name}”: {error}") from None
