"""The content of a mail, for users who may see it. The history of the mail records each view."""

from __future__ import annotations

import itertools
from typing import Any

from django.contrib.admin.utils import quote, unquote
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _

from email_integration.exceptions import ContentUnavailable
from email_integration.ledger import rows
from email_integration.message import content, previews
from email_integration.models import Delivery

from .typing import DeliveryModelAdmin
from .unavailable import why_unavailable

#: The HTML of a mail is untrusted: it gets no scripts, no forms, no external resources, and no access to this site.
_STRANGER = (
    "sandbox; default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

#: Seconds for which the page that embeds the frame can load it.
_FRAME = 600


def may_see_content(request: HttpRequest) -> bool:
    """Return whether the user may see subjects, addresses, servers' replies and contents.

    One permission covers all of them.
    """
    return request.user.has_perm("email_integration.view_delivery_content")


class ContentViews(DeliveryModelAdmin):
    """A page, the frame in it with the HTML, and the mail itself as a file."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        name = "email_integration_delivery_content"
        return [
            path("<path:object_id>/content/", view(self.content_view), name=name),
            path("<path:object_id>/content/html/", view(self.html_view), name=f"{name}_html"),
            path("<path:object_id>/content/raw/", view(self.raw_view), name=f"{name}_raw"),
            *super().get_urls(),
        ]

    def content_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show headers, text and attachments, and the HTML in a frame."""
        delivery = self._opened(request, object_id)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": _("Content of the mail"),
            "opts": self.opts,
            "delivery": delivery,
            "delivery_id": quote(delivery.pk),
        }
        try:
            shown = previews.preview(delivery)
        except ContentUnavailable as error:
            context["problem"] = why_unavailable(error)
        else:
            self.log_change(request, delivery, _("Its content was viewed."))
            context["preview"] = shown
            address = reverse("admin:email_integration_delivery_content_html", args=[quote(delivery.pk)])
            context["frame"] = f"{address}?key={_signer().sign_object(_whose(request, delivery))}"
        return TemplateResponse(request, "email_integration/content.html", context, headers=_PRIVATE)

    def html_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return the unchanged HTML for the frame. The view of the page that embeds it is already recorded."""
        delivery = self._opened(request, object_id)
        try:
            asked = _signer().unsign_object(request.GET.get("key", ""), max_age=_FRAME)
        except signing.BadSignature:
            raise PermissionDenied from None
        if asked != _whose(request, delivery):
            raise PermissionDenied
        try:
            html = previews.preview(delivery).html
        except ContentUnavailable:
            raise Http404 from None
        headers = {
            **_PRIVATE,
            "Content-Security-Policy": _STRANGER,
            "X-DNS-Prefetch-Control": "off",
            "X-Frame-Options": "SAMEORIGIN",
        }
        return HttpResponse(html, content_type="text/html; charset=utf-8", headers=headers)

    def raw_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Return the mail as a file, with the bytes that go to the server.

        The download is streamed, and aborts on damage.
        """
        delivery = self._opened(request, object_id)
        try:
            whole = content.complete(delivery)
            blocks = whole.blocks()
            first = next(blocks, b"")
        except ContentUnavailable:
            raise Http404 from None
        self.log_change(request, delivery, _("Its content was downloaded."))
        headers = {
            **_PRIVATE,
            "Content-Disposition": content_disposition_header(True, f"{delivery.pk}.eml") or "attachment",
            "Content-Length": str(whole.size),
        }
        return StreamingHttpResponse(
            itertools.chain((first,), blocks), content_type="application/octet-stream", headers=headers
        )

    def _opened(self, request: HttpRequest, object_id: str) -> Delivery:
        if request.method not in ("GET", "HEAD") or not may_see_content(request):
            raise PermissionDenied
        if not self.has_view_permission(request):
            raise PermissionDenied
        delivery = rows.load(unquote(object_id))
        if delivery is None:
            raise Http404
        return delivery


def _signer() -> signing.TimestampSigner:
    return signing.TimestampSigner(salt="email_integration.content")


def _whose(request: HttpRequest, delivery: Delivery) -> list[str]:
    return [delivery.pk, str(request.user.pk)]
