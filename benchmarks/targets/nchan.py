"""nchan: nginx with Debian's module, its messages in a Valkey, which speaks Redis's protocol."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.dialects import NchanDialect
from benchmarks.machine import Placement
from benchmarks.processes import Program, free_port
from benchmarks.targets.target import CannotError
from benchmarks.valkeys import BenchValkey

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
_TEMPLATE = Path(__file__).parent / "nchan.conf"


class NchanTarget:
    def __init__(self, directory: Path, placement: Placement, level: str) -> None:
        if level == "replica":
            raise CannotError("does not wait for replicas")
        nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if nginx is None or not MODULE.exists():
            raise CannotError("needs Debian's nginx-light and libnginx-mod-nchan")
        self.valkey: BenchValkey | None = BenchValkey(directory, placement.store, level)
        self.port = free_port()
        values = {
            "directory": str(directory),
            "module": str(MODULE),
            "port": str(self.port),
            "store": str(self.valkey.port),
        }
        configuration = directory / "nginx.conf"
        configuration.write_text(re.sub(r"<(\w+)>", lambda match: values[match[1]], _TEMPLATE.read_text()))
        # Its workers must be able to use its directories if it was started by root.
        command = [nginx, "-c", str(configuration), "-e", str(directory / "error.log")]
        if os.geteuid() == 0:
            command += ["-g", "user root;"]
        self._program = Program(command, placement.worker, directory / "nginx.log")
        self._program.wait_for_port(self.port)
        self.pid = self._program.pid
        self.dialect = NchanDialect()
        self.versions: Mapping[str, str] = {"nchan": _versions(nginx), "valkey": self.valkey.version}
        self.cannot: Mapping[str, str] = {
            "idempotency": "has no idempotent publishing",
            "bulk": "takes one message a request",
            "ndjson": "takes one message a request",
            "hot buffer": "keeps messages in Redis",
            "websocket publishing": "answers no publish on a WebSocket",
        }

    def stored(self, topic: str) -> int:
        # Asked of the store: nchan itself would count what it has in memory only.
        assert self.valkey is not None
        return int(str(self.valkey.command("LLEN", f"{{channel:/{topic}}}:messages")))

    def stop(self) -> None:
        self._program.stop()
        assert self.valkey is not None
        self.valkey.stop()


def _versions(nginx: str) -> str:
    told = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
    package = ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"]
    module = subprocess.run(package, capture_output=True, text=True, check=False).stdout
    return f"{module}, nginx {told.rpartition('/')[2].strip()}"
