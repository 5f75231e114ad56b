"""Virtual environments for programs that must not share ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.targets.target import CannotError

INSTALL_SECONDS = 1200


def python_with(requirements: str, directory: Path) -> Path:
    """The Python of an environment that has these, parted by blanks; made in `directory` on first use, which
    may take minutes. Of several processes one at a time may ask. Raises CannotError.
    """
    python = directory / "bin" / "python"
    if (directory / "made").exists():
        return python
    for command in (
        [sys.executable, "-m", "venv", "--clear", "--without-pip", str(directory)],
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *requirements.split()],
    ):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise CannotError(f"could not be installed in {INSTALL_SECONDS} s") from None
        if done.returncode:
            raise CannotError(f"could not be installed: {done.stderr.strip().rpartition(chr(10))[2][:200]}")
    (directory / "made").touch()
    return python
