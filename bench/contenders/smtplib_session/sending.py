"""``smtplib.SMTP.sendmail()``."""

import functools
import os
import smtplib
import ssl
from email.utils import make_msgid

from common import message
from django.conf import settings

#: Prepared, except for a Message-ID, which is written before the one in it.
CONTENT = message(0).message().as_bytes(linesep="\r\n")


@functools.cache
def session():
    tls = os.environ["BENCH_SMTP_TLS"]
    context = ssl.create_default_context()
    if tls == "tls":
        smtp = smtplib.SMTP_SSL(settings.EMAIL_HOST, settings.EMAIL_PORT, context=context)
    else:
        smtp = smtplib.SMTP(settings.EMAIL_HOST, settings.EMAIL_PORT)
    if tls == "starttls":
        smtp.starttls(context=context)
    if settings.EMAIL_HOST_USER:
        smtp.login(settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD)
    return smtp


def submit(number):
    name = f"Message-ID: {make_msgid(str(number), 'bench')}\r\n".encode()
    session().sendmail("bench@example.com", ["user@example.com"], name + CONTENT)
