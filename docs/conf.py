"""Sphinx: these pages as a site, with a reference out of the docstrings. 'make docs' builds it into var/docs."""

from __future__ import annotations

import os
from secrets import token_urlsafe

import django
from cryptography.fernet import Fernet

# autodoc imports what it describes; nothing of this machine's .env shall change a page.
os.environ.update(ENV_FILE="", SECRET_KEY=token_urlsafe(50), SMTP_PASSWORD_KEYS=Fernet.generate_key().decode())
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

project = "celery-mail-dispatch"
author = "celery-mail-dispatch contributors"
copyright = f"2026, {author}"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = project
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

autodoc_member_order = "bysource"
