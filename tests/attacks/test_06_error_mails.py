"""No mail that a project's ``AdminEmailHandler`` writes about an error contains a secret, wherever the error occurs.

The test raises an error in each function, one after the other, that has a planted secret among its variables: in the
app, in Django, and in the libraries that they call.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from cryptography.fernet import Fernet
from django.conf import settings as project
from django.contrib.auth import get_user_model
from django.core import mail
from django.core.cache import cache
from django.core.mail.backends import locmem
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils.log import AdminEmailHandler

from config.admin_auth.attempts import LoginAttempt
from email_integration import aio, references, routing
from email_integration.backends.direct import EmailBackend
from email_integration.exceptions import SecretUnavailable
from email_integration.ledger.queues import queue_of
from email_integration.models import SMTPConfig
from email_integration.models.oauth import Grant
from email_integration.routing import families
from email_integration.routing.token_endpoint import Account, fetch, redeem
from email_integration.smtp import NoToken, Refused, Session
from email_integration.smtpd import SMTPServer
from email_integration.tasks import dispatch
from tests.deliveries import attempt, submitted
from tests.deliveries import mail as message
from tests.integration.admin_site import config, form_of, url
from tests.mail_settings import EMAIL_NAMES, of_mail
from tests.private_keys import key, pem
from tests.relays import relay_to
from tests.scripted import ScriptedServer
from tests.token_endpoint import CLIENT, SECRET, TokenEndpoint

from .secrets import found_in, new
from .test_08_echoed_auth import EchoingAuth

pytestmark = [
    pytest.mark.extra,
    pytest.mark.django_db,
    pytest.mark.usefixtures("fresh_process", "task_queue", "error_mails"),
    # An error at the end of the function that connects leaves a connection without a reference.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

#: Not in a variable of a function here, because the mail would show it.
PLANTED: list[str] = []
SERVERS: dict[str, Any] = {}
_GIVEN: dict[str, Any] = {}


class Arisen(RuntimeError):
    """The error that the test raises."""


def planted(kind: str) -> str:
    """Return the planted secret of that kind; it is the same in each run of one test."""
    if kind not in _GIVEN:
        _GIVEN[kind] = pem(key()) if kind == "private key" else new(kind)
        PLANTED.append("".join(_GIVEN[kind].splitlines()[3:5]) if kind == "private key" else _GIVEN[kind])
    return str(_GIVEN[kind])


@pytest.fixture
def error_mails(settings: Any) -> Iterator[None]:
    """A project that mails its errors, with Django's error page attached."""
    settings.DEBUG = False
    settings.ADMINS = ["ada@example.com"] if django.VERSION >= (6, 0) else [("Ada", "ada@example.com")]
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    PLANTED.clear()
    _GIVEN.clear()
    handler = AdminEmailHandler(include_html=True)
    SERVERS["handler"] = handler
    handler.setLevel(logging.ERROR)
    # On the root logger, as for everything that a project runs: tasks as well as pages.
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    SERVERS.clear()


# -- functions that hold secrets --------------------------------------------------------------------------------------


TESTS = str(Path(__file__).parents[1])

#: Where Django reads a request, before it knows which view will answer it.
BEFORE_ANY_VIEW = ("django/core/handlers/wsgi.py", "django/http/request.py", "django/http/multipartparser.py")


def has_secret(value: Any, depth: int = 0) -> bool:
    """Return whether the mail would show a secret in this variable."""
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            value = bytes(value).decode("latin-1")
        except ValueError:
            return False  # a released memoryview
    if isinstance(value, str):
        return any(secret in value or secret in value.replace("\n", "") for secret in PLANTED)
    if isinstance(value, dict):
        return depth < 4 and any(has_secret(one, depth + 1) for one in [*value.values()][:200])
    if isinstance(value, list | tuple | set):
        return depth < 4 and any(has_secret(one, depth + 1) for one in [*value][:200])
    return False


