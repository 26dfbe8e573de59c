import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tl_crossenc.store import files
from tl_crossenc.store.files import StoreError, sha256, staged, sweep, write_atomic

SHAPE = re.compile(r"\.(.+)\.tmp-([0-9a-f]{8})-([0-9]+)-([0-9a-f]{16})")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_write_atomic_writes_bytes_and_text_as_they_are(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "table.csv", "x,é\r\n1,2\n")
    write_atomic(str(tmp_path / "raw"), b"\x00\xff\r\n")
    assert (tmp_path / "a" / "b" / "table.csv").read_bytes() == b"x,\xc3\xa9\r\n1,2\n"
    assert (tmp_path / "raw").read_bytes() == b"\x00\xff\r\n"
    write_atomic(tmp_path / "raw", b"")
    assert (tmp_path / "raw").read_bytes() == b""
    assert names(tmp_path) == ["a", "raw"]
    assert names(tmp_path / "a" / "b") == ["table.csv"]


def test_write_atomic_takes_the_longest_name_that_the_file_system_takes(tmp_path):
    name = "n" * 255
    write_atomic(tmp_path / name, "1")
    assert names(tmp_path) == [name]


def test_write_atomic_honours_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "1")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    real, sizes = os.write, []

    def three_at_a_time(handle, data):
        sizes.append(len(data))
        return real(handle, data[:3])

    monkeypatch.setattr(files.os, "write", three_at_a_time)
    write_atomic(tmp_path / "file", "0123456789a")
    assert (tmp_path / "file").read_text() == "0123456789a"
    assert sizes == [11, 8, 5, 2]


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_before_the_rename_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, code):
    target = tmp_path / "file"
    target.write_text("old")

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, fail)
        with pytest.raises(StoreError) as caught:
            write_atomic(target, "new")
    text = str(caught.value)
    assert str(target) in text
    assert os.strerror(code) in text
    assert ("free some space" in text) == (code == errno.ENOSPC)
    assert "\n" not in text
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(tmp_path / "file", "new")
    assert names(tmp_path) == []


def test_a_failure_to_sync_the_folder_is_told_unless_the_file_system_has_no_such_thing(tmp_path, monkeypatch):
    real = os.fsync

    def refuse_folders(code):
        def fsync(handle):
            if os.path.isdir(f"/proc/self/fd/{handle}"):
                raise OSError(code, os.strerror(code))
            real(handle)

        return fsync

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", refuse_folders(errno.EINVAL))
        write_atomic(tmp_path / "one", "1")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", refuse_folders(errno.EIO))
        with pytest.raises(StoreError):
            write_atomic(tmp_path / "two", "2")
    assert (tmp_path / "one").read_text() == "1"
    assert names(tmp_path) == ["one", "two"]


def test_the_systems_own_limit_on_a_file_is_one_sentence(tmp_path):
    target = tmp_path / "file"
    write_atomic(target, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the kernel writes 4,096 bytes, then refuses
    try:
        with pytest.raises(StoreError, match=r"free some space and run again; nothing stored was harmed$"):
            write_atomic(target, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_target_that_is_a_folder_or_lies_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("1")
    with pytest.raises(StoreError, match=r"could not write .*folder"):
        write_atomic(tmp_path / "folder", "2")
    with pytest.raises(StoreError, match=r"could not write .*below"):
        write_atomic(tmp_path / "file" / "below", "2")
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == []


def test_a_temporary_file_lies_beside_its_target_and_names_its_process(tmp_path):
    with staged(tmp_path / "file.csv", b"12") as temporary, staged(tmp_path / "file.csv", b"3") as other:
        match = SHAPE.fullmatch(temporary.name)
        assert temporary.parent == tmp_path
        assert match is not None
        assert match[1] == "file.csv"
        assert int(match[3]) == os.getpid()
        assert temporary.read_bytes() == b"12"
        assert other != temporary
        assert sweep(tmp_path) == 0  # being written
    assert names(tmp_path) == []


def test_sweep_removes_what_dead_processes_left_and_nothing_else(tmp_path):
    with staged(tmp_path / "file", b"") as temporary:
        here = SHAPE.fullmatch(temporary.name)[2]
    elsewhere = "0" * 8 if here != "0" * 8 else "1" * 8
    dead, tail = dead_process(), "0123456789abcdef"
    fresh = {
        f".dead.tmp-{here}-{dead}-{tail}": False,
        f".ours-before.tmp-{here}-{os.getpid()}-{tail}": False,
        f".parent.tmp-{here}-{os.getppid()}-{tail}": True,
        f".elsewhere.tmp-{elsewhere}-{dead}-{tail}": True,
        f"dead.tmp-{here}-{dead}-{tail}": True,
        f".dead.tmp-{here}-{dead}-{tail}.csv": True,
        f".dead.tmp-{here}-{dead}-{tail[:-1]}": True,
        ".hidden": True,
        "notes.tmp": True,
    }
    folder = tmp_path / "cells" / "scores"
    folder.mkdir(parents=True)
    for name in fresh:
        (folder / name).write_text("x")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / f".dead.tmp-{here}-{dead}-{tail}").write_text("x")
    (tmp_path / "link").symlink_to(outside)
    assert sweep(tmp_path) == 2
    assert names(folder) == sorted(name for name, kept in fresh.items() if kept)
    assert len(names(outside)) == 1
    for path in folder.iterdir():  # 3,601 seconds old
        then = path.stat().st_mtime - 3601
        os.utime(path, (then, then))
    assert sweep(tmp_path) == 2  # of the live process and of the other machine
    assert len(names(folder)) == 5
    assert sweep(tmp_path) == 0


def test_the_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    """The digest of FIPS 180-2's first example; nothing but a regular file is opened, so that a pipe is not waited for."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    os.mkfifo(tmp_path / "pipe")
    for name, got in (("pipe", "got a pipe"), (".", "got a folder"), ("none", "cannot be read")):
        with pytest.raises(ValueError, match=got):
            sha256(tmp_path / name)
