"""Folders of results of the former layout, brought into the present one: moved, not copied, and nothing is computed again.

Everything is renamed, one file or folder at a time, the marker last: while it lies at the top the move is not over, and the next
job goes on with it. What is not the program's own stays where it is.
"""

from __future__ import annotations

import filecmp
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from tl_crossenc.results.job import command_of, refuse_two_jobs
from tl_crossenc.results.layout import CELLS, JOB, POOLS, SUMMARIES, TABLES, former_name, is_former
from tl_crossenc.store.files import explained, make_folder, rename, sync_folder
from tl_crossenc.store.places import MACHINERY, MARKER

_log = logging.getLogger(__name__)

OF_JOBS = (
    "table1.csv", "table1.md", "table1.tex", "per_query.csv", "tie_rate.csv", "figure1a.csv",
    "figure1a_per_query.csv", "figure1b.csv", "figure1b_untrained.csv", "figure1b_counts.csv",
    "figure1c_histogram.parquet", "figure1c_distance.csv", "figure1c_token_pairs.csv", "figure1c_mass.csv",
    "figure1c_per_query.parquet", "figure1c_depth.csv", "sinks.csv", "sinks_by_head.csv", "figure2_heads.csv",
    "figure2_products.csv", "figure2_layers.csv", "figure2_spectrum.csv", "figure2_decomposition.csv",
    "head_ablation.csv", "head_ablation_draws.csv", "head_ablation_per_query.csv",
    "attention_by_direction.parquet", "compare_masks.csv", "compare_masks_per_query.csv", "compare_masks.md",
)  # fmt: skip
OF_SCRIPTS = (
    "attention_by_direction.csv", "attention_per_query.parquet", "match_histogram.csv", "match_mass.csv",
    "match_per_query.csv", "match_exact_by_layer.csv", "match_depth.csv", "match_distance.csv",
    "match_token_pairs.csv", "matching_heads.csv", "qk_heads.csv", "qk_products.csv", "qk_spectrum.csv",
    "qk_decomposition.csv", "qk_layers.csv", "replacement.csv", "replacement_per_query.parquet",
    "sinks_by_layer.csv", "table1_per_query.csv",
)  # fmt: skip
OF_PROGRAMS = (
    "figure1a.json", "figure1b.json", "figure1b_control.json", "figure1b_counts.json", "figure1c.json",
    "matches.json", "sinks.json", "figure2.json", "spectrum.json", "decomposition.json", "head_ablation.json",
    "attention.json", "unavailable.json",
)  # fmt: skip
"""The names that the former layout had at the top, for people (of the jobs, and of the scripts in `analyses/`) and for programs."""
PATCHING = re.compile(r"patching_.+\.csv")


def adopt(folder: Path) -> None:
    """Bring a folder of the former layout into the present one, whose lock is held; any other is left as it is.

    A move that was cut short goes on. A file that is in both places stays in both where they differ, and the present layout's
    counts; but for tables, which the job makes anew.

    Raises:
        ValueError: both layouts are there with different jobs; nothing is moved then.
        StoreError: the file system refused; what is moved is moved, and the next call goes on.
    """
    if not is_former(folder):
        return
    refuse_two_jobs(folder)
    _log.info("moving what is in %s to where this version has it; nothing is computed again for it", folder)
    tables = [*OF_JOBS, *OF_SCRIPTS]
    if command_of(folder) == "analyses":
        tables += [name for name in os.listdir(folder) if PATCHING.fullmatch(name)]
    names = [*(f"{TABLES}/{name}" for name in tables), *(f"{SUMMARIES}/{name}" for name in OF_PROGRAMS)]
    left: list[Path] = []
    with explained(folder):
        make_folder(folder / MACHINERY)
        for name in (CELLS, POOLS):
            _move(folder / former_name(name), folder / name, left)
        for name in [*names, JOB]:
            old, new = folder / former_name(name), folder / name
            if old.is_file():
                make_folder(new.parent)
                rename(old, new)
        sync_folder(folder)
        rename(folder / MARKER, folder / MACHINERY / MARKER)
        sync_folder(folder)
    if left:
        _log.warning("left %d file(s) such as %s, of which others are in %s", len(left), left[0], folder / MACHINERY)


def _move(old: Path, new: Path, left: list[Path]) -> None:
    """Move a folder; where there is one already, its files one by one, a cell's manifest after its table."""
    if not os.path.lexists(old):
        return
    if not os.path.lexists(new):
        if old.is_symlink():  # which may be relative
            new.symlink_to(os.path.realpath(old), target_is_directory=True)
            old.unlink()
        else:
            rename(old, new)
        return
    if os.path.samefile(old, new):  # a link that was made anew, and then the process was killed
        old.unlink()
        return
    for path in sorted(old.iterdir(), key=lambda path: (path.suffix == ".json", path.name)):
        target, manifest = new / path.name, path.with_suffix(".json")
        no_cell = path.suffix == ".parquet" and manifest.exists() and not (new / manifest.name).exists()
        if path.is_dir():
            _move(path, target, left)
        elif no_cell or not target.exists():
            rename(path, target)
        elif filecmp.cmp(path, target, shallow=False):
            path.unlink()
        else:
            left.append(path)
    with suppress(OSError):  # not empty
        old.rmdir()
