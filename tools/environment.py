#!/usr/bin/env python3
"""Makes `.venv` and installs the relay into it, editable: `python3 tools/environment.py [EXTRA...]`.

Needs Python 3.11 or newer and its standard library, nothing else. Debian splits `ensurepip` (and so pip) off
into python3-venv; where it is missing, the interpreter's own pip is used, or one from the package index. Does
nothing when the environment is up to date, starts anew when it cannot be repaired, and may be run by several
processes at once.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed.json"
LOCK = ROOT / ".venv.lock"
REQUIRED = (3, 11)
# What decides about the environment's content. The version is taken from the package itself, as an editable
# install's metadata is made once.
INPUTS = ("setup.cfg", "pyproject.toml", "pulsar_relay/__init__.py")
DOWNLOAD_TIMEOUT_SECONDS = 60
LARGEST_DOWNLOAD_BYTES = 64 * 1024 * 1024


def main(extras: Sequence[str]) -> None:
    if sys.version_info < REQUIRED:
        wanted = ".".join(map(str, REQUIRED))
        found = sys.version.split()[0]
        fail(f"this is Python {found}; {wanted} or newer is needed. Try: make PYTHON=python{wanted}")
    with exclusive():
        if is_current(extras):
            return
        make_environment()
        install(sorted({*extras, *installed_extras()}))


def is_current(extras: Sequence[str]) -> bool:
    stamp = read_stamp()
    return (
        stamp.get("digest") == digest()
        and stamp.get("place") == str(VENV)
        and set(extras) <= set(stamp.get("extras", ()))
        and PYTHON.exists()
    )


def digest() -> str:
    """Of everything that decides what is installed."""
    content = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for name in INPUTS:
        content.update((ROOT / name).read_bytes())
    return content.hexdigest()


def read_stamp() -> dict[str, Any]:
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def installed_extras() -> list[str]:
    extras = read_stamp().get("extras", ())
    return [extra for extra in extras if isinstance(extra, str)]


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """One process at a time works on the environment; the next finds it done."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another installation to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_environment() -> None:
    """Leaves a `.venv` that works, has this interpreter's version and has pip."""
    if VENV.exists() and not (VENV / "pyvenv.cfg").exists() and any(VENV.iterdir()):
        fail(f"{VENV} exists and is not a virtual environment; move it away")
    if is_sound():
        return
    say(f"making {VENV.name} for Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    if importlib.util.find_spec("venv") is not None:
        # Without pip at first: where ensurepip is missing, venv would make half an environment and fail.
        command = [sys.executable, "-m", "venv", "--without-pip", str(VENV)]
        run(command, "the virtual environment could not be made")
    else:
        make_by_hand()
    add_pip()


def is_sound() -> bool:
    """True when `.venv` runs this version of Python where it stands, with pip."""
    if read_stamp().get("place", str(VENV)) != str(VENV):
        return False
    question = "import pip, sys; print(sys.version_info[:2], sys.prefix)"
    try:
        answer = subprocess.run([str(PYTHON), "-c", question], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer.stdout.strip() == f"{sys.version_info[:2]} {VENV}"


def make_by_hand() -> None:
    """What the venv module would make, where Debian has split that off too."""
    version = ".".join(map(str, sys.version_info[:2]))
    (VENV / "bin").mkdir(parents=True)
    (VENV / "lib" / f"python{version}" / "site-packages").mkdir(parents=True)
    interpreter = Path(getattr(sys, "_base_executable", sys.executable))
    for name in ("python", "python3", f"python{version}"):
        (VENV / "bin" / name).symlink_to(interpreter)
    settings = f"home = {interpreter.parent}\ninclude-system-site-packages = false\n"
    (VENV / "pyvenv.cfg").write_text(settings)


def add_pip() -> None:
    """From what Python brings along, else by the pip it was started with, else from the index."""
    # Its complaint would only alarm: Debian's says to install a package, and it can be done without.
    ensurepip = subprocess.run(
        [str(PYTHON), "-m", "ensurepip", "--default-pip"], capture_output=True, check=False
    )
    if ensurepip.returncode == 0:
        return
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", "pip"]
        if subprocess.run(command, check=False).returncode == 0:
            return
    with tempfile.TemporaryDirectory() as directory:
        wheel = fetch_pip(Path(directory))
        # A wheel is a zip archive, and Python runs a package inside one.
        command = [
            str(PYTHON),
            f"{wheel}/pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-cache-dir",
            str(wheel),
        ]
        run(command, "pip could not be installed")


def fetch_pip(directory: Path) -> Path:
    """The newest pip's wheel, from the index pip would ask, checked against the hash the index gives."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    say(f"this Python brings no pip; fetching it from {without_password(index)}")
    try:
        page = fetch(f"{index}/pip/", accept="application/vnd.pypi.simple.v1+json")
        entry = newest_wheel(json.loads(page)["files"])
        content = fetch(urllib.parse.urljoin(f"{index}/pip/", entry["url"]))
        expected = entry["hashes"]["sha256"]
    except (OSError, ValueError, LookupError) as error:
        fail(
            f"pip could not be fetched: {error!r}\n"
            "Either `apt-get install python3-venv`, or say with PIP_INDEX_URL which package index to use."
        )
    if hashlib.sha256(content).hexdigest() != expected:
        fail("pip could not be fetched: what arrived is not what the index announced")
    wheel = directory / str(entry["filename"])
    wheel.write_bytes(content)
    return wheel


def fetch(url: str, *, accept: str = "*/*") -> bytes:
    """The body at `url`. What stands before an @ in it is name and password, told to that host alone."""
    parts = urllib.parse.urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    plain = parts._replace(netloc=host).geturl()
    request = urllib.request.Request(
        plain, headers={"Accept": accept, "User-Agent": "pulsar-relay-installer"}
    )
    if at:
        proof = base64.b64encode(urllib.parse.unquote_to_bytes(login)).decode()
        request.add_unredirected_header("Authorization", f"Basic {proof}")
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_SECONDS, context=context) as answer:
        content: bytes = answer.read(LARGEST_DOWNLOAD_BYTES + 1)
    if len(content) > LARGEST_DOWNLOAD_BYTES:
        raise ValueError(f"{plain} is too large")
    return content


def newest_wheel(files: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of the newest final pip that runs on this Python; LookupError when there is none."""
    wheels = []
    for entry in files:
        name = re.fullmatch(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl", entry["filename"])
        if name and not entry.get("yanked") and runs_here(entry.get("requires-python")):
            wheels.append((tuple(map(int, name[1].split("."))), entry))
    if not wheels:
        raise LookupError("the index has no pip for this Python")
    return max(wheels, key=lambda wheel: wheel[0])[1]


def runs_here(requires_python: str | None) -> bool:
    least = re.search(r">=\s*(\d+)\.(\d+)", requires_python or "")
    return least is None or (int(least[1]), int(least[2])) <= sys.version_info[:2]


def without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def install(extras: Sequence[str]) -> None:
    STAMP.unlink(missing_ok=True)
    what = f".[{','.join(extras)}]" if extras else "."
    say(f"installing the relay{' with what its tests need' if extras else ''} into {VENV.name}")
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--editable", what]
    if not sys.stdout.isatty():
        command.insert(4, "--quiet")
    run(command, "the installation failed")
    stamp = {"digest": digest(), "place": str(VENV), "extras": list(extras)}
    new = STAMP.with_suffix(".new")
    new.write_text(json.dumps(stamp))
    new.replace(STAMP)


def run(command: Sequence[str], complaint: str) -> None:
    # Warnings are about how pip and setuptools work; errors come through either way.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code:
        fail(f"{complaint} (exit code {code} of {' '.join(command)})")


def say(text: str) -> None:
    print(f"environment: {text}", flush=True)


def fail(text: str) -> NoReturn:
    print(f"environment: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
