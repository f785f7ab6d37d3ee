"""The second factor: a device that generates codes (TOTP, RFC 6238), and recovery codes for one use each."""

from __future__ import annotations

import math
import re
from base64 import b32encode
from dataclasses import dataclass
from typing import Any

import segno
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from django_otp import user_has_device
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

RECOVERY_CODES = 10

#: Wrong codes lock for one second, two, four and so on, up to the twelfth of these, half an hour. An attacker who knows
#: the password can lock the user out for no longer, and can guess fifty of a million codes a day.
_SLOWEST = 12


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of checking a code.

    Args:
        device: the device or recovery set that the code belongs to; None for a wrong code.
        wait: seconds until the next code is checked, if this one was not checked.
        recovery_codes: the new recovery codes, after a device was set up.
    """

    device: Any = None
    wait: int = 0
    recovery_codes: tuple[str, ...] = ()


def check(user: AbstractBaseUser, code: str) -> Verification:
    """Check a code of the device or a recovery code. A correct code cannot be used again."""
    code = _plain(code)
    # Recovery codes have eight letters and digits.
    kind = TOTPDevice if code.isdecimal() and len(code) < 8 else StaticDevice
    with transaction.atomic():
        return _check(kind.objects.devices_for_user(user, confirmed=True).select_for_update(), code)


def _check(devices: Any, code: str) -> Verification:
    wait = 0
    for device in devices:
        device.throttling_failure_count = min(device.throttling_failure_count, _SLOWEST)
        allowed, why = device.verify_is_allowed()
        if not allowed:
            wait = max(wait, math.ceil((why["locked_until"] - timezone.now()).total_seconds()))
        elif device.verify_token(code):
            return Verification(device=device)
    return Verification(wait=wait)


def _plain(code: str) -> str:
    return re.sub(r"[\s-]", "", code).lower()


def pending(user: AbstractBaseUser, pk: object) -> Any:
    """Return the unconfirmed device with this key, or a new one.

    Only one session knows the key, because a secret that another person has seen must never become the user's.
    """
    device = TOTPDevice.objects.filter(pk=pk, user=user, confirmed=False).first() if pk else None
    return device or TOTPDevice.objects.create(user=user, name="Authenticator", confirmed=False)


def confirm(user: AbstractBaseUser, device: Any, code: str, *, instead: bool) -> Verification:
    """Confirm the device if it generated this code, and create recovery codes.

    Args:
        instead: whether it may replace another device, which is then deleted with its recovery codes.
    """
    with transaction.atomic():
        get_user_model().objects.select_for_update().get(pk=user.pk)
        if not instead and user_has_device(user):
            return Verification()
        verification = _check(TOTPDevice.objects.filter(pk=device.pk).select_for_update(), _plain(code))
        if verification.device is None:
            return verification
        TOTPDevice.objects.filter(user=user).exclude(pk=device.pk).delete()
        StaticDevice.objects.filter(user=user).delete()
        verification.device.confirmed = True
        verification.device.save()
        recovery = StaticDevice.objects.create(user=user, name="Recovery codes")
        codes = tuple(StaticToken.random_token() for _ in range(RECOVERY_CODES))
        StaticToken.objects.bulk_create(StaticToken(device=recovery, token=code) for code in codes)
    return Verification(device=verification.device, recovery_codes=codes)


def left(user: AbstractBaseUser) -> int:
    """Return how many recovery codes the user has left."""
    return int(StaticToken.objects.filter(device__user=user, device__confirmed=True).count())


def picture(device: Any) -> SafeString:
    """Return the secret as a QR code in SVG, dark on light in any theme."""
    svg = segno.make(device.config_url, micro=False).svg_inline(scale=4, dark="#000", light="#fff")
    return mark_safe(svg)  # noqa: S308 - contains only squares


def secret(device: Any) -> str:
    """Return the secret as text, in groups of four characters."""
    return " ".join(re.findall(".{1,4}", b32encode(device.bin_key).decode()))
