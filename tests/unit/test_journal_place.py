"""Whether the journals' folder outlives the worker, judged by Linux's list of mounts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from email_integration.sending import journal_place
from email_integration.sending.journal_place import Loss, lost_with, problems

#: /proc/self/mountinfo of a machine with Debian 12: /tmp is not a separate mount.
LAPTOP = r"""
22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw
25 27 0:5 / /dev rw,nosuid,relatime shared:2 - devtmpfs udev rw,size=8110228k,mode=755,inode64
27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw,errors=remount-ro
28 25 0:24 / /dev/shm rw,nosuid,nodev shared:3 - tmpfs tmpfs rw,inode64
30 27 0:25 / /run rw,nosuid,nodev,noexec,relatime shared:5 - tmpfs tmpfs rw,size=1626092k,mode=755,inode64
60 27 254:2 / /home/with\040blank rw,relatime shared:30 - ext4 /dev/mapper/home rw
"""

#: The same with systemd's tmp.mount, as in Debian 13, over a disk that was mounted there before.
IN_MEMORY = (
    LAPTOP
    + """
61 27 254:3 / /tmp rw,relatime shared:31 - xfs /dev/mapper/old rw
70 61 0:40 / /tmp rw,nosuid,nodev shared:40 - tmpfs tmpfs rw,size=8130000k,nr_inodes=1048576,inode64
"""
)

#: Within a unit with PrivateTmp=yes: /tmp is a folder of the disk, or of a /tmp in memory.
PRIVATE = (
    LAPTOP
    + """
