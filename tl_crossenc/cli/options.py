"""The options that several commands share, and what reads the numbers in them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tl_crossenc.console.shown import quoted

if TYPE_CHECKING:
    from tl_crossenc.executors.executor import Executor

DTYPES = ("float32", "bfloat16", "float64")
MOST_TOKENS, MOST_PASSAGES, MOST_SECONDS = 1 << 24, 1_000_000, 10_000_000
"""Of padded tokens a batch, of passages a query, of waiting."""
MOST_CPUS = 4096
_OF_RAY = ("address", "cpus_per_actor", "patience")


def model_options(parser: argparse.ArgumentParser, *, lengths: bool = False) -> None:
    """How the model is opened; `of_the_model` reads them. With `lengths`, `--max-length` takes several."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps or xpu (default: auto)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(default: float32)")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--tokenizer", help="folder or hub name of a tokenizer, in place of the checkpoint's own")
    several: dict[str, Any] = {"nargs": "+", "metavar": "N"} if lengths else {}
    parser.add_argument(
        "--max-length",
        type=number(4, MOST_TOKENS),
        help="tokens a pair is cut to (default: the tokenizer's limit)" + lengths * "; several are put side by side",
        **several,
    )
    parser.add_argument(
        "--score",
        metavar="RULE",
        help="what of the logits is the score: single, difference, difference:K (K the relevant label of two) or index:K (default: "
        "as the checkpoint's labels say, else logit 1 minus logit 0)",
    )


def of_the_model(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the model is opened, as keyword arguments of `from_pretrained`, `check_parity` and `Settings`."""
    return {
        "device": arguments.device,
        "dtype": arguments.dtype,
        "revision": arguments.revision,
        "tokenizer": arguments.tokenizer,
        "max_length": arguments.max_length,
        "score": arguments.score,
    }


def token_budget_option(parser: argparse.ArgumentParser) -> None:
    """How much the model takes at a time."""
    parser.add_argument(
        "--token-budget",
        type=number(1, MOST_TOKENS),
        help="padded tokens a batch (default: what suits the device)",
    )


def wait_option(parser: argparse.ArgumentParser) -> None:
    """How long another process at the same folder is waited for."""
    parser.add_argument(
        "--wait",
        type=number(1, MOST_SECONDS),
        default=3600,
        metavar="SECONDS",
        help="to wait for another process that does the same into the same folder (default: 3600)",
    )


def executor_options(parser: argparse.ArgumentParser) -> None:
    """Who computes what is missing; `executor_of` reads them."""
    parser.add_argument(
        "--shard",
        type=share,
        metavar="I/N",
        help="compute the I-th of N parts of the cells and show nothing, such as 2/8; for several processes at one job, into one "
        "folder or into folders that are merged",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="who computes: this process, or Ray's actors, one a GPU where the cluster has some (pip install 'tl-crossenc[ray]') "
        "(default: local)",
    )
    parser.add_argument(
        "--address",
        metavar="A",
        help="of Ray's cluster: auto for the one started here, host:port, or local for one that ends with the command "
        "(default: local)",
    )
    parser.add_argument(
        "--cpus-per-actor",
        type=number(1, MOST_CPUS),
        metavar="N",
        help="CPUs and threads of one of Ray's actors; the last digits of scores on CPUs depend on it (default: as many as torch's "
        "threads here; 1 on GPUs)",
    )
    parser.add_argument(
        "--patience",
        type=number(1, MOST_SECONDS),
        metavar="SECONDS",
        help="without a sign of work from any of Ray's actors before giving up (default: 3600)",
    )


def executor_of(arguments: argparse.Namespace) -> Executor:
    """The executor that was asked for, which is closed by whoever asked.

    Raises:
        ValueError: options that do not go together, or Ray is not installed.
    """
    from tl_crossenc.executors.executor import IN_PROCESS
    from tl_crossenc.executors.sharded import Shard

    if arguments.engine == "ray":
        return _on_ray(arguments)
    for name in _OF_RAY:
        if getattr(arguments, name) is not None:
            raise ValueError(f"expected --engine ray beside --{name.replace('_', '-')}: add it, or leave that away")
    return IN_PROCESS if arguments.shard is None else Shard(*arguments.shard)


def _on_ray(arguments: argparse.Namespace) -> Executor:
    from tl_crossenc.executors.on_ray import OnRay

    if arguments.shard is not None:
        raise ValueError("expected --engine ray or --shard, got both: Ray's actors share all cells as they come free")
    kind = arguments.device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda"):
        raise ValueError(f"expected --device auto, cpu or cuda with --engine ray, got {quoted(arguments.device, 40)}")
    given = {name: value for name in _OF_RAY if (value := getattr(arguments, name)) is not None}
    try:
        return OnRay(device=kind, **given)
    except ImportError as error:
        raise ValueError(str(error)) from None


def share(text: str) -> tuple[int, int]:
    """A shard, as `parse_share` reads it."""
    from tl_crossenc.executors.share import parse_share

    try:
        return parse_share(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(least: int, most: int) -> Callable[[str], int]:
    """What reads a whole number in these bounds: more than anything can use would take all memory or run for ever."""

    def read(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not digits or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {quoted(text, 40)}")
        return int(text)

    return read


def count_or_all(text: str) -> int | None:
    """A number of passages or of queries; None for `all`."""
    return None if text == "all" else number(1, MOST_PASSAGES)(text)


def grades(text: str) -> tuple[int, ...]:
    """Grades of relevance, as `parse_grades` reads them."""
    from tl_crossenc.pools.grades import parse_grades

    try:
        return parse_grades(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
