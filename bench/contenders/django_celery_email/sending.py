"""Django's mail API."""

from common import message
from django.core.mail import get_connection


def submit(number):
    message(number).send()


def submit_together(numbers):
    get_connection().send_messages([message(number) for number in numbers])