def holders(run: Callable[[], object]) -> dict[CodeType, str]:
    """Return the functions that have a secret among their variables when they return, while ``run`` runs."""
    found: dict[CodeType, str] = {}

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if event == "return" and code not in found and any(map(has_secret, frame.f_locals.values())):
            found[code] = f"{code.co_filename}:{code.co_name}"
        return local

    def called(frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        return None if file.startswith(TESTS) or file.endswith(BEFORE_ANY_VIEW) or "/_pytest/" in file else local

    traced(called, run)
    return found


def traced(tracer: Any, run: Callable[[], object]) -> None:
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        run()
    except Exception:  # the result shows in the mails
        pass
    finally:
        sys.settrace(before)


def arising_in(code: CodeType, run: Callable[[], object]) -> None:
    """Call ``run`` and raise an error at the end of the function."""
    done = False

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal done
        if event == "return" and not done and any(has_secret(value) for value in frame.f_locals.values()):
            done = True
            del arg  # the return value, which Django would show
            raise Arisen("raised for this test")
        return local

    def called(frame: FrameType, event: str, arg: Any) -> Any:
        return local if frame.f_code is code and not done else None

    traced(called, run)


def reported(run: Callable[[], object]) -> Callable[[], None]:
    """Report the errors of ``run``, as a project reports those of a task or a command."""

    def reporting() -> None:
        try:
            run()
        except Exception:
            record = logging.LogRecord("shop", logging.ERROR, __file__, 1, "It failed", (), sys.exc_info())
            SERVERS["handler"].emit(record)

    return reporting


def check(run: Callable[[], object], *, before: Callable[[], object] = lambda: None, least: int) -> None:
    """Raise an error in each function that holds a secret, at least ``least`` of them; no mail may show one."""
    before()
    where = holders(run)
    assert len(where) >= least, sorted(where.values())
    leaky: dict[str, list[str]] = {}
    mails = 0
    for code, name in where.items():
        before()
        mail.outbox.clear()
        arising_in(code, run)
        for sent in mail.outbox:
            if not sent.subject.startswith(project.EMAIL_SUBJECT_PREFIX):
                continue
            mails += 1
            pages = [str(one[0]) for one in getattr(sent, "alternatives", ())]
            text = "\n".join([sent.subject, sent.body, *pages])
            if seen := found_in(text.replace("\\n", "").replace("\n", ""), *PLANTED):
                leaky[name] = seen
    assert mails >= least // 2
    assert sorted(leaky) == []


# -- admin pages ------------------------------------------------------------------------------------------------------

OAUTH = {"authentication": "oauth", "oauth_endpoint": "https://login.example.com/token", "oauth_client_id": CLIENT}


def browser(name: str = "root") -> Client:
    """Return a client that turns every exception into an error page."""
    user = get_user_model().objects.filter(username=name).first()
    client = Client(raise_request_exception=False)
    client.force_login(user or get_user_model().objects.create_superuser(name, f"{name}@example.com", "x"))
    return client


def typed(kind: str) -> dict[str, Any]:
    """Return the form fields that a browser sends with a secret of that kind."""
    if kind == "password":
        return {"password": planted(kind)}
    grants = {"refresh token": Grant.REFRESH_TOKEN, "private key": Grant.JWT_BEARER}
    name = f"oauth_{kind.replace(' ', '_')}"
    return {**OAUTH, "oauth_grant": str(grants.get(kind, Grant.CLIENT_CREDENTIALS).value), name: planted(kind)}


KINDS = ["password", "client secret", "refresh token", "private key"]


@pytest.mark.parametrize(
    ("kind", "page"),
    [*((kind, "change") for kind in KINDS), *(("password", page) for page in ("add", "history", "wrong"))],
)
def test_the_form(kind: str, page: str) -> None:
    client = browser()
    SERVERS["form"] = lambda stored: {**form_of(stored), **typed(kind), **({"port": "x"} if page == "wrong" else {})}

    def begin() -> None:
        SMTPConfig.objects.all().delete()
        SERVERS["config"] = config()

    def run() -> None:
        stored = SERVERS["config"]
        if page == "add":
            client.post(url("add"), {**SERVERS["form"](stored), "name": "Another"})
        elif page == "history":
            client.post(url("simple_history", stored.pk, stored.history.first().pk), SERVERS["form"](stored))
        else:
            client.post(url("change", stored.pk), SERVERS["form"](stored))

    typed(kind)
    check(run, before=begin, least=10)


@pytest.mark.parametrize("stored_one", [True, False], ids=["stored", "typed"])
def test_the_connection_test(stored_one: bool, smtp_server: Callable[..., SMTPServer]) -> None:
    client = browser()
    SERVERS["smtp"] = smtp_server(user="user", password=planted("password"))

    def begin() -> None:
        SMTPConfig.objects.all().delete()
        given = {"password": _GIVEN["password"]} if stored_one else {"password": "another"}
        SERVERS["config"] = config(host="localhost", port=SERVERS["smtp"].port, timeout=5, **given)

    def run() -> None:
        stored = SERVERS["config"]
        client.post(url("test", stored.pk), form_of(stored, password="" if stored_one else _GIVEN["password"]))

    check(run, before=begin, least=5)


def test_the_connection_test_by_a_token(smtp_server: Callable[..., SMTPServer]) -> None:
    client = browser()
    with TokenEndpoint() as endpoint:
        SERVERS["smtp"] = smtp_server(check_token=lambda shown: False)
        PLANTED.append(SECRET)

        def begin() -> None:
            SMTPConfig.objects.all().delete()
            given = {**OAUTH, "oauth_endpoint": endpoint.url, "oauth_client_secret": SECRET, "password": ""}
            SERVERS["config"] = config(host="localhost", port=SERVERS["smtp"].port, timeout=5, **given)

        def run() -> None:
            client.post(
                reverse("admin:email_integration_smtpconfig_changelist"),
                {"action": "test_connection", "_selected_action": SERVERS["config"].pk},
            )

        check(run, before=begin, least=5)


@pytest.mark.parametrize("action", ["duplicate", "activate", "test_connection"])
def test_the_actions(action: str) -> None:
    client = browser()

    def begin() -> None:
        SMTPConfig.objects.all().delete()
        SERVERS["config"] = config(host="localhost", port=1, password=planted("password"), timeout=1)

    def run() -> None:
        client.post(url("changelist"), {"action": action, "_selected_action": SERVERS["config"].pk})

    # The first two do not use a secret in plain text.
    check(run, before=begin, least=2 if action == "test_connection" else 0)


@pytest.mark.parametrize("page", ["content", "content_html", "content_raw", "changelist", "change", "resend"])
def test_pages_with_the_content_of_a_mail(page: str) -> None:
    client = browser()
    delivery = submitted(
        "lee@example.com", subject=planted("subject"), body=planted("body"), headers={"X-File": planted("file")}
    )

    def run() -> None:
        name = "admin:email_integration_delivery"
        if page == "changelist":
            client.get(reverse(f"{name}_changelist"))
        elif page == "resend":
            asked = client.post(reverse(f"{name}_changelist"), {"action": "resend", "_selected_action": delivery.pk})
            key = asked.context["key"] if asked.status_code == 200 else ""  # it may have failed
            client.post(reverse(f"{name}_confirm"), {"key": key})
        elif page == "content_html":
            shown = client.get(reverse(f"{name}_content", args=[delivery.pk]))
            client.get(f"{reverse(f'{name}_{page}', args=[delivery.pk])}{shown and ''}")
        else:
            b"".join(client.get(reverse(f"{name}_{page}", args=[delivery.pk])))

    least = {"change": 0, "resend": 1, "content_raw": 1}.get(page, 3)
    check(run, least=least)


def test_the_login() -> None:
    client = Client(raise_request_exception=False)
    get_user_model().objects.create_superuser("kim", "kim@example.com", planted("password"))

    def run() -> None:
        client.post("/admin/login/", {"username": "kim", "password": _GIVEN["password"], "next": "/admin/"})

    check(run, before=cache.clear, least=8)


def test_the_login_before_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """The login limit fails in one request, and the permission check in the others."""

    def broken(*args: Any) -> Any:
        raise Arisen

    monkeypatch.setattr(LoginAttempt, "begin", broken)
    client = Client(raise_request_exception=False)
    client.post("/admin/login/", {"username": "kim", "password": planted("password")})
    monkeypatch.setattr("django.contrib.admin.sites.AdminSite.has_permission", broken)
    stored = config()
    browser().post(url("change", stored.pk), form_of(stored, password=planted("another password")))
    assert len(mail.outbox) == 2
    for sent in mail.outbox:
        assert found_in(f"{sent.body}{sent.alternatives}", *PLANTED) == []


@pytest.mark.parametrize("where", ["the view", "the page"])
def test_secrets_in_an_address(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of a consent, and the address in a search of the delivery list."""

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise Arisen

    client = browser()
    given = {"oauth_grant": Grant.REFRESH_TOKEN, "oauth_client_secret": "x", "password": ""}
    stored = config(**OAUTH, **given)
    if where == "the view":
        monkeypatch.setattr("email_integration.admin.consent._wrong_with", broken)
        client.get(url("consent_back", stored.pk), {"code": planted("code"), "state": planted("state")})
    monkeypatch.setattr("django.template.response.SimpleTemplateResponse.rendered_content", property(broken))
    searched = client.get(reverse("admin:email_integration_delivery_changelist"), {"q": planted("address")})
    assert searched.status_code == 500
    assert len(mail.outbox) == (2 if where == "the view" else 1)
    assert _leaks() == []
    assert all("q = " in sent.body or "code = " in sent.body for sent in mail.outbox)


# -- workers, commands and the project's calls ------------------------------------------------------------------------


def test_an_attempt(smtp_server: Callable[..., SMTPServer]) -> None:
    SERVERS["smtp"] = smtp_server(user="user", password=planted("password"))
    SERVERS["body"] = planted("body")

    def begin() -> None:
        SMTPConfig.objects.all().delete()
        routing.forget()
        config(host="localhost", port=SERVERS["smtp"].port, password=_GIVEN["password"], is_active=True)
        SERVERS["delivery"] = submitted("lee@example.com", body=SERVERS["body"]).pk

    check(reported(lambda: attempt(SERVERS["delivery"])), before=begin, least=5)


def test_a_dispatcher(smtp_server: Callable[..., SMTPServer]) -> None:
    SERVERS["smtp"] = smtp_server(user="user", password=planted("password"))
    SERVERS["body"] = planted("body")

    def begin() -> None:
        SMTPConfig.objects.all().delete()
        routing.forget()
        config(host="localhost", port=SERVERS["smtp"].port, password=_GIVEN["password"], is_active=True)
        SERVERS["deliveries"] = [submitted("lee@example.com", body=SERVERS["body"]).pk for _ in range(2)]

    check(reported(lambda: dispatch.apply(args=[queue_of("normal")], throw=True)), before=begin, least=3)


def test_mail_sent_at_once(smtp_server: Callable[..., SMTPServer]) -> None:
    SERVERS["smtp"] = smtp_server(user="user", password=planted("password"))
    SERVERS["message"] = message("lee@example.com", body="B", from_email="kim@example.com")

    def begin() -> None:
        SMTPConfig.objects.all().delete()
        routing.forget()
        config(host="localhost", port=SERVERS["smtp"].port, password=_GIVEN["password"], is_active=True)

    check(reported(lambda: EmailBackend().send_messages([SERVERS["message"]])), before=begin, least=3)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_a_session(mechanism: str) -> None:
    with ScriptedServer(EchoingAuth(mechanism, str)) as server:
        SERVERS["relay"] = relay_to(server, username="user", password=planted("password"))
        check(reported(lambda: Session.open(SERVERS["relay"])), least=4)


class Purse:
    """A token source that always returns the same token."""

    def __init__(self) -> None:
        self.__token = planted("access token")

    def __repr__(self) -> str:
        return "<Purse>"

    def current(self) -> str:
        return self.__token

    def another(self, refused: str = "") -> str | None:
        return None


def test_a_session_by_a_token(smtp_server: Callable[..., SMTPServer]) -> None:
    server = smtp_server(check_token=lambda shown: True)
    SERVERS["relay"] = relay_to(server, username="user", password="", tokens=Purse())
    check(reported(lambda: Session.open(SERVERS["relay"]).close()), least=3)


@pytest.mark.parametrize("grant", [Grant.CLIENT_CREDENTIALS, Grant.REFRESH_TOKEN, Grant.JWT_BEARER, "code"])
def test_asking_for_a_token(grant: str) -> None:
    given = {
        "endpoint": "", "grant": Grant.CLIENT_CREDENTIALS if grant == "code" else grant, "client_id": CLIENT,
        "client_secret": "", "scope": "", "refresh_token": "", "private_key": "", "mailbox": "user",
    }  # fmt: skip
    name = {Grant.REFRESH_TOKEN: "refresh_token", Grant.JWT_BEARER: "private_key"}.get(grant, "client_secret")  # type: ignore[call-overload]
    given[name] = planted("private key" if name == "private_key" else name)
    with TokenEndpoint() as endpoint:
        given["endpoint"] = endpoint.url
        endpoint.instead = lambda: (
            200, {}, f'{{"access_token": "{planted("access")}", "refresh_token": "{planted("refreshed")}"}}'.encode()
        )  # fmt: skip
        planted("access"), planted("refreshed")
        SERVERS["account"] = Account(**given)
        if grant == "code":
            asked = {"code": planted("code"), "verifier": planted("verifier")}
            SERVERS["code"] = {**asked, "redirect_uri": "https://example.com/"}

        def ask() -> object:
            if "code" in SERVERS:
                return redeem(SERVERS["account"], **SERVERS["code"])
            return fetch(SERVERS["account"])

        check(reported(ask), least=5)


@pytest.mark.parametrize("reference", ["here", "env", "file"])
def test_reading_a_stored_secret(reference: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, settings: Any) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", planted("password"))
    (tmp_path / "smtp").write_text(_GIVEN["password"])
    allowed = ["env:SMTP_PASSWORD", f"file:{tmp_path}/smtp"]
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_REFERENCES": allowed}
    SERVERS["entered"] = {"here": _GIVEN["password"], "env": allowed[0], "file": allowed[1]}[reference]
    config(password=SERVERS["entered"], is_active=True)

    def run() -> None:
        routing.forget()
        routing.active_relay()
        references.check(SERVERS["entered"])
        references.renew(SERVERS["entered"], refused=_GIVEN["password"])
        stored = SMTPConfig.objects.get()
        stored.settings_digest()
        stored.full_clean()
        stored.password = _GIVEN["password"]
        stored.full_clean()
        stored.save()

    def begin() -> None:
        SMTPConfig.objects.all().delete()
        config(password=SERVERS["entered"], is_active=True)

    check(reported(run), before=begin, least=3)


class Outbox(locmem.EmailBackend):
    """Django's backend; it accepts the options of a server and ignores them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{name: value for name, value in options.items() if name not in EMAIL_NAMES})


def test_the_import(settings: Any) -> None:
    given = {"host": "smtp.example.com", "port": 587, "username": "user", "password": planted("password")}
    for name, value in of_mail(f"{__name__}.Outbox", **given, use_tls=True).items():
        setattr(settings, name, value)
    del given, value
    check(reported(lambda: call_command("import_smtp_settings")), before=SMTPConfig.objects.all().delete, least=5)


def test_the_change_of_keys(settings: Any) -> None:
    keys = settings.EMAIL_INTEGRATION["SMTP_PASSWORD_KEYS"]
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "SMTP_PASSWORD_KEYS": [Fernet.generate_key().decode(), *keys],
    }

    def begin() -> None:
        SMTPConfig.objects.all().delete()
        config(password=planted("password"))
        submitted("lee@example.com", body=planted("body"))

    check(reported(lambda: call_command("rotate_smtp_passwords")), before=begin, least=1)


def test_no_error_of_a_thread_is_reported_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """External secret stores are read in a thread, and an error there is reported by its name only."""
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    monkeypatch.setenv("SMTP_PASSWORD", "\udcff" + planted("password"))
    with pytest.raises(SecretUnavailable) as caught:
        references.check("env:SMTP_PASSWORD")
    assert found_in(str(caught.value), *PLANTED) == []
    assert seen == []


# -- the project's calls ----------------------------------------------------------------------------------------------

TAKEN = {"name": "Taken", "host": "smtp.example.com", "from_email": "a@example.com"}

#: Calls with a secret among their arguments but in no variable here, which the database or the model refuses.
CALLS: dict[str, Callable[[], object]] = {
    "the constructor": lambda: SMTPConfig(**SERVERS["given"], unknown=1),
    "create()": lambda: SMTPConfig.objects.create(**SERVERS["given"]),
    "get_or_create()": lambda: SMTPConfig.objects.get_or_create(host="x", defaults=SERVERS["given"]),
    "update_or_create()": lambda: SMTPConfig.objects.update_or_create(host="x", defaults=SERVERS["given"]),
    "update()": lambda: SMTPConfig.objects.update(**SERVERS["given"]),
    "update() of some": lambda: SMTPConfig.objects.filter(pk__gt=0).update(**SERVERS["given"]),
    "update() without a field": lambda: SMTPConfig.objects.update(**SERVERS["given"], unknown=1),
    "bulk_create()": lambda: SMTPConfig.objects.bulk_create([SMTPConfig(**SERVERS["given"])]),
    "acreate()": lambda: async_to_sync(SMTPConfig.objects.acreate)(**SERVERS["given"]),
    "aupdate()": lambda: async_to_sync(SMTPConfig.objects.aupdate)(**SERVERS["given"]),
    "aupdate_or_create()": lambda: async_to_sync(SMTPConfig.objects.aupdate_or_create)(
        host="x", defaults=SERVERS["given"]
    ),
    "a lookup": lambda: SMTPConfig.objects.get(password=SERVERS["given"]["password"]),
    "an exclusion": lambda: SMTPConfig.objects.exclude(password__contains=SERVERS["given"]["password"]).count(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.django_db(transaction=True)
def test_a_call_of_the_model_that_fails(call: Callable[[], object]) -> None:
    config("Taken")
    config("Another", is_active=False)
    SERVERS["given"] = {**TAKEN, "password": planted("password")}
    reported(call)()
    assert _leaks() == []


def _leaks() -> list[str]:
    """Return the planted secrets found in the mails. Frames of this folder count as the project's own."""
    assert mail.outbox
    found = []
    for sent in mail.outbox:
        text = "\n".join([sent.subject, sent.body, *(str(one[0]) for one in getattr(sent, "alternatives", ()))])
        found += found_in(text, *PLANTED)
    return found


@pytest.mark.parametrize("kind", ["password", "user", "seal", "client secret", "refresh token"])
def test_text_that_cannot_be_encoded(kind: str, smtp_server: Callable[..., SMTPServer]) -> None:
    """Django shows the characters around the invalid one, and logs the whole text.

    An environment that is not in UTF-8 can produce such a text.
    """
    SERVERS["text"] = f"{planted('text')[:14]}\udcff{_GIVEN['text'][14:]}"
    PLANTED.append(_GIVEN["text"][8:14])

    def run() -> None:
        if kind in ("password", "user"):
            server = smtp_server(user="user", password="x")
            given = {"username": "user", "password": SERVERS["text"]}
            given = given if kind == "password" else {"username": SERVERS["text"], "password": "s3cret"}
            with contextlib.suppress(Refused):
                Session.open(relay_to(server, **given))
        elif kind == "seal":
            config(password=SERVERS["text"])
        else:
            with TokenEndpoint() as endpoint:
                given = {"client_secret": "", "refresh_token": "", kind.replace(" ", "_"): SERVERS["text"]}
                grant = Grant.REFRESH_TOKEN if kind == "refresh token" else Grant.CLIENT_CREDENTIALS
                more = {"scope": "", "private_key": "", "mailbox": "user", "client_id": CLIENT, "grant": grant}
                with contextlib.suppress(NoToken):
                    families.fetch(Account(**more, **given, endpoint=endpoint.url))
        raise Arisen

    def logged() -> None:
        try:
            run()
        except Exception as error:
            SERVERS["repr"] = repr(error)
            raise

    reported(logged)()
    assert _leaks() == []
    assert found_in(SERVERS["repr"], *PLANTED) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("call", ["asend_email", "asubmit", "asubmit_many"])
def test_async_code(call: str) -> None:
    """The mail is refused."""
    SERVERS["mail"] = {"subject": planted("subject"), "body": planted("body"), "to": ["kim@"]}
    SERVERS["message"] = message("kim@", subject=SERVERS["mail"]["subject"], body=SERVERS["mail"]["body"])

    async def view() -> None:
        if call == "asend_email":
            await aio.asend_email(**SERVERS["mail"])
        elif call == "asubmit":
            await aio.asubmit(SERVERS["message"])
        else:
            await aio.asubmit_many([SERVERS["message"]])

    reported(async_to_sync(view))()
    assert _leaks() == []
