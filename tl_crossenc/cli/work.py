"""How a command says what became of its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tl_crossenc.cli.output import say

if TYPE_CHECKING:
    from tl_crossenc.executors.executor import Executor
    from tl_crossenc.executors.sharded import Shard, ShardRun
    from tl_crossenc.executors.task import CellsFailed
    from tl_crossenc.results.unavailable import Unavailable
    from tl_crossenc.store.cells import Store
    from tl_crossenc.store.locks import LockedFolder

UNTYPED = ("", "analyses")
"""Commands of jobs that nobody types: of a folder that is nobody's yet, and of the scripts."""


def typed(command: str) -> str:
    """A job's command as it is typed.

    >>> typed("rerank"), typed("analyses")
    ('tl-crossenc rerank', 'the job')
    """
    return "the job" if command in UNTYPED else f"tl-crossenc {command}"


def say_shard(shard: Shard, done: ShardRun, out: Path) -> None:
    """What a shard did, what is left to others and what to do next.

    Raises:
        CellsFailed: cells of its own could not be computed.
    """
    say(f"Shard {shard}: {done.computed:,} cells computed now; they are in {out}/.")
    if done.others:
        say(f"{done.others:,} cells are other shards' and not in {out}/ yet.")
    if done.waiting:
        say(f"Waiting for them: {', '.join(done.waiting)}.")
        say("When all shards are done, merge their folders, where they have several, with tl-crossenc merge.")
        say("Then run again: with --shard for a second round, or without it to compute what is left here and draw.")
    elif not done.failed:
        say("Every cell is there: run without --shard to draw.")
    refuse_failed(done.failed)


@contextmanager
def shared_work(executor: Executor, what: str) -> Iterator[dict[str, Unavailable]]:
    """A block in which an executor computes; of a shard, what the block lacks to end is told in place of raised.

    Raises:
        Unavailable: the executor is no shard.
    """
    from tl_crossenc.executors.sharded import Shard
    from tl_crossenc.results.unavailable import Unavailable

    reasons: dict[str, Unavailable] = {}
    try:
        with executor:
            yield reasons
    except Unavailable as reason:
        if not isinstance(executor, Shard):
            raise
        reasons[what] = reason


def ends_shard(
    executor: Executor, folder: LockedFolder, store: Store, reasons: Mapping[str, Unavailable], out: Path
) -> bool:
    """Whether the executor is a shard, whose work is said and done then.

    Raises:
        CellsFailed: cells of its own could not be computed.
    """
    from tl_crossenc.executors.sharded import Shard

    if not isinstance(executor, Shard):
        return False
    folder.verify()
    say_shard(executor, executor.done(store, reasons), out)
    return True


def refuse_failed(failed: Mapping[str, CellsFailed]) -> None:
    """Whether all cells could be computed.

    Raises:
        CellsFailed: some could not.
    """
    if failed:
        from tl_crossenc.executors.task import CellsFailed

        error = CellsFailed.of(failed.values())
        raise error from error.failures[0].cause
