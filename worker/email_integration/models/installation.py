"""The identity of the installation: all processes with the same database are one installation."""

from __future__ import annotations

import uuid

from django.db import models

from .primary import PrimaryModel


def new_identity() -> str:
    """Return a random id."""
    return str(uuid.uuid4())


class Installation(PrimaryModel):
    """The single row with the random id of this installation, made by the first process that reads it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    identity = models.CharField(max_length=36, default=new_identity)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.identity
