"""The files in deploy/ run the same processes as compose and the Procfile, and name only things that exist."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from django.core.mail import EmailMessage
from django.test import Client
from kombu import Connection

from config import env, settings
from config.celery import app
from email_integration import conf
from email_integration.delivery import submit
from email_integration.models import Delivery

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
#: The grace period of systemd and Kubernetes must cover a worker's longest wait: the reply to a final dot.
GRACE = conf.DEFAULTS["REPLY_TIMEOUT"]


def manifests() -> list[dict[str, Any]]:
    return [found for file in sorted(KUBERNETES.rglob("*.yaml")) for found in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in manifests() if found["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """Return the pod specification of each workload, by its name."""
    specs = {
        name: found["spec"]["template"]["spec"]
        for kind in ("Deployment", "Job")
        for name, found in of_kind(kind).items()
    }
    jobs = {
        name: found["spec"]["jobTemplate"]["spec"]["template"]["spec"] for name, found in of_kind("CronJob").items()
    }
    return specs | jobs


def units() -> dict[str, configparser.SectionProxy]:
    """Return the [Service] section of each unit, by its name without 'mail-'."""
    found = {}
    for file in sorted((ROOT / "deploy" / "systemd").glob("*.service")):
        unit = configparser.ConfigParser(interpolation=None, strict=True)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read(file)
        found[file.stem.removeprefix("mail-")] = unit["Service"]
    return found


#: Options that may differ between places: listening address, host name, and where a process writes.
_OF_THE_PLACE = {"--bind", "--hostname", "--schedule"}


def essence(command: list[str]) -> list[str]:
    """Return a command without the parts that depend on the place."""
    left = [Path(command[0]).name, *command[1:]]
    for option in _OF_THE_PLACE & {*left}:
        at = left.index(option)
        del left[at : at + 2]
    return [word for word in left if word != "-E"]


def commands_of(place: str) -> dict[str, list[str]]:
    if place == "compose":
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        image = re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
        return {name: service.get("command") or yaml.safe_load(image) for name, service in services.items()}
    if place == "Procfile":
        lines = [line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines()]
        return {name.replace("_", "-"): shlex.split(line.partition("exec ")[2]) for name, line in lines}
    if place == "systemd":
        return {name: shlex.split(unit["ExecStart"]) for name, unit in units().items()}
    return {name: pod["containers"][0]["command"] for name, pod in pods().items()}


@pytest.mark.parametrize("place", ["Procfile", "systemd", "kubernetes"])
def test_what_runs_is_the_same_in_every_place(place: str) -> None:
    """Names and addresses may differ. Processes that exist in one place only are ignored."""
    ours, theirs = commands_of(place), commands_of("compose")
    alike = ours.keys() & theirs.keys()
    assert {"web", "worker", "worker-high", "worker-bulk", "beat"} <= alike
    for name in alike - {"flower"}:
        assert essence(ours[name]) == essence(theirs[name])


@pytest.mark.parametrize("place", ["compose", "systemd", "kubernetes"])
def test_every_queue_has_workers_and_only_of_one_kind(place: str) -> None:
    """Mail in a queue without a worker stays there, and a queue with two kinds of workers mixes priorities."""
    consumed = [
        queue
        for command in commands_of(place).values()
        if "worker" in command
        for queue in command[command.index("--queues") + 1].split(",")
    ]
    used = {settings.EMAIL_INTEGRATION[key] for key in ("QUEUE", "HIGH_QUEUE", "BULK_QUEUE", "SWEEP_QUEUE")}
    assert sorted(consumed) == sorted(used | {"celery"})


def test_there_is_one_beat_and_never_two() -> None:
    beat = of_kind("Deployment")["beat"]["spec"]
    assert (beat["replicas"], beat["strategy"]) == (1, {"type": "Recreate"})


def test_workers_have_the_time_to_finish() -> None:
    """They have longer than the longest wait for a reply, and TERM is sent only to the worker's main process."""
    for name, pod in pods().items():
        if "worker" in name:
            assert pod["terminationGracePeriodSeconds"] > GRACE
    for name, unit in units().items():
        if "worker" in name:
            assert int(unit["TimeoutStopSec"]) > GRACE
            assert unit["KillMode"] == "mixed"
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        if "worker" in name:
            assert int(service["stop_grace_period"].removesuffix("s")) > GRACE


def test_containers_may_do_nothing_more_than_they_need_and_none_takes_all_of_the_machine() -> None:
    file = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name, service in file["services"].items():
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        secrets = {one if isinstance(one, str) else one["source"] for one in service.get("secrets", ())}
        assert secrets <= file["secrets"].keys(), name
        named = {value for key, value in service.get("environment", {}).items() if key.endswith("_FILE")}
        # BROKER_URL_FILE is set only if RabbitMQ is wanted. RabbitMQ reads its own secret from its default place.
        named.discard("${BROKER_URL_FILE:-}")
        assert named == {f"/run/secrets/{secret}" for secret in secrets - {"broker_url", "rabbitmq_login"}}, name
        if "build" in service:
            assert service["read_only"], name
            assert "/tmp" in {mount.split(":")[0] for mount in service["tmpfs"]}, name


