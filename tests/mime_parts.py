"""Finished MIME parts to attach, in the class that the Django in use accepts: ``MIMEPart`` from 6.0 on."""

from __future__ import annotations

from email import encoders
from email.message import MIMEPart
from email.mime.base import MIMEBase
from email.mime.image import MIMEImage
from email.mime.nonmultipart import MIMENonMultipart
from email.mime.text import MIMEText

import django

MODERN = django.VERSION >= (6, 0)

Part = MIMEPart | MIMEBase


def image_part(content: bytes, *, content_id: str, filename: str | None = None) -> Part:
    """Return a PNG image to show inline."""
    if MODERN:
        made = MIMEPart()
        made.set_content(content, "image", "png", disposition="inline", filename=filename, cid=content_id)
        return made
    image = MIMEImage(content, "png")
    image.add_header("Content-ID", content_id)
    image.add_header("Content-Disposition", "inline", **({"filename": filename} if filename else {}))
    return image


def text_part(text: str) -> Part:
    """Return plain text in UTF-8."""
    if MODERN:
        made = MIMEPart()
        made.set_content(text)
        return made
    return MIMEText(text, "plain", "utf-8")


def bytes_part(content: bytes, subtype: str) -> Part:
    """Return an application's own octets, in base64."""
    if MODERN:
        made = MIMEPart()
        made.set_content(content, "application", subtype)
        return made
    octets = MIMENonMultipart("application", subtype)
    octets.set_payload(content)
    encoders.encode_base64(octets)
    return octets
