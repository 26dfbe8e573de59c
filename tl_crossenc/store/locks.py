"""One process at a time in a folder of results, and whether the folder is still the one that was locked.

The lock is the operating system's, on the file `.lock` of the folder: `flock`, on Windows a locked byte. It goes with the process
that holds it, however that ends, so that nothing stale is ever left. While it is held the file says by whom; that text is for
messages, nothing depends on it.

Limits. Between machines the lock is as good as the file system's: NFS and SMB carry it to the server where locking is on (Linux
turns `flock` into a lock of the whole file there), and a client that dies is freed when the server notices. Where a file system
has no locks at all there is a warning, and the work goes on without one. A child forked while the lock is held holds it too.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tl_crossenc.store.files import StoreError, explained

LOCK = ".lock"
WAIT = 3600.0
"""Seconds that a process waits for another to leave a folder, where nothing else is said."""
POLL = 0.5
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
_BYTE = 1 << 30  # which byte is locked on Windows: one past the text, which others may read

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LockedFolder:
    """A folder while its lock is held.

    Attributes:
        path: where it was when it was locked.
        places: (device, inode) of the folder and of its lock file.
    """

    path: Path
    places: tuple[tuple[int, int], tuple[int, int]]

    def verify(self, names: Sequence[str] = ()) -> None:
        """Whether the path still leads to the folder that was locked, and the files named are in it.

        Raises:
            StoreError: the folder or its lock file was removed, renamed or replaced in the meantime, or a file is gone.
        """
        try:
            same = _places(self.path) == self.places
        except OSError:
            same = False
        if not same:
            raise StoreError(
                f"expected {self.path} to stay where it is while results are written into it, but it was removed, renamed or "
                "replaced: the results are incomplete; put it back, or run again into another --out"
            )
        gone = [name for name in names if not (self.path / name).is_file()]
        if gone:
            raise StoreError(
                f"expected the {len(names)} files of this run in {self.path}, but {len(gone)} are gone, such as {gone[0]}: "
                "something removed them while the run went on; run again"
            )


@contextmanager
def locked(
    folder: Path, *, wait: int | float = WAIT, waiting: Callable[[], object] = lambda: None, poll: float = POLL
) -> Iterator[LockedFolder]:
    """Hold a folder's lock inside of the block; where another process holds it, wait for that one to end.

    Args:
        folder: which exists.
        wait: seconds to wait at most.
        waiting: called before every look at a lock that another holds; what it raises ends the waiting.
        poll: seconds between two looks.

    Raises:
        StoreError: the lock is still held after `wait` seconds, or the file system refused.
    """
    path, deadline, told = folder / LOCK, time.monotonic() + wait, False
    handle = _attempt(path)
    while handle is None:
        waiting()
        if time.monotonic() >= deadline:
            raise StoreError(
                f"expected {folder} to be free within {wait:g} seconds, but {_holder(path)} is still working in it: run "
                "again later, or choose another --out"
            )
        if not told:
            _log.warning("waiting for %s, which is working in %s, for %g seconds at most", _holder(path), folder, wait)
            told = True
        time.sleep(min(poll, max(0.0, deadline - time.monotonic())))
        handle = _attempt(path)
    try:
        _note(handle, f"process {os.getpid()} on {platform.node() or 'this machine'}\n")
        with explained(folder, doing="read"):
            held = LockedFolder(folder, _places(folder))
        yield held
    finally:
        _note(handle, "")
        os.close(handle)  # which frees the lock


def _places(folder: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    own, lock = folder.stat(), (folder / LOCK).stat()
    return (own.st_dev, own.st_ino), (lock.st_dev, lock.st_ino)


def _attempt(path: Path) -> int | None:
    """An open handle that holds the lock, or None where another does."""
    with explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            held = _lock(handle)
            if held:
                own, there = os.fstat(handle), path.stat()
                held = (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)  # else it was replaced under our hands
        except FileNotFoundError:
            held = False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                raise
            _log.warning("%s is on a file system without locks: see to it that one process at a time uses it", path)
            return handle
        if held:
            return handle
        os.close(handle)
        return None


def _lock(handle: int) -> bool:
    """Lock an open file without waiting; whether that succeeded."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, _BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK):
            return False
        raise
    return True


def _note(handle: int, text: str) -> None:
    """Put the holder's name into the lock file; a disk that is full keeps nobody from working."""
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        if text:
            os.write(handle, text.encode())


def _holder(path: Path) -> str:
    with suppress(OSError):
        said = "".join(filter(str.isprintable, path.read_text("utf-8", "replace")[:200]))
        if said:
            return said
    return "another process"
