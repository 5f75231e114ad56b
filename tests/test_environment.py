"""Runs tools/environment.py on a small project of its own; the package index is one on loopback."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.system
SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "environment.py"
BASE_PYTHON = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")

# Hides modules from the interpreter that the script is started with, or from every one, as Debian does.
SITE_CUSTOMIZE = """
import os, sys
hidden = os.environ["HIDDEN"].split()
if sys.prefix == sys.base_prefix:
    hidden += os.environ["HIDDEN_FROM_BASE"].split()
sys.modules.update(dict.fromkeys(hidden))
"""

# Installs the project by a path file; a real build backend would have to be downloaded first.
BACKEND = """
import os, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "pulsar_relay-1.0-py3-none-any.whl"
    files = {
        "pulsar_relay.pth": os.getcwd(),
        "pulsar_relay-1.0.dist-info/METADATA":
            "Metadata-Version: 2.1\\nName: pulsar-relay\\nVersion: 1.0\\n"
            "Provides-Extra: test\\nProvides-Extra: more\\n",
        "pulsar_relay-1.0.dist-info/WHEEL":
            "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files["pulsar_relay-1.0.dist-info/RECORD"] = "".join(f"{file},,\\n" for file in files)
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@dataclass
class Project:
    """A checkout with the script in it."""

    root: Path
    environment: dict[str, str]

    @classmethod
    def make(cls, root: Path) -> Project:
        for name, text in {
            "tools/environment.py": SCRIPT.read_text(),
            "shim/sitecustomize.py": SITE_CUSTOMIZE,
            "backend.py": BACKEND,
            "setup.cfg": "",
            "pyproject.toml": PYPROJECT,
            "pulsar_relay/__init__.py": "",
        }.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))
        }
        environment |= {
            "PYTHONPATH": str(root / "shim"),
            "HIDDEN": "",
            "HIDDEN_FROM_BASE": "",
            "PIP_CONFIG_FILE": os.devnull,
            # Nothing here may come from anywhere but where a test says.
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_RETRIES": "0",
            "PIP_NO_CACHE_DIR": "1",
        }
        return cls(root, environment)

    def start(self, *extras: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BASE_PYTHON, "tools/environment.py", *extras],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *extras: str) -> str:
        """What the script printed; it must succeed."""
        with self.start(*extras) as process:
            output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    def refusal(self, *extras: str) -> str:
        with self.start(*extras) as process:
            output, _ = process.communicate()
        assert process.returncode == 1, output
        return output

    @property
    def extras(self) -> list[str]:
        stamp = json.loads((self.root / ".venv/installed.json").read_text())
        return list(stamp["extras"])

    def assert_works(self) -> None:
        code = "import pip, pulsar_relay, sys; print(pulsar_relay.__file__); print(sys.prefix)"
        command = [str(self.root / ".venv/bin/python"), "-c", code]
        answer = subprocess.run(
            command, cwd="/", env=self.environment, capture_output=True, text=True, check=True
        )
        assert answer.stdout.splitlines() == [
            str(self.root / "pulsar_relay/__init__.py"),
            str(self.root / ".venv"),
        ]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.make(tmp_path / "checkout")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose environment is made, to be copied: making one takes seconds."""
    project = Project.make(tmp_path_factory.mktemp("installed") / "checkout")
    project.run("test")
    return project.root


@dataclass
class Index:
    """A package index with one pip in it: the one of these tests' own environment, packed again."""

    wheel: bytes
    announced_hash: str
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def page(self) -> bytes:
        def entry(version: str, **more: object) -> dict[str, object]:
            name = f"pip-{version}-py3-none-any.whl"
            return {
                "filename": name,
                "url": f"../../files/{name}",
                "hashes": {"sha256": self.announced_hash},
                **more,
            }

        files = [
            entry("1.0"),
            entry("99.10", **{"requires-python": ">=3.9", "yanked": False}),
            entry("99.9"),
            entry("100.0b1"),
            entry("101.0", yanked="broken"),
            entry("102.0", **{"requires-python": ">=4.0"}),
            {"filename": "pip-103.0.tar.gz", "url": "x", "hashes": {}},
        ]
        return json.dumps({"meta": {"api-version": "1.1"}, "name": "pip", "files": files}).encode()

    def answer(self, path: str, login: str | None) -> bytes:
        self.requests.append((path, login))
        return self.page() if path.startswith("/simple/") else self.wheel