def variables_of(place: str) -> dict[str, dict[str, str]]:
    """Return the environment that the place sets for each process, by the names of ``commands_of``."""
    if place == "compose":
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        return {name: service.get("environment", {}) for name, service in services.items()}
    if place == "Procfile":
        lines = [line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines()]
        words = {name.replace("_", "-"): shlex.split(line.partition("exec ")[0]) for name, line in lines}
    elif place == "systemd":
        words = {name: unit["Environment"].split() for name, unit in units().items()}
    else:
        containers = {name: pod["containers"][0] for name, pod in pods().items()}
        return {
            name: {variable["name"]: variable["value"] for variable in container.get("env", ())}
            for name, container in containers.items()
        }
    return {name: dict(word.split("=", 1) for word in found) for name, found in words.items()}


def journals_of(place: str) -> dict[str, PurePosixPath]:
    """Return the journal folder of each worker in this place."""
    return {
        name: PurePosixPath(variables_of(place)[name]["JOURNAL_DIR"])
        for name, command in commands_of(place).items()
        if "worker" in command
    }


@pytest.mark.parametrize("place", ["Procfile", "compose", "systemd", "kubernetes"])
def test_workers_alone_have_a_place_for_journals(place: str) -> None:
    """Other processes send no mail and keep no journal; they would get a warning about a folder they do not need."""
    named = {name for name, variables in variables_of(place).items() if "JOURNAL_DIR" in variables}
    assert named == journals_of(place).keys() == {"worker", "worker-high", "worker-bulk"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "var/journals"),
        ({"VAR_DIR": "/srv/with blank"}, "/srv/with blank/journals"),
        ({"VAR_DIR": "/srv/mail", "JOURNAL_DIR": "/srv/journals"}, "/srv/journals"),
    ],
)
def test_the_journals_of_the_procfile_lie_where_all_is_written(given: dict[str, str], expected: str) -> None:
    """A folder named in the environment, as in ``.env`` for ``make run``, takes precedence."""
    for line in (ROOT / "Procfile").read_text().splitlines():
        name, command = line.split(": ", 1)
        if "worker" in name:
            shown = subprocess.run(
                ["sh", "-c", f"{command.partition('exec ')[0]} exec printenv JOURNAL_DIR"],
                env={"PATH": os.environ["PATH"], **given},
                capture_output=True,
                text=True,
                check=True,
            )
            assert shown.stdout == f"{expected}\n", name


def test_the_journals_of_units_outlive_the_private_tmp() -> None:
    """They are in the state directory, where the worker makes the folder: one made by systemd would have mode 0755."""
    for name, folder in journals_of("systemd").items():
        unit = units()[name]
        state = [PurePosixPath("/var/lib") / one for one in unit["StateDirectory"].split()]
        assert any(one in folder.parents for one in state), name
        assert folder not in state, name
        assert unit["User"] == "mail-dispatch", name


def test_the_journals_of_containers_lie_in_a_volume_that_lasts() -> None:
    """The volume has a name and covers this folder: an anonymous one would be lost with its container."""
    file = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name, folder in journals_of("compose").items():
        service = file["services"][name]
        volumes = dict(reversed(mount.split(":")[:2]) for mount in service["volumes"])
        assert volumes[str(folder)] in file["volumes"], name
        assert service["read_only"], name
        tmpfs = [PurePosixPath(mount.split(":")[0]) for mount in service["tmpfs"]]
        assert not {*tmpfs} & {folder, *folder.parents}, name
        # Workers keep the environment and the volumes that all our services have, and add to them.
        assert service["environment"].items() > file["services"]["web"]["environment"].items(), name
        assert {*file["services"]["web"]["volumes"]} < {*service["volumes"]}, name


def test_the_image_has_a_private_folder_of_its_user_where_each_volume_comes() -> None:
    """A new volume takes owner and mode of the folder that it covers. No later instruction may copy over it."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    (making,) = [number for number, line in enumerate(lines) if line.startswith("RUN install ")]
    _, *words = shlex.split(lines[making].removeprefix("RUN "))
    made = {str(PurePosixPath("/app") / word) for word in words if not word.startswith("-")}
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {f"--owner={user[0]}", f"--group={user[1]}", "--mode=700", "--directory"} <= {*words}
    assert not [line for line in lines[making:] if line.startswith(("COPY", "ADD"))]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    ours = [service for service in services if "build" in service]
    assert made == {mount.split(":")[1] for service in ours for mount in service["volumes"]}


def test_the_journals_of_pods_lie_in_a_volume_of_their_own_on_disk() -> None:
    """The journals are in a folder below the volume, not in the volume's own folder.

    The volume's own folder belongs to root and is writable by all, so no journal is kept in it.
    """
    for name, folder in journals_of("kubernetes").items():
        pod = pods()[name]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        (volume,) = [mounts[str(parent)] for parent in folder.parents if str(parent) in mounts]
        assert volumes[volume] == {"name": volume, "emptyDir": {}}, name
        assert volume != mounts["/tmp"], name


def compose_images() -> dict[str, str]:
    """Return the tag of each image that compose takes from a registry, by the image's name."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    return dict(service["image"].rsplit(":", 1) for service in services if "build" not in service)


