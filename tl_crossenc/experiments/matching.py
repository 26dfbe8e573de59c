"""The heads that match query and passage: Figure 1b of Vast et al. 2025, with a test.

For a head, a direction and a query q with relevant passages R_q and negatives N_q, and x the mass (or density, or excess):

    d_q = mean_{R_q} x - mean_{N_q} x        difference = mean_q d_q        t = difference / (sd(d) / sqrt(n))

over the n queries that have both. The paired two-tailed t-test is over queries and not over pairs, since the pairs of one query
are not independent; Holm's correction is over all heads and directions of the map. A head passes where the difference is positive
and the corrected p at most .05.

The paper prints differences between relevant passages and easy negatives, with neither error nor test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.experiments.attention import Attention, Group
from tl_crossenc.interventions.directions import Direction, parse_directions
from tl_crossenc.interventions.heads import Head
from tl_crossenc.pools.grades import check_sides, listed
from tl_crossenc.pools.grades import relevant_grades as by_scale
from tl_crossenc.pools.spec import EASY_NEGATIVE
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.significance import ALPHA, holm, paired_t

MATCHING_DIRECTIONS = ("QUERY->DOC", "DOC->QUERY")
QUANTITY = "excess"
"""What is compared where nobody says: that of an even head is 0 whatever the lengths, as neither mass nor density is."""


class QueryMeans(NamedTuple):
    """Means of each query that has both sides.

    Attributes:
        queries: (collection, query_id) of each.
        relevant: `[query, layer, head]`, over the query's relevant passages.
        against: the same over its negatives.
    """

    queries: tuple[tuple[str, str], ...]
    relevant: Float[np.ndarray, "query layer head"]
    against: Float[np.ndarray, "query layer head"]

    def __repr__(self) -> str:
        return short_repr(self)


def relevant_by_scale(highest_grades: Iterable[int]) -> tuple[int, ...]:
    """The relevant grades of collections whose highest grades are given, see `grades.relevant_grades`.

    Raises:
        Unavailable: no grade is above 0, or the collections' scales give different grades.
    """
    tops = sorted(set(highest_grades))
    found = {by_scale(highest) for highest in tops}
    if len(found) > 1:
        scales = " and ".join(f"0..{highest}" for highest in tops)
        raise Unavailable(
            f"the collections are judged on the scales {scales}, whose upper halves are different grades: run them one by one, or "
            "name the relevant grades of all with --relevant-grades (relevant_grades=(1, 2, 3) in Python)"
        )
    (grades,) = found or {()}
    if not grades:
        raise Unavailable("the collection's judgments have no grade above 0, so none of its passages is relevant")
    return grades


def query_means(
    attention: Attention,
    direction: Direction | str,
    *,
    relevant_grades: Iterable[int] | None = None,
    against: int | Iterable[int] = EASY_NEGATIVE,
    quantity: str = QUANTITY,
) -> QueryMeans:
    """Each query's mean over its relevant passages and over its negatives; queries without one of them are left out.

    Relevant are `relevant_grades`, or the upper half of the collections' scale (`grades.py`).

    Raises:
        Unavailable: no passage of the grades asked for, or no query where both sides have a pair that counts.
        ValueError: a grade on both sides, none on one, or a direction or quantity that is not measured.
    """
    given = relevant_by_scale(attention.highest_grades) if relevant_grades is None else relevant_grades
    relevant, negative = set(given), set(_grades(against))
    check_sides(relevant, negative)
    for side, wanted in (("relevant", relevant), ("against", negative)):
        if not wanted & set(attention.grades):
            what = "easy negatives" if wanted == {EASY_NEGATIVE} else f"passages of grade {listed(wanted)}"
            raise Unavailable(
                f"the difference between relevant passages and negatives needs {what} ({side}), but the pool has only "
                f"grades {listed(attention.grades)}: {_other_grades(attention, side, relevant | negative)}"
            )

    def side_of(group: object) -> tuple[str, str, bool] | None:
        collection, query_id, grade = cast(Group, group)
        return (collection, query_id, grade in relevant) if grade in relevant | negative else None

    flow = attention.only(direction, quantity).regroup(side_of)
    count, mean = flow.moments.count.reshape(-1), flow.moments.mean[:, :, :, 0, 0, 0]
    filled = {cast(tuple[str, str, bool], group): i for i, group in enumerate(flow.groups) if count[i] > 0}
    queries = [group[:2] for group in filled if group[2] and (*group[:2], False) in filled]
    if not queries:
        raise Unavailable(
            f"{direction} cannot be compared between grades {listed(relevant)} and {listed(negative)}: no query has "
            "passages of both that are not empty"
        )
    sides = [mean[[filled[*query, is_relevant] for query in queries]] for is_relevant in (True, False)]
    return QueryMeans(tuple(queries), *sides)


def matching_heads(
    attention: Attention,
    *,
    relevant_grades: Iterable[int] | None = None,
    against: int | Iterable[int] = EASY_NEGATIVE,
    directions: Sequence[Direction | str] = MATCHING_DIRECTIONS,
    quantity: str = QUANTITY,
) -> pd.DataFrame:
    """Figure 1b as a frame.

    Args:
        attention: from `run_attention`.
        relevant_grades: the grades of relevant passages; None for the upper half of the collections' scale (`grades.py`).
        against: the grade or grades of negatives: -1 easy, 0 hard.
        directions: directions, or their text (`X<->Y` stands for two).
        quantity: "mass", "density" or "excess" (`attention_flow.py` defines them).

    Returns:
        A row a (direction, layer, head): `relevant` and `against` (means over queries), `difference`, `standard_error`,
        `n_queries`, `t`, `p`, `p_holm`, `passes` (significantly more in relevant passages), `less` (significantly less); its
        `attrs` say what was compared.

    Raises:
        Unavailable: no passages of a side, or fewer than two queries that have both.
        ValueError: no direction, or grades, directions or a quantity that make no sense.
    """
    chosen = _directions(directions)
    relevant_grades = relevant_by_scale(attention.highest_grades) if relevant_grades is None else tuple(relevant_grades)
    against = _grades(against)
    frames = []
    for direction in chosen:
        means = query_means(attention, direction, relevant_grades=relevant_grades, against=against, quantity=quantity)
        if len(means.queries) < 2:
            raise Unavailable(
                f"a test over queries needs at least two with both sides for {direction}, and the pool has one: the means by "
                "direction are still there, without a test"
            )
        frames.append(_compare(direction, means))
    frame = pd.concat(frames, ignore_index=True)
    frame["p_holm"] = holm(frame["p"].to_numpy(dtype=np.float64))
    significant = frame["p_holm"] <= ALPHA
    frame["passes"], frame["less"] = significant & (frame["difference"] > 0), significant & (frame["difference"] < 0)
    frame.attrs = {
        **attention.made,
        "relevant_grades": sorted(relevant_grades),
        "against": sorted(against),
        "quantity": quantity,
        "highest_grades": sorted(set(attention.highest_grades)),
    }
    if attention.unjudged is not None and 0 in against:
        frame.attrs["unjudged"] = attention.unjudged
    return frame


def passing_heads(frame: pd.DataFrame) -> tuple[Head, ...]:
    """The heads of `matching_heads` that pass in any of its directions, the largest passing difference first."""
    passing = frame.loc[frame["passes"]].sort_values("difference", ascending=False, kind="stable")
    found = zip(passing["layer"].tolist(), passing["head"].tolist(), strict=True)
    return tuple(dict.fromkeys(Head(layer, head) for layer, head in found))


def ranked_heads(figure1b: pd.DataFrame | Unavailable) -> tuple[tuple[int, int], ...]:
    """Every head once, those that pass Figure 1b's test first, each by its largest difference; none where it is unavailable."""
    if isinstance(figure1b, Unavailable):
        return ()
    order = figure1b.sort_values(["passes", "difference"], ascending=False, kind="stable")
    pairs = zip(order["layer"].tolist(), order["head"].tolist(), strict=True)
    return tuple(dict.fromkeys((int(layer), int(head)) for layer, head in pairs))


