from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulsar_relay.store.data_directory import (
    LOG_BYTES,
    SOCKET_PATH_BYTES,
    DataDirectory,
    DataDirectoryInUseError,
    EmbeddedValkeyError,
    ServerRecord,
)

RECORD = ServerRecord(123, "456", "9.1.2", ("valkey-server", "--port", "0"))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    directory = DataDirectory(tmp_path / "valkey")
    directory.own()
    yield directory
    directory.disown()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def append_only_files(directory: DataDirectory, **contents: bytes) -> dict[Path, bytes]:
    """Write `base`, `incr` and `manifest` as given; return what is there."""
    names = {"base": "1.base.rdb", "incr": "1.incr.aof", "manifest": "manifest"}
    folder = directory.path / "appendonlydir"
    folder.mkdir()
    for part, content in contents.items():
        (folder / f"appendonly.aof.{names[part]}").write_bytes(content)
    return files_in(folder)


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir()}


# Owning.


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "new" / "valkey")
    directory.own()
    assert mode(directory.path) == 0o700
    directory.disown()


def test_an_empty_directory_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "made-by-hand"
    path.mkdir()
    path.chmod(0o777)
    directory = DataDirectory(path)
    directory.own()
    assert mode(path) == 0o700
    directory.disown()


def test_a_directory_with_files_of_others_is_refused_if_others_can_write_it(tmp_path: Path) -> None:
    (tmp_path / "somebody's").touch()
    tmp_path.chmod(0o777)
    with pytest.raises(EmbeddedValkeyError, match="can be written by other users"):
        DataDirectory(tmp_path).own()
    assert mode(tmp_path) == 0o777


def test_a_directory_with_files_of_others_keeps_its_mode_if_only_we_can_write_it(tmp_path: Path) -> None:
    (tmp_path / "somebody's").touch()
    tmp_path.chmod(0o755)
    directory = DataDirectory(tmp_path)
    directory.own()
    assert mode(tmp_path) == 0o755
    directory.disown()


def test_a_path_that_is_no_directory_is_refused_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedValkeyError, match=r"cannot be used.*choose another `embedded\.data_dir`"):
        DataDirectory(tmp_path / "file" / "valkey").own()


def test_a_directory_that_cannot_be_written_is_refused_with_a_cure() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(EmbeddedValkeyError, match=r"Permission denied.*Make it a writable directory"):
                DataDirectory(Path(name) / "valkey").own()
        finally:
            os.seteuid(user)


def test_a_directory_has_one_owner_at_a_time(directory: DataDirectory) -> None:
    second = DataDirectory(directory.path)
    with pytest.raises(DataDirectoryInUseError, match=f"in use by pid {os.getpid()}"):
        second.own()
    second.disown()
    directory.disown()
    second.own()
    with pytest.raises(DataDirectoryInUseError):
        directory.own()
    second.disown()


def test_two_names_of_one_directory_are_one_directory(directory: DataDirectory, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(directory.path)
    other = DataDirectory(tmp_path / "link")
    assert other.socket_path == directory.socket_path
    with pytest.raises(DataDirectoryInUseError):
        other.own()


def test_a_directory_that_is_given_up_is_free_although_a_forked_process_lives(
    directory: DataDirectory,
) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        directory.disown()
        second = DataDirectory(directory.path)
        second.own()
        second.disown()
    finally:
        os.close(write)
        os.waitpid(child, 0)


def test_the_lock_of_a_server_lives_as_long_as_the_last_copy_of_its_descriptor(
    directory: DataDirectory,
) -> None:
    lock = directory.lock_server()
    assert lock is not None
    inherited = os.dup(lock)
    os.close(lock)
    assert directory.lock_server() is None
    os.close(inherited)
    lock = directory.lock_server()
    assert lock is not None
    os.close(lock)


# The record.


def test_a_record_is_read_back(directory: DataDirectory) -> None:
    assert directory.recorded() is None
    directory.record(RECORD)
    assert directory.recorded() == RECORD
    directory.forget()
    assert directory.recorded() is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"pid": "x", "start_time": "", "version": "", "arguments": []}', "null"]
)
def test_a_damaged_record_is_none(text: str, directory: DataDirectory) -> None:
    (directory.path / "server.json").write_text(text)
    assert directory.recorded() is None


# The data.


def test_data_without_a_manifest_is_refused_and_left_alone(directory: DataDirectory) -> None:
    before = append_only_files(directory, base=b"x" * 1000, incr=b"*")
    with pytest.raises(EmbeddedValkeyError, match=r"no appendonly\.aof\.manifest.*Restore the manifest"):
        directory.check_data()
    assert files_in(directory.path / "appendonlydir") == before