@pytest.fixture(scope="session")
def pip_wheel(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """pip, as version 99.10, made from the files of the pip that runs here."""
    path = tmp_path_factory.mktemp("pip") / "pip.whl"
    files = importlib.metadata.distribution("pip").files or []
    record = "pip-99.10.dist-info/RECORD"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        names = [record]
        for file in files:
            directory, _, rest = str(file).partition("/")
            if (
                "__pycache__" in rest
                or directory == ".."
                or rest in {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
            ):
                continue
            name = f"pip/{rest}" if directory == "pip" else f"pip-99.10.dist-info/{rest}"
            content = Path(str(file.locate())).read_bytes()
            if rest == "METADATA":
                version = importlib.metadata.version("pip")
                content = content.replace(f"\nVersion: {version}\n".encode(), b"\nVersion: 99.10\n", 1)
            wheel.writestr(name, content)
            names.append(name)
        wheel.writestr(record, "".join(f"{name},,\n" for name in names))
    return path.read_bytes()


@pytest.fixture
def index(pip_wheel: bytes) -> Iterator[Index]:
    index = Index(pip_wheel, hashlib.sha256(pip_wheel).hexdigest())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = index.answer(self.path, self.headers["Authorization"])
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is http.server's
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index.url = f"http://127.0.0.1:{server.server_port}/simple"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield index
        server.shutdown()
        thread.join()


def copy_of(installed: Path, root: Path) -> Project:
    """A checkout like `installed` at another place, its `.venv` made for there."""
    project = Project.make(root)
    shutil.copytree(installed / ".venv", root / ".venv", symlinks=True)
    for file in (root / ".venv").rglob("*"):
        if file.is_file() and not file.is_symlink() and file.suffix in {".pth", ".json", ".cfg"}:
            file.write_text(file.read_text().replace(str(installed), str(root)))
    return project


def test_an_environment_is_made_once_and_then_left_alone(project: Project) -> None:
    assert "installing" in project.run()
    project.assert_works()
    assert project.run() == ""


def test_without_venv_ensurepip_and_pip_the_newest_pip_that_fits_comes_from_the_index(
    project: Project, index: Index
) -> None:
    project.environment |= {
        "HIDDEN": "venv ensurepip",
        "HIDDEN_FROM_BASE": "pip",
        "PIP_INDEX_URL": index.url.replace("//", "//somebody:hunter2@"),
    }
    output = project.run("test")
    login = "Basic " + base64.b64encode(b"somebody:hunter2").decode()
    assert index.requests == [("/simple/pip/", login), ("/files/pip-99.10-py3-none-any.whl", login)]
    assert "hunter2" not in output
    project.assert_works()
    assert project.extras == ["test"]


def test_a_pip_that_is_not_what_the_index_announced_is_never_run(project: Project, index: Index) -> None:
    project.environment |= {
        "HIDDEN": "venv ensurepip",
        "HIDDEN_FROM_BASE": "pip",
        "PIP_INDEX_URL": index.url,
    }
    index.wheel += b"x"
    assert "not what the index announced" in project.refusal()
    assert not (project.root / ".venv/installed.json").exists()


def test_an_index_that_cannot_be_reached_is_named_with_the_cure(project: Project) -> None:
    project.environment |= {"HIDDEN": "venv ensurepip", "HIDDEN_FROM_BASE": "pip"}
    output = project.refusal()
    assert "fetching it from http://127.0.0.1:9/simple" in output
    assert "apt-get install python3-venv" in output


def test_after_a_failure_the_next_run_finishes_the_work(project: Project, index: Index) -> None:
    project.environment |= {"HIDDEN": "venv ensurepip", "HIDDEN_FROM_BASE": "pip"}
    project.refusal()
    project.environment["PIP_INDEX_URL"] = index.url
    project.run()
    project.assert_works()


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml", "pulsar_relay/__init__.py"])
def test_a_change_of_what_decides_the_content_installs_again(
    installed: Path, tmp_path: Path, name: str
) -> None:
    project = copy_of(installed, tmp_path / "checkout")
    assert project.run("test") == ""
    with (project.root / name).open("a") as file:
        file.write("\n# changed\n")
    output = project.run()
    assert "installing" in output
    assert "making" not in output
    assert project.run("test") == "", "what the tests need was kept"


def test_an_extra_that_is_missing_is_added_to_those_installed(installed: Path, tmp_path: Path) -> None:
    project = copy_of(installed, tmp_path / "checkout")
    assert "installing" in project.run("more")
    assert project.extras == ["more", "test"]


def test_an_environment_that_was_moved_with_its_checkout_is_made_anew(
    installed: Path, tmp_path: Path
) -> None:
    project = Project.make(tmp_path / "checkout")
    shutil.copytree(installed / ".venv", project.root / ".venv", symlinks=True)
    assert "making" in project.run()
    project.assert_works()


def test_an_environment_whose_python_is_gone_is_made_anew(installed: Path, tmp_path: Path) -> None:
    project = copy_of(installed, tmp_path / "checkout")
    for link in (project.root / ".venv/bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nonexistent/python")
    assert "making" in project.run()
    project.assert_works()


def test_a_directory_of_that_name_that_is_no_environment_is_left_alone(project: Project) -> None:
    (project.root / ".venv").mkdir()
    (project.root / ".venv/precious").write_text("mine")
    assert "is not a virtual environment; move it away" in project.refusal()
    assert (project.root / ".venv/precious").read_text() == "mine"


def test_two_at_the_same_time_make_one_environment_and_both_find_it(project: Project) -> None:
    processes = [project.start("test"), project.start()]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "".join(outputs).count("making") == 1
    project.assert_works()


def test_an_interpreter_that_is_too_old_is_told_which_one_is_needed(project: Project) -> None:
    code = (
        "import runpy, sys; sys.version_info = (3, 10, 0); "
        "runpy.run_path('tools/environment.py', run_name='__main__')"
    )
    command = [BASE_PYTHON, "-c", code]
    done = subprocess.run(
        command, cwd=project.root, env=project.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "3.11 or newer is needed. Try: make PYTHON=python3.11" in done.stderr
