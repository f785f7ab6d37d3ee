"""Django's mail API and ``manage.py send_mail``."""

from common import message
from django.core.mail import get_connection
from django.core.management import call_command


def submit(number):
    message(number).send()


def submit_together(numbers):
    get_connection().send_messages([message(number) for number in numbers])


def flush():
    call_command("send_mail")
