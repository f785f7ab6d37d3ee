"""A page that shows a mail grows with the mail, but only to a size that a browser can handle.

Work is counted in calls, and sizes in octets: neither depends on how busy the machine is.
"""

from __future__ import annotations

import base64
import re
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from email_integration.message import content, previews
from email_integration.models import Delivery
from tests.deliveries import RecordingTaskQueue, pretend, submitted
from tests.integration.admin_site import logged_in

pytestmark = [pytest.mark.extra, pytest.mark.django_db]

MEGABYTE = 1_000_000
_LIST = "/admin/email_integration/delivery/"


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


@pytest.fixture
def reader() -> Client:
    """The browser of a user who may see contents."""
    return logged_in("view_delivery", "view_delivery_content")


def kept(data: bytes) -> Delivery:
    delivery = submitted("kim@example.com")
    content.store(delivery, data)
    delivery.save()
    return delivery


def pages(data: bytes, reader: Client) -> tuple[str, str]:
    """Return the page of a content, and the frame in it."""
    delivery = kept(data)
    page = reader.get(reverse("admin:email_integration_delivery_content", args=[delivery.pk]))
    assert page.status_code == 200
    frame = reader.get(page.context["frame"])
    assert frame.status_code == 200
    return page.content.decode(), frame.content.decode()


def related(html: str, pictures: dict[str, bytes]) -> bytes:
    parts = [b"Content-Type: text/html; charset=utf-8\r\n\r\n" + html.encode()]
    for name, picture in pictures.items():
        head = f"Content-Type: image/png\r\nContent-ID: <{name}>\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        parts.append(head.encode() + base64.encodebytes(picture).replace(b"\n", b"\r\n"))
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts)
    return b"Subject: s\r\nContent-Type: multipart/related; boundary=b\r\n\r\n" + body + b"--b--\r\n"


def preview(data: bytes) -> previews.Preview:
    delivery = Delivery()
    content.store(delivery, data)
    return previews.preview(delivery)


IS_CUT = "only its beginning is shown"


# -- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["cid:p", "CID:p", "cid:p#x", "cid:p)cid:p"])
def test_a_picture_named_thousands_of_times(named: str, reader: Client) -> None:
    """Without the limit, 225 kB of mail become 600 MB of HTML."""
    data = related(f"<img src='{named}'>" * 4_000, {"p": b"x" * 110_000})
    assert len(data) < 0.3 * MEGABYTE
    page, frame = pages(data, reader)
    assert len(frame) < 2 * MEGABYTE
    assert len(page) < MEGABYTE
    if "#" not in named:
        assert "data:image/png;base64," in frame
        assert IS_CUT in page


def test_thousands_of_pictures_named_thousands_of_times(reader: Client) -> None:
    pictures = {f"p{number}": bytes([number % 256]) * 1_000 for number in range(2_000)}
    html = "".join(f"<img src=cid:{name}>" for name in pictures) * 20
    data = related(html, pictures)
    _page, frame = pages(data, reader)
    assert len(frame) < 2 * len(data) + MEGABYTE + 100_000


def test_one_part_under_many_names_is_no_more_than_its_size(reader: Client) -> None:
    _page, frame = pages(related("<img src=cid:p>" * 10, {"p": b"x" * 3_000_000}), reader)
    assert len(frame) < 5 * MEGABYTE


def test_each_picture_of_an_honest_mail_is_shown(reader: Client) -> None:
    pictures = {f"photo{number}": bytes([number]) * 300_000 for number in range(10)} | {"logo": b"l" * 5_000}
    html = "".join(f"<img src='cid:{name}'>" for name in pictures) + "<img src='cid:logo'>" * 50
    page, frame = pages(related(html, pictures), reader)
    assert "cid:" not in frame
    assert IS_CUT not in page
    for picture in pictures.values():
        assert base64.b64encode(picture).decode() in frame