402 27 254:1 /tmp/systemd-private-0c5b8c-mail-worker.service-8Hd0pK/tmp /tmp rw,relatime shared:200 - ext4 /dev/root rw
403 27 254:1 /var/tmp/systemd-private-0c5b8c-mail-worker.service-c0u2bY/tmp /var/tmp rw,relatime - ext4 /dev/root rw
404 27 254:1 /var/lib/private/mail /var/lib/mail rw,relatime shared:1 - ext4 /dev/mapper/root rw
"""
)
PRIVATE_IN_MEMORY = (
    IN_MEMORY + "402 70 0:40 /systemd-private-0c5b8c-mail-worker.service-8Hd0pK/tmp /tmp rw,relatime - tmpfs tmpfs rw\n"
)

#: A container with 'read_only', 'tmpfs: [/tmp]' and a volume.
CONTAINER = """
1404 1300 0:289 / / ro,relatime master:400 - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir=/d/diff,workdir=/d/work
1405 1404 0:292 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1406 1404 0:293 / /tmp rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=262144k
1410 1404 8:1 /var/lib/docker/volumes/mail_journals/_data /app/var/journals rw,relatime master:1 - ext4 /dev/sda1 rw
"""

#: A pod: an emptyDir on the node's disk, and one in memory.
POD = """
900 800 0:150 / / ro,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c
905 900 8:1 /var/lib/kubelet/pods/3f/volumes/kubernetes.io~empty-dir/journals /var/lib/mail rw - xfs /dev/sda1 rw
906 900 0:160 / /var/lib/memory rw,relatime - tmpfs tmpfs rw,size=524288k
"""


@pytest.mark.parametrize(
    ("mountinfo", "folder", "expected"),
    [
        (LAPTOP, "/tmp/email_integration-1000-a", None),
        (LAPTOP, "/run/mail", Loss.IN_MEMORY),
        (LAPTOP, "/dev/shm", Loss.IN_MEMORY),
        # A mount point is a folder, not a prefix of a name.
        (LAPTOP, "/running/mail", None),
        (LAPTOP, "/home/with blank/mail", None),
        (
            LAPTOP.replace("254:2 / /home", "0:50 / /home").replace("ext4 /dev/mapper/home", "tmpfs tmpfs"),
            "/home/x",
            None,
        ),
        (LAPTOP.replace("ext4 /dev/mapper/home", "tmpfs tmpfs"), "/home/with blank/mail", Loss.IN_MEMORY),
        (IN_MEMORY, "/tmp/email_integration-1000-a", Loss.IN_MEMORY),
        (IN_MEMORY, "/var/tmp/mail", None),
        (PRIVATE, "/tmp/email_integration-1000-a", Loss.PRIVATE_TMP),
        (PRIVATE, "/var/tmp/mail", Loss.PRIVATE_TMP),
        (PRIVATE, "/var/lib/mail/journals", None),
        (PRIVATE_IN_MEMORY, "/tmp/mail", Loss.PRIVATE_TMP),
        (CONTAINER, "/tmp/mail", Loss.IN_MEMORY),
        (CONTAINER, "/app/var", Loss.LAYER),
        (CONTAINER, "/app/var/journals", None),
        (CONTAINER, "/app/var/journals/one", None),
        (CONTAINER.replace("overlay overlay", "fuse.fuse-overlayfs fuse-overlayfs"), "/app", Loss.LAYER),
        (POD, "/var/lib/mail/journals", None),
        (POD, "/var/lib/memory/journals", Loss.IN_MEMORY),
        (POD, "/tmp", Loss.LAYER),
        ("", "/tmp", None),
        ("of another kind of system\n\n1 2 3\n - ext4\n", "/tmp", None),
    ],
)
def test_a_place_lasts_or_ends_with_what_it_is_mounted_from(mountinfo: str, folder: str, expected: Loss | None) -> None:
    assert lost_with(mountinfo, folder) is expected


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Path:
    """A file in place of /proc/self/mountinfo that has ``tmp_path`` on a disk, and a separate temporary folder."""
    file = tmp_path / "mountinfo"
    file.write_text(LAPTOP)
    monkeypatch.setattr(journal_place, "_MOUNTINFO", file)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    settings.DEBUG = False
    return file


def name(settings: Any, folder: object) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "JOURNAL_DIR": folder}


def test_a_folder_on_disk_is_fine_and_looking_makes_none(mounts: Path, settings: Any) -> None:
    folder = mounts.parent / "state" / "journals"
    for given in (folder, str(folder)):
        name(settings, given)
        assert problems() == problems(in_worker=True) == []
    assert not folder.parent.exists()


def test_a_folder_in_memory_costs_a_batch_unless_one_only_develops(mounts: Path, settings: Any) -> None:
    name(settings, mounts.parent / "journals")
    mounts.write_text(LAPTOP + f"90 27 0:60 / {mounts.parent} rw - tmpfs tmpfs rw\n")

    (problem,) = problems()

    assert problem.text == f"The journals' folder {mounts.parent / 'journals'} {Loss.IN_MEMORY}."
    for word in ("LEASE", "JOURNAL_DIR", "docs/deployment.md"):
        assert word in problem.hint
    settings.DEBUG = True
    assert problems() == []


def test_a_way_that_leads_to_memory_by_a_link_is_in_memory(mounts: Path, settings: Any) -> None:
    (mounts.parent / "memory").mkdir()
    (mounts.parent / "link").symlink_to(mounts.parent / "memory")
    mounts.write_text(LAPTOP + f"90 27 0:60 / {mounts.parent / 'memory'} rw - tmpfs tmpfs rw\n")
    name(settings, mounts.parent / "link" / "journals")
    assert len(problems()) == 1
    name(settings, mounts.parent / "journals")
    assert problems() == []


def test_the_temporary_folder_is_judged_where_a_worker_has_run_or_runs(mounts: Path, settings: Any) -> None:
    """A laptop, a build or a web server without workers gets no warning."""
    name(settings, "")
    mounts.write_text(LAPTOP + f"90 27 0:60 / {mounts.parent / 'tmp'} rw - tmpfs tmpfs rw\n")
    assert problems() == []
    (problem,) = problems(in_worker=True)
    assert str(mounts.parent / "tmp") in problem.text

    folder = journal_place.below_temporary("one")
    folder.mkdir(mode=0o700)
    (problem,) = problems()
    assert str(folder) in problem.text
    assert problems(in_worker=True) == [problem]

    mounts.write_text(LAPTOP)
    assert problems() == problems(in_worker=True) == []


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("arrange", "why"),
    [
        (lambda folder: folder.symlink_to(folder.parent), "it is a link or a file, not a folder"),
        (lambda folder: folder.touch(), "it is a link or a file, not a folder"),
        (
            lambda folder: (folder.mkdir(), folder.chmod(0o770)),
            "it can be written by other users (mode 0770, expected 0700 or 0600)",
        ),
        (
            lambda folder: (folder.mkdir(), folder.chmod(0o1777)),
            "it can be written by other users (mode 1777, expected 0700 or 0600)",
        ),
    ],
)
def test_a_folder_that_takes_no_journal_costs_a_window(
    arrange: Any, why: str, debug: bool, mounts: Path, settings: Any
) -> None:
    settings.DEBUG = debug
    folder = mounts.parent / "journals"
    name(settings, folder)
    settings.EMAIL_INTEGRATION["IN_DOUBT_WINDOW"] = 7
    arrange(folder)

    (problem,) = problems()

    assert problem.text == f"No journal can be kept in {folder}: {why}."
    assert "IN_DOUBT_WINDOW (7)" in problem.hint
    assert "0700" in problem.hint


def test_a_folder_of_another_user_takes_no_journal(
    mounts: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name(settings, mounts.parent / "journals")
    (mounts.parent / "journals").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    (problem,) = problems()
    assert f"it belongs to user {os.getuid()}, and this process runs as user 4711" in problem.text


def test_a_folder_that_cannot_be_written_or_made_takes_no_journal(
    mounts: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test replaces the system's answer about permissions, so those of its own user do not matter."""
    folder = mounts.parent / "above" / "journals"
    name(settings, folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (problem,) = problems()
    assert (
        problem.text
        == f"No journal can be kept in {folder}: it does not exist, and this process cannot write to {mounts.parent}."
    )
    folder.mkdir(parents=True, mode=0o700)
    (problem,) = problems()
    assert problem.text == f"No journal can be kept in {folder}: this process cannot write to it."


def test_a_file_in_the_way_is_named(mounts: Path, settings: Any) -> None:
    name(settings, mounts / "journals")
    (problem,) = problems()
    assert "it cannot be inspected (Not a directory)" in problem.text


def test_where_files_cannot_be_locked_no_place_is_wrong(
    mounts: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name(settings, mounts / "journals")
    monkeypatch.setattr(journal_place, "find_spec", lambda module: None)
    assert problems() == []


@pytest.mark.parametrize("given", [None, 5, ["/tmp"]])
def test_a_folder_of_the_wrong_kind_is_left_to_the_check_of_kinds(given: Any, mounts: Path, settings: Any) -> None:
    name(settings, given)
    assert problems() == problems(in_worker=True) == []


def test_without_the_text_of_mounts_nothing_is_known(mounts: Path, settings: Any) -> None:
    name(settings, mounts.parent / "journals")
    mounts.unlink()
    assert problems() == []
