"""``aws-secretsmanager:name#key``: AWS Secrets Manager. The AWS libraries are imported only for a lookup."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration import conf
from email_integration.exceptions import SecretUnavailable
from email_integration.web import is_loopback


class SecretsManager:
    """A secret by its name or ARN: the whole text, or the text under one key of its JSON.

    Region, credentials and address come from boto3's usual sources: variables, files, or the machine's role.
    """

    def resolve(self, reference: str) -> str:
        name, sign, key = reference.partition("#")
        secret = _ask(name)
        if secret is None:
            raise SecretUnavailable(format_lazy(_("The secret {name} is not a text."), name=name))
        return _under(key, secret, name) if sign else secret


def _ask(name: str) -> str | None:
    """Return the text of the secret, or None for a binary secret. Raises ``SecretUnavailable``."""
    try:
        from boto3.session import Session
        from botocore.config import Config
        from botocore.exceptions import ClientError
    except ImportError:
        text = _(
            "boto3, which reads from AWS Secrets Manager, is not installed: pip install 'celery-mail-dispatch[aws]'."
        )
        raise SecretUnavailable(text) from None
    patience = conf.get("SECRET_TIMEOUT")
    options = Config(connect_timeout=patience, read_timeout=patience, retries={"total_max_attempts": 2})
    # A separate session: boto3's default session is not thread-safe.
    session = Session()
    client = session.client("secretsmanager", config=options)
    if is_loopback(urlsplit(client.meta.endpoint_url).hostname or ""):
        client.close()
        # For this machine, a proxy of the environment would be another host, which could read the secret.
        client = session.client("secretsmanager", config=options.merge(Config(proxies={})))
    try:
        answer = client.get_secret_value(SecretId=name)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "ResourceNotFoundException":
            raise SecretUnavailable(
                format_lazy(_("AWS Secrets Manager has no secret {name} in this region."), name=name)
            ) from None
        text = _("AWS Secrets Manager did not return the secret {name} ({code}).")
        raise SecretUnavailable(format_lazy(text, name=name, code=code)) from None
    finally:
        client.close()
    secret: str | None = answer.get("SecretString")
    return secret


def _under(key: str, secret: str, name: str) -> str:
    try:
        found = json.loads(secret)[key]
    except (ValueError, LookupError, TypeError):
        found = None
    if not isinstance(found, str):
        text = _("The secret {name} is not JSON with a text under the key {key}.")
        raise SecretUnavailable(format_lazy(text, name=name, key=key)) from None
    return found