def test_commands_without_a_manifest_are_data_too(directory: DataDirectory) -> None:
    append_only_files(directory, base=b"x" * 89, incr=b"*")
    with pytest.raises(EmbeddedValkeyError):
        directory.check_data()


@pytest.mark.parametrize(
    "contents",
    [{}, {"base": b"x" * 89, "incr": b""}, {"base": b"x" * 1000, "incr": b"*", "manifest": b"file"}],
)
def test_data_with_its_manifest_and_no_data_at_all_are_fine(
    contents: dict[str, bytes], directory: DataDirectory
) -> None:
    before = append_only_files(directory, **contents)
    directory.check_data()
    assert files_in(directory.path / "appendonlydir") == before


def test_a_snapshot_is_not_restored_over_an_append_only_file(directory: DataDirectory) -> None:
    before = append_only_files(directory, base=b"x" * 1000, manifest=b"file")
    (directory.path / "dump.rdb").write_bytes(b"older")
    directory.check_data()
    assert files_in(directory.path / "appendonlydir") == before


def test_a_snapshot_is_not_restored_over_an_append_only_file_of_old_times(directory: DataDirectory) -> None:
    (directory.path / "appendonly.aof").write_bytes(b"*")
    (directory.path / "dump.rdb").write_bytes(b"older")
    directory.check_data()
    assert not (directory.path / "appendonlydir").exists()


def test_drafts_of_killed_servers_are_removed(directory: DataDirectory) -> None:
    for name in ("temp-123.rdb", "temp-rewriteaof-bg-123.aof", "temp-rewriteaof-123.aof"):
        (directory.path / name).touch()
    (directory.path / "temp-notes.txt").touch()
    directory.check_data()
    assert [path.name for path in directory.path.glob("temp-*")] == ["temp-notes.txt"]


# The socket.


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataDirectory]:
    with tempfile.TemporaryDirectory(prefix="run-") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield DataDirectory(tmp_path / ("x" * SOCKET_PATH_BYTES))


def test_a_short_path_has_its_socket_inside(directory: DataDirectory) -> None:
    assert directory.socket_path == directory.path / "valkey.sock"


def test_a_long_path_has_its_socket_in_the_runtime_directory_of_the_user(long: DataDirectory) -> None:
    assert str(long.socket_path).startswith(os.environ["XDG_RUNTIME_DIR"] + "/")
    assert len(os.fsencode(long.socket_path)) <= SOCKET_PATH_BYTES
    long.make_socket_directory()
    assert mode(long.socket_path.parent) == 0o700
    long.make_socket_directory()
    long.forget()
    assert not long.socket_path.parent.exists()


@pytest.mark.parametrize("runtime", ["", "relative", "/no/such/directory", "/" + "x" * 100])
def test_a_useless_runtime_directory_is_passed_over(
    runtime: str, long: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(tempfile, "tempdir", runtime)
    assert str(DataDirectory(long.path).socket_path).startswith("/tmp/")


def test_two_long_paths_have_two_sockets(long: DataDirectory) -> None:
    assert DataDirectory(long.path / "other").socket_path != long.socket_path


def test_a_socket_directory_that_others_can_enter_is_refused(long: DataDirectory) -> None:
    long.socket_path.parent.mkdir()
    long.socket_path.parent.chmod(0o755)
    with pytest.raises(EmbeddedValkeyError, match="not a directory of this user alone"):
        long.make_socket_directory()


def test_a_socket_directory_that_is_a_link_is_refused(long: DataDirectory, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    long.socket_path.parent.symlink_to(tmp_path)
    with pytest.raises(EmbeddedValkeyError, match="not a directory of this user alone"):
        long.make_socket_directory()


# The log.


def test_a_long_log_is_put_aside_and_a_short_one_is_not(directory: DataDirectory) -> None:
    directory.rotate_log()
    directory.log_path.write_bytes(b"x" * LOG_BYTES)
    directory.rotate_log()
    assert directory.log_size() == LOG_BYTES
    directory.log_path.write_bytes(b"x" * (LOG_BYTES + 1))
    directory.rotate_log()
    assert directory.log_size() == 0
    assert (directory.path / "valkey.log.1").stat().st_size == LOG_BYTES + 1


def test_the_last_words_are_those_of_this_start(directory: DataDirectory) -> None:
    assert directory.last_words(0) == ""
    directory.log_path.write_text("an earlier start\n")
    since = directory.log_size()
    with open(directory.log_path, "a") as log:
        log.writelines(f"line {number}\n" for number in range(10_000))
    assert directory.last_words(since, lines=2) == "line 9998\nline 9999"
    assert directory.last_words(directory.log_size()) == ""
