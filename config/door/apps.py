"""The door's own texts and pages, and the admin behind it."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class Door(AppConfig):
    """Templates, style and translations."""

    name = "config.door"
    label = "door"
    default = False


class Admin(AdminConfig):
    """The admin that asks for a password."""

    default_site = "config.door.site.AdminSite"
    default = False


class AdminWithSecondFactor(AdminConfig):
    """The admin that asks for a code as well."""

    default_site = "config.door.second_factor.AdminSite"
    default = False
