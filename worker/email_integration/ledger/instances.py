"""Instances of deliveries made of rows that our own statements ask for; a content that was left out is read later."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from django.db import connections
from django.db.models.signals import post_init, pre_init

from email_integration import django_internals
from email_integration.models import Delivery


@functools.cache
def _fields() -> tuple[Any, ...]:
    """The fields of a delivery, the content last."""
    return tuple(sorted(Delivery._meta.concrete_fields, key=lambda one: one.attname == "content"))


@functools.cache
def columns() -> tuple[str, ...]:
    """The columns of a delivery, the content last."""
    return tuple(str(one.column) for one in _fields())


@functools.cache
def _converters(alias: str) -> list[tuple[int, Any, Any]]:
    return django_internals.converters(connections[alias], _fields(), Delivery._meta.db_table)


def of_row(connection: Any, values: Sequence[Any]) -> Delivery:
    """The delivery of a row; a content that was not read is read when it is asked for."""
    row = list(values[: len(_fields())])
    is_left_out = row[-1] is None
    for place, column, convert in _converters(connection.alias):
        row[place] = convert(row[place], column, connection)
    names = [one.attname for one in _fields()]
    if is_left_out:
        names, row = names[:-1], row[:-1]
    if pre_init.has_listeners(Delivery) or post_init.has_listeners(Delivery):
        return Delivery.from_db(connection.alias, names, row)
    return django_internals.stored_instance(Delivery, dict(zip(names, row, strict=True)), using=connection.alias)
