"""The Dockerfile, its steps carried out in a directory instead of an image.

What is not carried out is what only an engine can: the base image, the account the relay runs as, the volume.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from pulsar_relay.web.page import page_files
from tests.conditions import WAIT_SECONDS, until
from tests.programs import running
from tests.relays import REPOSITORY, environment

INSTALL_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Step:
    word: str
    rest: str


def steps() -> list[Step]:
    """The Dockerfile's instructions, lines that are continued joined."""
    lines = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = [line.split(None, 1) for line in lines if line.strip() and not line.startswith("#")]
    return [Step(word, rest) for word, rest in words]


def stages() -> Iterator[list[Step]]:
    found: list[Step] = []
    for step in steps():
        if step.word == "FROM" and found:
            yield found
            found = []
        found.append(step)
    yield found


BUILD, FINAL = stages()


def last(word: str) -> str:
    return next(step.rest for step in reversed(FINAL) if step.word == word)


def health_check(image: Path, address: str) -> list[str]:
    """The image's command, for a relay at this address."""
    name, *words = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert name == "python"
    return [
        str(image / "opt/relay/bin/python"),
        *(w.replace("http://127.0.0.1:8080", address) for w in words),
    ]


def allowed(name: str) -> bool:
    """Whether .dockerignore lets this path of the repository into the build."""
    is_allowed = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = [name, *map(str, Path(name).parents), *Path(name).parts]
        if any(fnmatch.fnmatch(part, pattern) for part in parts):
            is_allowed = line.startswith("!")
    return is_allowed


def copy(sources: list[str], target: Path) -> None:
    for source in sources:
        assert allowed(source), f".dockerignore keeps {source} out"
        path = REPOSITORY / source
        if path.is_dir():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            is_directory = target.is_dir() or len(sources) > 1
            place = target / path.name if is_directory else target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first stage's paths are, made by its steps."""
    root = tmp_path_factory.mktemp("image")
    directory = root
    for step in BUILD[1:]:
        if step.word == "WORKDIR":
            directory = root / step.rest.strip("/")
            directory.mkdir(parents=True)
        elif step.word == "COPY":
            *sources, target = step.rest.split()
            if target.endswith("/"):
                (directory / target).mkdir(exist_ok=True, parents=True)
            copy(sources, directory / target)
        else:
            assert step.word == "RUN"
            command = step.rest.replace("/opt/relay", f"{root}/opt/relay").replace(
                "python ", f"{sys.executable} "
            )
            done = subprocess.run(
                ["sh", "-ec", command],
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=INSTALL_SECONDS,
            )
            assert done.returncode == 0, done.stdout
    return root


@pytest.mark.system
@pytest.mark.timeout(2 * INSTALL_SECONDS)
def test_what_the_steps_make_runs_is_healthy_and_ready_and_stops_in_order(
    image: Path, tmp_path: Path
) -> None:
    relay = image / "opt/relay/bin"
    variables = environment({"PATH": f"{relay}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"})
    del variables["PYTHONPATH"]
    words = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    assert words == ["pulsar-relay", "serve"]
    settings = ["--set", "server.port=0", "--set", "server.metrics_port=0"]
    with running([relay / words[0], *words[1:], *settings], tmp_path, variables) as server:
        until(lambda: "listening on" in server.log or not server.is_running, "the relay listens")
        address = server.log.split("listening on ")[1].split()[0].strip('"},')
        check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
        assert check[0] == "python"
        check = [
            str(relay / "python"),
            *(word.replace("http://127.0.0.1:8080", address) for word in check[1:]),
        ]
        subprocess.run(check, check=True, timeout=WAIT_SECONDS, env=variables)
        ready = [word.replace("/health", "/ready") for word in check]
        until(lambda: subprocess.run(ready, check=False, env=variables).returncode == 0, "it is ready")
        # What is no Python is installed too.
        for path in ("/", *(f"/page/{name}" for name in page_files())):
            assert requests.get(address + path, timeout=WAIT_SECONDS).status_code == 200, path
    assert "relay: stopped" in server.log
    assert (tmp_path / "data/valkey").is_dir()


@pytest.mark.system
def test_the_check_of_health_fails_where_nobody_listens(image: Path, tmp_path: Path) -> None:
    check = health_check(image, "http://127.0.0.1:1")
    assert subprocess.run(check, check=False, capture_output=True, timeout=WAIT_SECONDS).returncode != 0


def test_the_relay_does_not_run_as_root_and_its_data_is_in_a_volume_it_may_write() -> None:
    words = [step.word for step in FINAL]
    user, directory = last("USER"), last("WORKDIR")
    made = next(step.rest for step in FINAL if step.word == "RUN")
    assert user != "root" and words.index("USER") < words.index("ENTRYPOINT")
    assert directory == last("VOLUME") and f"mkdir {directory} && chown {user} {directory}" in made
    assert shlex.split(made.partition("&&")[0])[-1] == user


@pytest.mark.parametrize(
    "name", [".git", ".venv", "data", "tests", "docs", "config.yaml", "deploy", "setup.py"]
)
def test_what_the_build_does_not_need_stays_out_of_it(name: str) -> None:
    assert not allowed(name)
    assert not allowed("pulsar_relay/__pycache__")
