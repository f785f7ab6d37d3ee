"""Helpers shared by the tests of the admin."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from email_integration.models import SMTPConfig

SECRET = "correct horse battery"


def person(*permissions: str, name: str = "kim", superuser: bool = False) -> Any:
    """Return a staff user with these permissions."""
    user = get_user_model().objects.create_user(
        username=name, email=f"{name}@example.com", is_staff=True, is_superuser=superuser
    )
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="email_integration", codename__in=permissions)
    )
    return user


def logged_in(*permissions: str, name: str = "kim", superuser: bool = False) -> Client:
    """Return a client that is logged in as a staff user with these permissions."""
    client = Client()
    client.force_login(person(*permissions, name=name, superuser=superuser))
    return client


def config(name: str = "Primary", **values: Any) -> SMTPConfig:
    """Store and return a configuration with realistic values."""
    given = {
        "host": "smtp.example.com",
        "port": 587,
        "username": "user",
        "password": SECRET,
        "from_email": "Hanna <noreply@example.com>",
        **values,
    }
    return SMTPConfig.objects.create(name=name, **given)


def url(page: str, *args: Any) -> str:
    """Return the address of an admin page of configurations."""
    return reverse(f"admin:email_integration_smtpconfig_{page}", args=args)


def form_of(config: SMTPConfig, **changes: Any) -> dict[str, Any]:
    """Return the form data that a browser sends for ``config``. A change to None leaves the field out.

    ``use_tls`` and ``use_ssl``, in ``config`` and in changes, are sent as the choice of the select.
    """
    columns = [bool(changes.pop(name, getattr(config, name))) for name in ("use_tls", "use_ssl")]
    values: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("name", "host", "port", "username", "ca_certificates", "from_email", "timeout")
    }
    values |= {"is_active": "on"} if config.is_active else {}
    chosen = {(True, False): "starttls", (False, True): "tls", (False, False): "none"}.get((columns[0], columns[1]))
    values |= {"encryption": chosen, "password": "", **changes}
    return {name: value for name, value in values.items() if value is not None}


def list_of(*ticked: SMTPConfig, **more: Any) -> dict[str, Any]:
    """Return the form data that a browser sends for the list with these rows selected, and ``more``."""
    configs = list(SMTPConfig.objects.order_by("name"))
    values: dict[str, Any] = {"form-TOTAL_FORMS": len(configs), "form-INITIAL_FORMS": len(configs), "_save": "Save"}
    values |= more
    for number, row in enumerate(configs):
        values[f"form-{number}-id"] = row.pk
        if row in ticked:
            values[f"form-{number}-is_active"] = "on"
    return values


def said(response: Any) -> str:
    """Return the messages of the page that follows a form, as text."""
    return "\n".join(str(message) for message in response.context["messages"])
