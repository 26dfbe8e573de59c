"""Folders of results as the layout before this one had them, written out by hand from what an earlier version left."""

import json
import shutil

MOVED = {
    "machinery/tl_crossenc.json": "tl_crossenc.json",
    "machinery/job.json": "job.json",
    "machinery/cells": "cells",
    "machinery/pools": "pools",
}


def former(folder, source):
    """A copy of a folder of results in the former layout: tables, summaries and machinery at the top."""
    shutil.copytree(source, folder)
    for new, old in MOVED.items():
        (folder / new).rename(folder / old)
    for place in ("tables", "machinery/summaries"):
        for path in sorted((folder / place).glob("*")):
            path.rename(folder / path.name)
        if (folder / place).is_dir():
            (folder / place).rmdir()
    (folder / "machinery").rmdir()
    run = folder / "run.json"
    if run.exists():
        record = json.loads(run.read_text("utf-8"))
        flat = [name.removeprefix("tables/").removeprefix("machinery/summaries/") for name in record.get("files", [])]
        run.write_text(
            json.dumps(record | {"files": sorted(flat)}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        )
    return folder
