"""Whole files or none: written beside their target, fsynced, renamed; and what dead writers left is removed.

A process killed at any moment leaves the old file or the new one under a name, never a part of either, and
perhaps a temporary file, which `sweep` removes once its writer is gone.
"""

import errno
import hashlib
import logging
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tl_crossenc.console.shown import shown

__all__ = [
    "StoreError",
    "explained",
    "irregular",
    "is_gone",
    "make_folder",
    "place_copy",
    "read_regular",
    "regular",
    "rename",
    "sha256",
    "staged",
    "sweep",
    "sync_folder",
    "write_atomic",
]

STALE_SECONDS = 3600.0

_log = logging.getLogger(__name__)
_TEMPORARY = re.compile(r"\..+\.tmp-([0-9a-f]{8})-([1-9][0-9]{0,9})-[0-9a-f]{16}")
_HERE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # a process id means something on one machine
_in_flight: set[str] = set()  # names of the temporary files that this process is writing now


class StoreError(OSError):
    """The file system refused; the text is one sentence for the user."""


def regular(path: Path) -> Path:
    """The path, where a regular file lies: opening a pipe would wait for ever, and a device never ends.

    Raises:
        ValueError: something else lies there, or nothing.
    """
    try:
        what = irregular(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"expected a file at {shown(path)}, which cannot be read ({reason})") from error
    if what:
        raise ValueError(f"expected a file at {shown(path)}, got {what}")
    return path


def irregular(path: Path) -> str:
    """What lies at a path where a regular file should: `a folder`, `a pipe`; nothing where one does.

    Raises:
        OSError: nothing lies there, or it may not be looked at.
    """
    mode = path.stat().st_mode
    kinds = {
        stat.S_IFREG: "",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The contents of a file that somebody else wrote, of at most `most` bytes.

    Raises:
        ValueError: there is no regular file of that size.
    """
    path = regular(Path(path))
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise ValueError(f"expected a file at {shown(path)}, which cannot be read ({error.strerror})") from error
    if len(data) > most:
        raise ValueError(
            f"expected a file of at most {most:,} bytes at {shown(path)}, got a larger one: it is no such file"
        )
    return data


def sha256(path: Path) -> str:
    """The SHA-256 of a file's contents, in hexadecimal digits.

    Raises:
        ValueError: no regular file lies there, or it cannot be read.
    """
    try:
        with regular(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"expected a file at {shown(path)}, which cannot be read ({error.strerror})") from error


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a whole file or none, durably; make its folder where there is none.

    Text is written as UTF-8, line ends as they are. Raises StoreError, and then `path` is as it was.
    """
    path = Path(path)
    with explained(path):
        make_folder(path.parent)
        with staged(path, data.encode() if isinstance(data, str) else data) as temporary:
            rename(temporary, path)


def sweep(root: Path) -> int:
    """Remove the temporary files that dead processes left under `root`, no other; return how many."""
    removed = 0
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names if is_temporary(name)):
            with suppress(OSError):  # gone in the meantime, or not ours to remove: harmless either way
                if _is_orphan(path):
                    path.unlink()
                    removed += 1
    if removed:
        _log.info("removed %d unfinished file(s) of an interrupted run from %s", removed, root)
    return removed


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a temporary file of ours."""
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def explained(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn what the file system says inside the block into a StoreError of one sentence about `path`."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space and run again" if full else f"choose a place that you may {doing}"
        reason = error.strerror or str(error)
        raise StoreError(f"could not {doing} {path} ({reason}): {advice}; nothing stored was harmed") from error


@contextmanager
def staged(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a temporary file beside `path` that durably holds the data; remove it unless it was renamed."""
    with _named_beside(path) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        yield temporary


def place_copy(source: Path, path: Path) -> None:
    """Put a file of ours at another place too, whole or not at all: by a hard link where the file system has them.

    Both may be the same file then, and neither is ever written in place. The folder is not synced yet (`sync_folder`).
    """
    with _named_beside(path) as temporary:
        try:
            if source.is_symlink():
                raise OSError(errno.ELOOP, "a link is read, not linked to")
            os.link(source, temporary)
        except OSError:  # another file system, one without hard links, or a file of somebody else's
            with staged(path, source.read_bytes()) as copy:
                os.replace(copy, path)
        else:
            os.replace(temporary, path)


@contextmanager
def _named_beside(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside `path`; what has that name in the end is removed."""
    temporary = path.with_name(f".{path.name[:40]}.tmp-{_HERE}-{os.getpid()}-{secrets.token_hex(8)}")
    _in_flight.add(temporary.name)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _in_flight.discard(temporary.name)


def rename(temporary: Path, path: Path) -> None:
    """Put a staged file in its place, durably."""
    os.replace(temporary, path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where absent, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(handle)


def _is_orphan(path: Path) -> bool:
    """Whether no live process can be writing the file: by process id on this machine, by age elsewhere."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or path.name in _in_flight:
        return False
    if time.time() - path.stat().st_mtime > STALE_SECONDS:
        return True
    if match[1] != _HERE:
        return False
    process = int(match[2])
    return process == os.getpid() or is_gone(process)  # else an earlier process with our number


def is_gone(process: int) -> bool:
    """Whether no process of this machine has the number; False where that cannot be told."""
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False
