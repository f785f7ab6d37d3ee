"""What the application has follow a mail: a task that notes the mail's id in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import shared_task

#: The environment variable that names the file.
NOTES = "FAULTS_NOTES"


@shared_task
def follow(result: dict[str, Any], tag: str) -> None:
    """Append a line, in one write, so that processes do not come between."""
    descriptor = os.open(os.environ[NOTES], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{tag} {result['id']}\n".encode())
    finally:
        os.close(descriptor)


def followed(file: Path, tag: str) -> list[str]:
    """The ids that were noted under ``tag``, one for each time."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == tag]
