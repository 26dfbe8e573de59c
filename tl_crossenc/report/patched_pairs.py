"""What patching contrast pairs gives (`experiments.patch_pairs`) as sentences and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tl_crossenc.console.shown import shown
from tl_crossenc.results.layout import TABLES
from tl_crossenc.results.outputs import write_frame

NAMED = 5
"""Pairs left out that are named in the terminal; all are in the table."""


def patched_sentences(patched: Any, out: Path) -> list[str]:
    """What was patched, which pairs were left out and why, and where the tables are."""
    found, left_out = patched.result, patched.left_out
    count = len(patched.pairs) + len(left_out)
    many = "1 pair" if count == 1 else f"{count:,} pairs"
    lines = [
        f"{many}, {len(patched.pairs):,} aligned: mean score clean {found.clean.mean():.4f}, corrupted {found.corrupted.mean():.4f}"
        + (f"; {found.undefined:,} score the same on both sides" if found.undefined else "")
    ]
    lines += [
        f"left out: {shown(pair.name, 60)} (line {pair.line}): {shown(reason, 300)}"
        for pair, reason in left_out[:NAMED]
    ]
    if len(left_out) > NAMED:
        lines.append(f"left out: {len(left_out) - NAMED:,} more, see {TABLES}/patch_pairs.csv")
    what = "the score's change" if patched.settings.measure == "difference" else "the share restored"
    how = "" if patched.settings.method == "exact" else ", estimated from one gradient"
    lines.append(
        f"{found}: the mean of {what}{how}, with a bootstrap interval over pairs; p: paired t-test, p_holm: corrected for all "
        "patches."
    )
    lines.append(f"Tables: {out}/{TABLES}/{patched.name}.csv, {patched.name}_summary.csv and patch_pairs.csv")
    return lines


def write_patched(out: Path, patched: Any) -> list[str]:
    """Write every pair under every patch, the summary, and the pairs with their scores or why they are left out.

    Returns:
        The files, in the folder.
    """
    frames = {
        patched.name: patched.result.to_frame(),
        f"{patched.name}_summary": patched.summary,
        "patch_pairs": patched.inputs,
    }
    for name, frame in frames.items():
        write_frame(out / TABLES / f"{name}.csv", frame, index=False)
    return [f"{TABLES}/{name}.csv" for name in frames]
