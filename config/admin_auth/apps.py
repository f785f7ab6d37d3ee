"""The pages of the admin's login, their texts, and the admin sites that use them."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class AdminAuth(AppConfig):
    """Templates, style and translations."""

    name = "config.admin_auth"
    label = "admin_auth"
    default = False


class Admin(AdminConfig):
    """The admin that asks for a password."""

    default_site = "config.admin_auth.site.AdminSite"
    default = False


class AdminWithSecondFactor(AdminConfig):
    """The admin that asks for a code as well."""

    default_site = "config.admin_auth.second_factor.SecondFactorAdminSite"
    default = False
