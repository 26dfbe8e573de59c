"""The pairs of a run's pool, and what was met on the way: the first passages of every judged query, judged or not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_crossenc.console.shown import listed
from tl_crossenc.pools.collections import Collection
from tl_crossenc.pools.first_stage import FirstStage
from tl_crossenc.pools.runs import Run
from tl_crossenc.pools.spec import PoolPair

logger = logging.getLogger(__name__)


def run_pairs(collection: Collection, run: str | Path | Run, depth: int) -> tuple[list[PoolPair], dict[str, Any]]:
    """The first `depth` passages of every judged query of the collection, in the run's order, and which run it is and what was met.

    Raises:
        FileNotFoundError, ValueError, OSError: see `FirstStage.of_judged` and `looked_up`.
    """
    stage = FirstStage.of_judged(collection, run, depth)
    pairs, missing = list[PoolPair](), list[str]()
    for known, lacking in stage.looked_up():
        pairs += [pair for _, pair in known]
        missing += lacking
    for found, what in (
        (missing, "passages of the run have no text and are not ranked"),
        (stage.absent_queries, "judged queries are not in the run and count 0"),
        (stage.unknown_queries, "queries of the run have no judgments and are left out"),
    ):
        if found:
            logger.warning("%s: %d %s (%s)", collection.name, len(found), what, listed(found, 3))
    about = {} if isinstance(run, Mapping) else {"run": Path(run).name, "run_sha256": stage.sha256}
    return pairs, {
        **about,
        "depth": depth,
        "unjudged": sum(pair.doc_id not in collection.qrels[pair.query_id] for pair in pairs),
        "missing_texts": len(missing),
        "missing_examples": missing[:5],
        "queries_not_in_the_run": list(stage.absent_queries),
        "queries_without_judgments": len(stage.unknown_queries),
    }
