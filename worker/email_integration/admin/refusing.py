"""Refuse a page to users without its permission, and name the permission."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


class MissingPermission(PermissionDenied):
    """The user lacks a permission, such as 'email_integration.pause_sending'."""

    def __init__(self, permission: str) -> None:
        super().__init__(permission)
        self.permission = permission


def require(request: HttpRequest, permission: str) -> None:
    """Raise ``MissingPermission`` if the user does not have it."""
    if not request.user.has_perm(permission):
        raise MissingPermission(permission)
