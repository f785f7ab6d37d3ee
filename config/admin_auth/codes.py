"""What a second factor is: a device that makes codes (TOTP, RFC 6238), and recovery codes that count once each."""

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

#: Wrong codes cost one second, two, four ...; whoever knows the password holds the others up for no more than the
#: twelfth of these, half an hour, and may guess at fifty of a million codes a day.
_SLOWEST = 12


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of a code.

    Args:
        device: what it is of; None for a wrong one.
        wait: seconds after which a code is looked at again, if this one was not looked at.
        recovery_codes: the new ones, after a device was set up.
    """

    device: Any = None
    wait: int = 0
    recovery_codes: tuple[str, ...] = ()


def check(user: AbstractBaseUser, code: str) -> Verification:
    """Look at a code, of the device or for recovery. It is used up if it is right."""
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
    """The device that is being set up under this key, or a new one.

    The key is known to one session alone: a secret that somebody else has seen must never become the user's.
    """
    device = TOTPDevice.objects.filter(pk=pk, user=user, confirmed=False).first() if pk else None
    return device or TOTPDevice.objects.create(user=user, name="Authenticator", confirmed=False)


def confirm(user: AbstractBaseUser, device: Any, code: str, *, instead: bool) -> Verification:
    """Set the device up if it has made this code, and make recovery codes.

    Args:
        instead: whether it may take the place of another one, which is gone then, with its recovery codes.
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
    """How many recovery codes the user has."""
    return int(StaticToken.objects.filter(device__user=user, device__confirmed=True).count())


def picture(device: Any) -> SafeString:
    """The secret as a QR code, in SVG, dark on light whatever is around it."""
    svg = segno.make(device.config_url, micro=False).svg_inline(scale=4, dark="#000", light="#fff")
    return mark_safe(svg)  # noqa: S308 - made of squares


def secret(device: Any) -> str:
    """The secret as text, in groups of four."""
    return " ".join(re.findall(".{1,4}", b32encode(device.bin_key).decode()))
