"""The times of a mail, as every page shows them."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext_lazy

from email_integration.models import Delivery
from email_integration.timezones import exactly

from .next_tries import WAITING, next_attempt
from .typing import DeliveryModelAdmin


class ExactTimes(DeliveryModelAdmin):
    """Read-only fields with seconds and zone, which Django's own display leaves out."""

    @admin.display(description=gettext_lazy("submitted at"))
    def submitted(self, delivery: Delivery) -> str:
        return exactly(delivery.created_at)

    @admin.display(description=gettext_lazy("due at"))
    def due(self, delivery: Delivery) -> str:
        """Return the time of the next attempt, or of the last one that was planned. There is none during a pause."""
        moment = next_attempt(delivery) if delivery.current_status in WAITING else delivery.due_at
        return "–" if moment is None else exactly(moment)

    @admin.display(description=gettext_lazy("expires at"))
    def expires(self, delivery: Delivery) -> str:
        return exactly(delivery.expires_at)

    @admin.display(description=gettext_lazy("finished at"))
    def finished(self, delivery: Delivery) -> str:
        return "–" if delivery.finished_at is None else exactly(delivery.finished_at)