def _compare(direction: Direction, means: QueryMeans) -> pd.DataFrame:
    n_queries, n_layers, n_heads = means.relevant.shape
    relevant, against = means.relevant.reshape(n_queries, -1), means.against.reshape(n_queries, -1)
    difference = relevant - against
    error = difference.std(0, ddof=1) / np.sqrt(n_queries)
    places = pd.DataFrame(list(product(range(n_layers), range(n_heads))), columns=["layer", "head"])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num(difference.mean(0) / error, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return places.assign(
        direction=str(direction),
        relevant=relevant.mean(0),
        against=against.mean(0),
        difference=difference.mean(0),
        standard_error=error,
        n_queries=n_queries,
        t=t,
        p=[paired_t(a, b) for a, b in zip(relevant.T, against.T, strict=True)],
    )


def _directions(directions: Sequence[Direction | str]) -> tuple[Direction, ...]:
    texts = [directions] if isinstance(directions, Direction | str) else directions
    chosen = [item for text in texts for item in (parse_directions(text) if isinstance(text, str) else (text,))]
    if not chosen:
        raise ValueError("expected at least one direction, such as QUERY->DOC; got none")
    return tuple(dict.fromkeys(chosen))


def _grades(grades: int | Iterable[int]) -> tuple[int, ...]:
    return tuple(grades) if isinstance(grades, Iterable) else (grades,)


def _other_grades(attention: Attention, side: str, taken: set[int]) -> str:
    """What to do where the pool lacks a side."""
    grades = attention.grades
    if side == "relevant":
        above = [grade for grade in grades if grade > 0]
        if not above:
            return "no passage of it is relevant, so choose another collection"
        return f"choose others with --relevant-grades {listed(above).replace(' ', '')} (relevant_grades in Python)"
    if attention.unjudged is not None:
        other = (
            "compare with grade 0 by --against 0 (against=0 in Python)"
            if 0 not in taken
            else "take more of it by --depth"
        )
        return f"a run's passages have no easy negatives: {other}; {attention.unjudged:,} of its passages of grade 0 nobody judged"
    draw = "draw easy negatives with --easy-negatives 10"
    if 0 in grades and 0 not in taken:
        return f"{draw}, or compare with hard negatives by --against 0 (against=0 in Python)"
    return (
        f"{draw} and compare with them by --against -1 (against=-1 in Python)" if EASY_NEGATIVE not in taken else draw
    )
