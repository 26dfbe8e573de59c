"""Where everything lies in a folder of results: what people open at the top, the machinery apart.

    report.html, run.json           the page; what was run, and the files that are of it
    tables/                         every table: CSV, Parquet, Markdown, LaTeX; the numbers of the figures too
    figures/                        SVG and PDF
    runs/<collection>/, scores.parquet, heads/
    machinery/                      what only programs read: a store's marker and cells/, and
      job.json, pools/              of which job the folder is; its pools, drawn once
      summaries/                    what of a result is no table, one JSON file an artefact
    .lock                           held while a process is at work in the folder, by this version or an earlier one
    .status-*.json                  of each process that is at work, or ended with something left: how far it is

The layout before this one had tables, summaries and machinery at the top. Such a folder is read where things lie (`located`), and
brought into this layout by the first job that works in it (`former`).
"""

from __future__ import annotations

import os
from pathlib import Path

from tl_crossenc.store.places import MACHINERY, MARKER

RUN, REPORT, SCORES = "run.json", "report.html", "scores.parquet"
TABLES, FIGURES, RUNS, HEADS = "tables", "figures", "runs", "heads"
CELLS, POOLS, SUMMARIES = f"{MACHINERY}/cells", f"{MACHINERY}/pools", f"{MACHINERY}/summaries"
JOB = f"{MACHINERY}/job.json"
FOLDERS = (TABLES, FIGURES, RUNS, HEADS, MACHINERY, CELLS, POOLS, SUMMARIES)


def former_name(name: str) -> str:
    """Where the former layout has what lies at `name` now.

    >>> [former_name(name) for name in ("tables/sinks.csv", "machinery/summaries/sinks.json", "machinery/pools", "run.json")]
    ['sinks.csv', 'sinks.json', 'pools', 'run.json']
    """
    for folder in (SUMMARIES, MACHINERY, TABLES):
        if name.startswith(f"{folder}/"):
            return name.removeprefix(f"{folder}/")
    return name


def located(folder: Path, name: str) -> Path:
    """Where a file or folder lies: in its place or, while nothing is there, where the former layout has it.

    Nothing at the top of a folder that is wholly of this layout is taken for one of its files.
    """
    place, former = folder / name, folder / former_name(name)
    if os.path.lexists(place) or (os.path.isdir(folder / MACHINERY) and not is_former(folder)):
        return place
    return former if os.path.lexists(former) else place


def is_former(folder: Path) -> bool:
    """Whether a folder of results is of the former layout, by its marker at the top, or not wholly brought into this one."""
    return os.path.lexists(folder / MARKER)
