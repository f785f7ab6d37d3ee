"""Django's mail API."""

import os

from common import message
from django.core.mail import get_connection


def submit(number):
    message(number).send()


def submit_together(numbers):
    get_connection().send_messages([message(number) for number in numbers])


def submit_large(octets):
    large = message(0)
    large.attach("large.bin", os.urandom(octets), "application/octet-stream")
    large.send()
