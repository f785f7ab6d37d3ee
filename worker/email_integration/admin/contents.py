"""The content of a mail, for users who may see it. The history of the mail records each view."""

from __future__ import annotations

import re
from collections.abc import Generator
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

from .refusing import MissingPermission, require
from .streaming import in_pieces
from .typing import DeliveryModelAdmin
from .unavailable import why_unavailable

#: The HTML of a mail is untrusted: it gets no scripts, no forms, no external resources, and no access to this site.
_STRANGER = (
    "sandbox; default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
#: Headers of every response with data of mails.
PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}

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
            path(
                "<path:object_id>/content/attachment/<int:number>/",
                view(self.attachment_view),
                name=f"{name}_attachment",
            ),
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
        return TemplateResponse(request, "email_integration/content.html", context, headers=PRIVATE)

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
            **PRIVATE,
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
        return _download(request, first, blocks, name=f"{delivery.pk}.eml", size=whole.size)

    def attachment_view(self, request: HttpRequest, object_id: str, number: int) -> HttpResponseBase:
        """Return an attachment as a file, which no browser displays. ``number`` is its place in the list, from 1."""
        delivery = self._opened(request, object_id)
        if not number:
            raise Http404
        try:
            found, pieces = previews.attachment(delivery, number - 1)
            first = next(pieces, b"")
        except (ContentUnavailable, IndexError):
            raise Http404 from None
        # Not its name, which would stay in the history after the content is erased.
        self.log_change(request, delivery, _("Attachment %(number)s was downloaded.") % {"number": number})
        return _download(request, first, pieces, name=_file_name(found.name) or f"attachment-{number}")

    def _opened(self, request: HttpRequest, object_id: str) -> Delivery:
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        require(request, "email_integration.view_delivery_content")
        if not self.has_view_permission(request):
            raise MissingPermission("email_integration.view_delivery")
        delivery = rows.load(unquote(object_id))
        if delivery is None:
            raise Http404
        return delivery


def _download(
    request: HttpRequest, first: bytes, others: Generator[bytes, None, None], *, name: str, size: int | None = None
) -> StreamingHttpResponse:
    """Return a file to store and not to display, whatever is in it: not even its type is passed on."""

    def pieces() -> Generator[bytes, None, None]:
        yield first
        yield from others

    headers = {
        **PRIVATE,
        "Content-Disposition": content_disposition_header(True, name) or "attachment",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        **({} if size is None else {"Content-Length": str(size)}),
    }
    blocks = in_pieces(request, pieces())
    return StreamingHttpResponse(blocks, content_type="application/octet-stream", headers=headers)


#: Characters that a file name must not contain: separators, controls, and those that change the direction of letters,
#: which can disguise the extension.
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f/\\\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _file_name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name).lstrip(". ")


def _signer() -> signing.TimestampSigner:
    return signing.TimestampSigner(salt="email_integration.content")


def _whose(request: HttpRequest, delivery: Delivery) -> list[str]:
    return [delivery.pk, str(request.user.pk)]
