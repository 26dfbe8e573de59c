"""Contrast pairs patched at a site: every pair under every patch, a summary with intervals and tests, and the strongest patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.activation import activation_patch
from tl_crossenc.patching.attribution import Agreement, agreement, attribution_patch
from tl_crossenc.patching.counterfactuals import AlignedPairs
from tl_crossenc.patching.pairs_file import LeftOut, align_file, read_pairs
from tl_crossenc.patching.path import path_patch
from tl_crossenc.patching.result import MEASURES, MODES, Measure, PatchResult
from tl_crossenc.patching.sites import SITES
from tl_crossenc.store.files import sha256

METHODS = ("exact", "attribution")
SHOWN = 10
"""Patches that are called the strongest."""


@dataclass(frozen=True)
class PatchSettings:
    """What is patched, and how it is measured.

    Attributes:
        site, by, direction, mode: as `activation_patch` takes them.
        receiver: of the paths from every head, as `path_patch` takes it, in place of a site.
        measure: of the summary, "difference" or "restored".
        method: "exact", a run for each patch, or "attribution", an estimate from one gradient.

    Raises:
        ValueError: a choice that there is not, or two that do not go together.
    """

    site: str = "z"
    by: str | None = None
    direction: str | None = None
    mode: str = "denoise"
    receiver: str | None = None
    measure: str = "difference"
    method: str = "exact"

    def __post_init__(self) -> None:
        for name, choices in (("site", SITES), ("mode", MODES), ("measure", MEASURES), ("method", METHODS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"expected a {name} among {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.receiver and (self.by or self.direction or self.site != "z"):
            raise ValueError(
                "expected a receiver alone, got a site, its pieces or a direction beside it: a path is of heads"
            )
        if self.method == "attribution" and (self.receiver or self.direction):
            what = "a receiver" if self.receiver else "a direction"
            raise ValueError(f"expected method exact with {what}, got attribution, which estimates whole sites alone")


@dataclass(frozen=True)
class PatchedPairs(Framed):
    """What patching the pairs does.

    Attributes:
        result: scores of every pair under every patch.
        pairs: those that were patched.
        summary: a row a patch, see `PatchResult.summary`.
        left_out: pairs of a file that do not align.
        settings: what was patched.
    """

    result: PatchResult
    pairs: AlignedPairs
    summary: pd.DataFrame
    left_out: tuple[LeftOut, ...]
    settings: PatchSettings

    __repr__ = short_repr

    @property
    def name(self) -> str:
        """What the files of this site are called."""
        estimated = "_attribution" if self.settings.method == "attribution" else ""
        return "patching_" + self.result.site.replace(" -> ", "_to_") + estimated

    @property
    def strongest(self) -> pd.DataFrame:
        """The rows of the summary with the largest means, whatever their sign."""
        order = self.summary["mean"].abs().sort_values(ascending=False, kind="stable")
        return self.summary.reindex(order.index).head(SHOWN)

    @property
    def inputs(self) -> pd.DataFrame:
        """A row a pair of the file: its texts and scores, or why it was left out."""
        frame = self.pairs.to_frame()
        frame["clean_score"], frame["corrupted_score"] = self.result.clean, self.result.corrupted
        frame["left_out"] = ""
        rows = [
            {
                "pair": pair.name,
                "query": pair.clean[0],
                "clean": pair.clean[1],
                "corrupted": pair.corrupted[1],
                **({} if pair.clean[0] == pair.corrupted[0] else {"corrupted_query": pair.corrupted[0]}),
                "left_out": reason,
            }
            for pair, reason in self.left_out
        ]
        return pd.concat([frame, pd.DataFrame(rows)], ignore_index=True) if rows else frame


def patch_pairs(
    model: HookedCrossEncoder,
    pairs: AlignedPairs,
    settings: PatchSettings | None = None,
    *,
    left_out: tuple[LeftOut, ...] = (),
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int, int], object] | None = None,
) -> PatchedPairs:
    """Patch every piece of a site, or every path to a receiver, in every pair.

    Args:
        model: the model; what it is ablating stays ablated.
        pairs: aligned; a label `pair` names them in the tables.
        settings: `PatchSettings()` where None.
        left_out: of the file that the pairs are from.

    Raises:
        ValueError: see `activation_patch`, `path_patch` and `attribution_patch`.
    """
    settings = settings or PatchSettings()
    names = [label.get("pair", i) for i, label in enumerate(pairs.labels)]
    how: dict[str, Any] = {"mode": settings.mode, "labels": names, "token_budget": token_budget, "progress": progress}
    if settings.receiver:
        found = path_patch(model, pairs.clean, pairs.corrupted, settings.receiver, **how)
    elif settings.method == "attribution":
        found = attribution_patch(model, pairs.clean, pairs.corrupted, {settings.site: settings.by}, **how)[
            settings.site
        ]
    else:
        pieces: dict[str, Any] = {"by": settings.by, "direction": settings.direction}
        found = activation_patch(model, pairs.clean, pairs.corrupted, settings.site, **pieces, **how)
    summary = found.summary(cast(Measure, settings.measure))
    return PatchedPairs(found, pairs, summary, left_out, settings, made=found.made)


def patch_file(
    model: HookedCrossEncoder,
    path: str | Path,
    settings: PatchSettings | None = None,
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int, int], object] | None = None,
) -> PatchedPairs:
    """`patch_pairs` of a file, see `patching.pairs_file`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a bad line, no pair that aligns, or see `patch_pairs`.
    """
    aligned, left_out = align_file(model, read_pairs(path))
    return patch_pairs(model, aligned, settings, left_out=tuple(left_out), token_budget=token_budget, progress=progress)


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a file of pairs.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        read_pairs(path)  # which says so
    return sha256(Path(path))


def gradient_agreement(model: HookedCrossEncoder, patched: PatchedPairs) -> Agreement:
    """How well attribution patching follows the exact patches of a site."""
    exact = patched.result
    sides, sites = (patched.pairs.clean, patched.pairs.corrupted), {exact.site: exact.by}
    estimated = attribution_patch(model, *sides, sites, mode=exact.mode, labels=exact.pairs)
    return agreement(estimated[exact.site], exact)
