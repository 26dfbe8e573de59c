"""One process at a time in a folder: real processes, one of them killed while it holds the lock."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tl_crossenc.store import locks
from tl_crossenc.store.files import StoreError
from tl_crossenc.store.locks import LOCK, locked

HOLDER = """
import sys, time
from pathlib import Path
from tl_crossenc.store.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds the folder's lock for some seconds; it is gone at the end of the test."""
    started = []

    def start(seconds=60):
        command = [sys.executable, "-c", HOLDER, str(tmp_path), str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()


def test_a_second_process_is_told_who_is_at_work_and_for_how_long_it_waited(tmp_path, hold):
    process = hold()
    began = time.monotonic()
    said = f"free within 0.3 seconds, but process {process.pid} on {platform.node()} is still"
    with pytest.raises(StoreError, match=said), locked(tmp_path, wait=0.3, poll=0.05):
        raise AssertionError("the lock is held by another")
    assert 0.3 <= time.monotonic() - began < 10


def test_a_second_process_goes_on_when_the_first_is_done(tmp_path, hold, caplog):
    process, looks = hold(1.0), []
    with locked(tmp_path, wait=60, poll=0.05, waiting=lambda: looks.append(process.poll())):
        process.wait(timeout=30)
        assert f"process {os.getpid()} on" in (tmp_path / LOCK).read_text()
    assert looks
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        f"waiting for process {process.pid} on {platform.node()}"
    ]
    assert (tmp_path / LOCK).read_bytes() == b""


def test_a_process_that_is_killed_holds_nothing(tmp_path, hold):
    process = hold()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert str(process.pid) in (tmp_path / LOCK).read_text()  # nothing depends on what it left
    with locked(tmp_path, wait=0):
        pass
    assert (tmp_path / LOCK).read_bytes() == b""


def test_what_waiting_raises_ends_it(tmp_path, hold):
    hold()

    def refuse():
        raise ValueError("another job")

    with pytest.raises(ValueError, match="another job"), locked(tmp_path, wait=60, waiting=refuse):
        pass


def test_two_threads_of_one_process_exclude_each_other(tmp_path):
    with locked(tmp_path), pytest.raises(StoreError, match=f"process {os.getpid()} on"), locked(tmp_path, wait=0):
        pass
    with locked(tmp_path, wait=0):
        pass


def test_an_error_inside_frees_the_lock(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path, wait=0):
        pass


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced", "lock removed"])
def test_a_folder_that_does_not_stay_where_it_is_is_noticed(tmp_path, how):
    folder = tmp_path / "out"
    folder.mkdir()
    with locked(folder) as held:
        held.verify()
        if how == "removed":
            shutil.rmtree(folder)
        elif how == "lock removed":
            (folder / LOCK).unlink()
        else:
            folder.rename(tmp_path / "elsewhere")
        if how == "replaced":
            shutil.copytree(tmp_path / "elsewhere", folder)
        with pytest.raises(StoreError, match=r"to stay where it is .* removed, renamed or replaced"):
            held.verify()


def test_files_that_are_gone_are_named(tmp_path):
    (tmp_path / "a").write_text("")
    with locked(tmp_path) as held:
        held.verify(["a"])
        with pytest.raises(StoreError, match=r"the 3 files .* 2 are gone, such as b:"):
            held.verify(["a", "b", "c"])


def test_a_lock_file_that_is_replaced_while_waiting_is_not_the_folders(tmp_path, monkeypatch):
    """The handle that was locked leads to no name any more: it excludes nobody."""
    lock = locks._lock

    def replaced(handle):
        monkeypatch.setattr(locks, "_lock", lock)
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).touch()
        return lock(handle)

    monkeypatch.setattr(locks, "_lock", replaced)
    with locked(tmp_path, wait=5, poll=0.01) as held:
        held.verify()
        with pytest.raises(StoreError), locked(tmp_path, wait=0):
            pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    import errno

    def refuse(handle):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks, "_lock", refuse)
    with locked(tmp_path, wait=0) as held:
        held.verify()
    assert "file system without locks" in caplog.text


def test_control_characters_in_a_lock_file_are_not_shown(tmp_path, hold):
    hold()
    (tmp_path / LOCK).write_text("\x1b[31mprocess 1 on host\n")
    with pytest.raises(StoreError, match=r"but \[31mprocess 1 on host is still"), locked(tmp_path, wait=0):
        pass
