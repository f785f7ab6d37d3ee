"""The tasks."""

import os

from celery import shared_task
from django.core import mail


@shared_task
def send(subject, body, from_email, to):
    mail.send_mail(subject, body, from_email, to)


@shared_task
def nothing(subject, body, from_email, to):
    """Leave a mark that costs next to nothing: an octet in a file."""
    marks = os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(marks, b".")
    os.close(marks)
