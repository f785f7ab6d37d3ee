"""``mail.send()``, ``mail.send_many()`` and ``manage.py send_queued_mail``."""

import os

from common import BODY, mail
from django.core.files.base import ContentFile
from django.core.management import call_command
from post_office import mail as office


def _arguments(number):
    given = mail(number)
    return {"recipients": given["to"], "sender": given["from_email"], "subject": given["subject"], "message": BODY}


def submit(number):
    office.send(**_arguments(number))


def submit_together(numbers):
    office.send_many([_arguments(number) for number in numbers])


def flush():
    call_command("send_queued_mail", processes=2)


def submit_large(octets):
    office.send(**_arguments(0), attachments={"large.bin": ContentFile(os.urandom(octets))})
