"""A bash on a terminal of its own, typed into as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import pyte

from tests.conditions import until

COLUMNS, LINES = 200, 1000
PROMPT = re.compile(rb"\x1e(\d+)\x1f")
"""What bash shows before each command: the exit code of the one before."""
LEAVE_SECONDS = 30.0


class Terminal:
    """`run` waits for the end of the commands that are typed, `type` for nothing."""

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        attributes = termios.tcgetattr(theirs)
        # What is typed is known: only what is answered is to be read.
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        prompts = {"PS1": "\x1e$?\x1f", "PS2": "", "TERM": "xterm", "HISTFILE": "", "LC_ALL": "C.UTF-8"}
        self._process = subprocess.Popen(
            ["setsid", "-c", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=directory,
            env={**variables, **prompts},
        )
        os.close(theirs)
        self._shown = b""
        self._typed_at = 0
        self._ends = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # A terminal whose last process has left answers with an error.
        with suppress(OSError):
            while chunk := os.read(self._ours, 65536):
                self._shown += chunk

    @property
    def text(self) -> str:
        """What a person sees of what came since something was typed last; no empty lines."""
        screen = pyte.Screen(COLUMNS, LINES)
        stream = pyte.ByteStream(screen)
        stream.feed(PROMPT.sub(b"", self._shown[self._typed_at :]).replace(b"\n", b"\r\n"))
        return "".join(f"{line.strip()}\n" for line in screen.display if line.strip())

    @property
    def is_idle(self) -> bool:
        """Whether the command that was typed last has ended."""
        return PROMPT.search(self._shown, self._typed_at) is not None

    def type(self, text: str) -> None:
        """Type one command."""
        until(lambda: self._shown.endswith(b"\x1f"), "the terminal takes commands")
        self._typed_at = len(self._shown)
        os.write(self._ours, text.encode() + b"\n")

    def run(self, text: str, seconds: float) -> list[int]:
        """Type commands and wait for the end of the last; returns the exit code of each."""
        self.begin(text)
        return self.finish(seconds)

    def begin(self, text: str) -> None:
        """Type commands for `finish` to wait for."""
        self._ends += 1
        # In two words, so that what marks the end is nowhere but in its output.
        self.type(f"{text.rstrip()}\nprintf 'end-%s' {self._ends}")

    def finish(self, seconds: float) -> list[int]:
        end = b"end-%d\x1e" % self._ends
        deadline = time.monotonic() + seconds
        while end not in self._shown or not self._shown.endswith(b"\x1f"):
            assert time.monotonic() < deadline, f"not done after {seconds:g} s:\n{self.text}"
            time.sleep(0.002)
        shown = self._shown[self._typed_at :]
        self._shown = self._shown[: self._typed_at] + shown.replace(end[:-1], b"")
        return [int(code) for code in PROMPT.findall(shown)][:-1]

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._ours, b"\x03")

    def close(self) -> None:
        """Ctrl-C to what runs, then leave."""
        if self._process.poll() is None:
            with suppress(AssertionError):
                if not self.is_idle:
                    self.interrupt()
                until(lambda: self.is_idle, "what runs in the terminal ends")
            os.killpg(self._process.pid, signal.SIGHUP)
            try:
                self._process.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        os.close(self._ours)
        self._reader.join(LEAVE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
