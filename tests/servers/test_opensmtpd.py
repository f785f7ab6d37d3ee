"""OpenSMTPD's handling of our mail."""

from __future__ import annotations

import pytest

from .opensmtpd import OpenSMTPD
from .tried import test_all_mail_arrives, test_contents_are_those_that_django_sends

__all__ = ["test_all_mail_arrives", "test_contents_are_those_that_django_sends"]

pytestmark = [pytest.mark.extra, pytest.mark.django_db(transaction=True)]

SERVER = OpenSMTPD