def test_every_image_has_a_tag_that_names_its_version() -> None:
    """A tag without a version can become another program when it is pulled again."""
    assert compose_images().keys() == {"axllent/mailpit", "postgres", "rabbitmq", "valkey/valkey"}
    for name, tag in compose_images().items():
        assert re.match(r"v?\d+\.\d+", tag), f"{name}:{tag}"


def test_the_pages_name_the_images_that_compose_names() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for name, tag in compose_images().items():
            named = re.findall(rf"\b{name}:([\w.-]*\d[\w.-]*)", page.read_text())
            assert set(named) <= {tag}, f"{page.name}: {name}"


def test_the_images_python_is_one_that_is_tested() -> None:
    """Both stages have the same base: the second runs the environment that the first made."""
    (base,) = {*re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)}
    (version,) = re.findall(r"^python:(\d+\.\d+)\.\d+-slim-", base)
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert f"Programming Language :: Python :: {version}" in classifiers


def test_the_databases_volume_lies_where_its_image_keeps_the_data() -> None:
    """Elsewhere, the image would keep the data in an anonymous volume, which a new container does not find.

    Since PostgreSQL 18 the image's volume is the parent folder (docker-library/postgres#1259).
    """
    (mount,) = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["db"]["volumes"]
    major = int(compose_images()["postgres"].split(".")[0])
    assert mount == ("db:/var/lib/postgresql" if major >= 18 else "db:/var/lib/postgresql/data")


def test_celerys_own_queues_are_ones_that_rabbitmq_4_3_takes() -> None:
    """RabbitMQ 4.3 refuses queues that are neither durable nor exclusive.

    Celery's queues of remote control and of events were of that kind.
    """
    mailbox = app.control.mailbox
    with Connection("memory://") as connection:
        queues = [mailbox.get_queue("celery@host"), mailbox.get_reply_queue(), app.events.Receiver(connection).queue]
    for queue in queues:
        assert queue.durable or queue.exclusive, queue


def test_no_secret_stands_in_the_compose_file() -> None:
    for name, service in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].items():
        given = service.get("environment", {})
        assert not (env.SECRETS - {"DATABASE_URL", "REDIS_URL"}) & given.keys(), name
        assert not urlsplit(given.get("DATABASE_URL", "")).password, name


def test_the_variables_are_those_that_the_project_reads() -> None:
    known = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    for name, found in of_kind("ConfigMap").items():
        assert set(found["data"]) <= known, name
        assert all(isinstance(value, str) for value in found["data"].values())
    page = (ROOT / "docs" / "deployment.md").read_text()
    secret = set(re.findall(r"--from-literal=([A-Z_]+)=", page))
    assert {"DATABASE_URL", "SECRET_KEY", "SMTP_PASSWORD_KEYS"} == secret <= known
    for place in ("compose", "Procfile", "systemd", "kubernetes"):
        for name in commands_of(place).keys() - {"db", "rabbitmq"}:  # third-party images
            files = {f"{secret}_FILE" for secret in env.SECRETS}
            assert {*variables_of(place)[name]} <= known | files, f"{place}: {name}"


def test_what_a_pod_names_is_there_and_it_may_do_nothing_more_than_it_needs() -> None:
    maps, ports = of_kind("ConfigMap"), {"http"}
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["image"] == "celery-mail-dispatch:latest", name
            for source in container["envFrom"]:
                assert source.get("configMapRef", {"name": "mail"})["name"] in maps
                assert source.get("secretRef", {"name": "mail"})["name"] == "mail"
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["securityContext"]["readOnlyRootFilesystem"], name
            assert {port["name"] for port in container.get("ports", ())} <= ports
    for found in of_kind("Deployment").values():
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert found["spec"]["selector"]["matchLabels"] == labels
    web = of_kind("Deployment")["web"]["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Service")["web"]["spec"]["selector"] == web


def test_the_user_is_that_of_the_image() -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for pod in pods().values():
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == tuple(map(int, user))


@pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe"])
def test_the_page_that_a_probe_asks_for_answers(probe: str) -> None:
    """It answers to the probe's Host header, which is always allowed, and without the database, which others check."""
    asked = pods()["web"]["containers"][0][probe]["httpGet"]
    (host,) = [header["value"] for header in asked["httpHeaders"] if header["name"] == "Host"]
    assert Client().get(asked["path"], headers={"host": host}).status_code == 200


@pytest.mark.django_db
def test_the_example_says_what_waits() -> None:
    """The query of docs/deployment.md, as it is printed there."""
    for priority in ("high", "bulk", "bulk"):
        submit(EmailMessage("News", "Text", None, ["kim@example.com"]), priority=priority)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)
    *lines, question = example.strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    found = {row["priority"]: row for row in eval(question, names)}
    assert {priority: row["mails"] for priority, row in found.items()} == {"high": 1, "bulk": 2}
    assert found["bulk"]["oldest"] == Delivery.objects.filter(priority="bulk").earliest("due_at").due_at
