"""Rankings in the format of TREC runs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from tl_crossenc.statistics.ties import finite_scores


def trec_run_lines(query_id: Hashable, doc_ids: Iterable[Hashable], scores: ArrayLike, tag: str) -> list[str]:
    """The lines of a TREC run for one query: `query_id Q0 doc_id rank score tag`, ranks from 1, no line ends.

    Scores are written as float32 with nine significant digits: the precision in which trec_eval compares, and
    enough digits to read the same float32 back. The order is trec_eval's: by score, then doc_id, both
    descending.

    Args:
        query_id: the query.
        doc_ids: `[passage]`, distinct.
        scores: `[passage]`.
        tag: the run's name.

    Raises:
        ValueError: lengths that differ, a repeated document, white space or nothing in a name, scores that
            are NaN or infinite or do not fit float32.
    """
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is rejected with the rest
        values = finite_scores(np.asarray(scores, dtype=np.float32))
    names = [str(doc_id) for doc_id in doc_ids]
    if len(names) != values.size or len(set(names)) < len(names):
        raise ValueError(
            f"expected distinct documents with a score each but query {query_id} has {len(names)} ids "
            f"({len(set(names))} distinct) and {values.size} scores; give one of each for every passage"
        )
    for word in [str(query_id), tag, *names]:
        if word.split() != [word]:
            raise ValueError(f"expected ids and a tag without white space but got {word!r}; rename it")
    values = values + 0.0  # −0 becomes 0
    ranked = enumerate(sorted(zip(values.tolist(), names, strict=True), reverse=True), start=1)
    return [f"{query_id} Q0 {name} {rank} {score:.9g} {tag}" for rank, (score, name) in ranked]