# -- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("octets", [b"'", b"&", b"\xff", b"\xe4", b"\n", b"<a>", "\U0001f600".encode()])
@pytest.mark.parametrize("kind", ["plain", "html"])
def test_a_text_of_what_grows_when_it_is_shown(octets: bytes, kind: str, reader: Client) -> None:
    head = f"Content-Type: text/{kind}; charset=utf-8\r\n\r\n".encode()
    delivery = kept(head + octets * (6 * MEGABYTE // len(octets)))
    response: Any = reader.get(reverse("admin:email_integration_delivery_content", args=[delivery.pk]))
    assert len(response.content) < 4 * MEGABYTE
    assert IS_CUT in response.content.decode()
    assert len(reader.get(response.context["frame"]).content) < 9 * MEGABYTE


HEADERS = {
    "a hundred thousand headers": b"X: y\r\n" * 100_000,
    "as many that grow when they are shown": b"X: '\"&<\r\n" * 100_000,
    "large ones": b"".join(b"X-%d: " % number + b"'" * 50_000 + b"\r\n" for number in range(100)),
    "one": b"Subject: " + b"'" * 5_000_000 + b"\r\n",
    "one that is folded": b"Subject: x" + b"\r\n '" * 1_000_000 + b"\r\n",
    "names": b"".join(b"'" * 1_000 + b": x\r\n" for number in range(4_000)),
    "encoded words": b"Subject: " + b"=?utf-8?q?=27?=\r\n " * 200_000 + b"x\r\n",
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name: str, reader: Client) -> None:
    delivery = kept(HEADERS[name] + b"\r\ntext of the mail")
    page = reader.get(reverse("admin:email_integration_delivery_content", args=[delivery.pk])).content
    assert len(page) < MEGABYTE
    assert IS_CUT in page.decode()
    assert len(reader.get(_LIST).content) < MEGABYTE


PARTS = {
    "a hundred thousand parts": b"--b\r\n\r\n\r\n" * 100_000,
    "names of attachments": (b"--b\r\nContent-Type: x/y; name=" + b"'" * 100_000 + b"\r\n\r\nx\r\n") * 40,
    "types of attachments": (b"--b\r\nContent-Type: x/" + b"'" * 100_000 + b"\r\n\r\nx\r\n") * 40,
    "parameters": (b"--b\r\nContent-Type: x/y" + b"; name*0=''" * 20_000 + b"\r\n\r\nx\r\n") * 20,
    "boundaries that are none": b"\r\n--bx" * 500_000,
    "lines": b"\r\n" * 2_000_000,
}


@pytest.mark.parametrize("name", PARTS)
def test_parts(name: str, reader: Client) -> None:
    data = b"Subject: s\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + PARTS[name]
    assert len(pages(data, reader)[0]) < MEGABYTE


def test_the_list_of_large_subjects(reader: Client) -> None:
    for _number in range(30):
        kept(b"Subject: " + b"'" * 60_000 + b"\r\n\r\n")
    assert len(reader.get(_LIST).content) < MEGABYTE


def test_ten_thousand_recipients(reader: Client) -> None:
    """Each recipient has a reply of the server."""
    item = {"address": f"{'k' * 60}@{'x' * 60}.example", "status": "failed", "code": 550, "reply": "'" * 500}
    delivery = pretend(submitted("kim@example.com"), recipients=[item] * 10_000, status="failed")
    for address in (_LIST, reverse("admin:email_integration_delivery_change", args=[delivery.pk])):
        assert len(reader.get(address).content) < 2 * MEGABYTE


# -- work and memory ------------------------------------------------------------------------------------------------


def calls(function: Callable[[], object]) -> int:
    """Return the number of function calls."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(trace)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def nested(depth: int, lines: int) -> bytes:
    heads = (f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(depth))
    return "".join(heads).encode() + b"\r\n" * lines


WORK: dict[str, Callable[[int], bytes]] = {
    "nested multiparts with lines": lambda n: nested(n // 1_000, n),
    "nested multiparts of one boundary": lambda n: (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * (n // 50)
    ),
    "headers": lambda n: b"X: y\r\n" * n,
    "folded lines": lambda n: b"X: y" + b"\r\n y" * n,
    "encoded words": lambda n: b"Subject: " + b"=?utf-8?q?a?= " * n,
    "encoded words without end": lambda n: b"Subject: " + b"=?utf-8?q?" * n,
    "parts": lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * n,
    "boundaries that are none": lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"\r\n--bx" * n,
    "pictures": lambda n: related("<img src=cid:p>" * n, {"p": b"x" * 1_000}),
    "parameters": lambda n: b"Content-Type: x/y" + b";a=b" * n,
    "punycode": lambda n: b"Content-Type: text/plain; charset=punycode\r\n\r\n" + b"a-bcdefg" * n,
}


@pytest.mark.parametrize("name", WORK)
def test_work_does_not_grow_with_the_square(name: str) -> None:
    """Four times the mail takes at most about four times the work, and never more than a fixed limit for a page."""
    build = WORK[name]
    few, many = calls(lambda: preview(build(25_000))), calls(lambda: preview(build(100_000)))
    assert many < 6 * few + 10_000
    assert many < 1_500_000


@pytest.mark.parametrize("name", WORK)
def test_memory_is_a_few_times_the_mail(name: str) -> None:
    data = WORK[name](100_000)
    tracemalloc.start()
    try:
        preview(data)
        _now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * len(data) + 8 * MEGABYTE


def test_no_picture_is_loaded_from_elsewhere(reader: Client) -> None:
    """The size limit does not bypass the frame's content security policy."""
    delivery = kept(related("<img src=cid:p>" * 3_000, {"p": b"x" * 100_000}))
    page = reader.get(reverse("admin:email_integration_delivery_content", args=[delivery.pk]))
    frame = reader.get(page.context["frame"])
    assert "img-src data:;" in frame.headers["Content-Security-Policy"]
    assert not re.search(r"src=(?!data:image/png;base64,|cid:p)", frame.content.decode())
