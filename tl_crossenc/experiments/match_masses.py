"""How much attention between query and passage lies on lexical matches, by layer and head, with per-query values.

For a query, a group of its passages (relevant, say), a direction X->Y, and a kind m of token match (`token_matches.py`), means over
the passages, each counting once:

    mass(m)       = what a token of X gives to the tokens of Y that match it so
    share(m)      = mass(m) / sum of mass over the kinds            the share of the cross mass that m gets
    pair_share(m) = the share of (QUERY token, DOC token) pairs that are of kind m
    lift(m)       = share(m) / pair_share(m)                        1: attended as any other token; 5: five times as much

Intervals are 95 % t-intervals over queries. A query without a token pair of kind m has no lift(m), and is left out of its mean.
Few matches make a query's lift noisy: `lift_pooled` is (mean share) / (mean pair_share) over the queries, which is not.

`head` is "all" for the mean over the heads of a layer (the share is then that of the mean mass), else a number as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.instruments.token_matches import KINDS, MATCH_DIRECTIONS, Tally
from tl_crossenc.statistics.significance import mean_interval, paired_t

ALL_HEADS = "all"
QUANTITIES = ("mass", "share", "lift")
DIRECTION_NAMES = tuple(str(direction) for direction in MATCH_DIRECTIONS)


class QueryGroup(NamedTuple):
    """The passages of one query whose grades are of one group."""

    collection: str
    query_id: str
    group: str


class QueryMasses(NamedTuple):
    """Per-query values. A head axis is one longer than the model's: its last entry is the mean over heads.

    Attributes:
        groups: what each row is.
        pairs: passages behind it.
        token_pairs: how many of each kind.
        pair_share, mass, share, lift: see the module; NaN where not defined.
    """

    groups: tuple[QueryGroup, ...]
    pairs: Float[np.ndarray, "row"]
    token_pairs: Float[np.ndarray, "row kind"]
    pair_share: Float[np.ndarray, "row kind"]
    mass: Float[np.ndarray, "row direction layer head kind"]
    share: Float[np.ndarray, "row direction layer head kind"]
    lift: Float[np.ndarray, "row direction layer head kind"]

    def __repr__(self) -> str:
        return short_repr(self)


def query_masses(sums: Tally, groups: Mapping[str, Iterable[int]]) -> QueryMasses:
    """Per-query values of each group, from sums by (collection, query, grade); sorted by group, collection and query."""
    group_of = {grade: name for name, grades in groups.items() for grade in grades}

    def rename(name: object) -> QueryGroup | None:
        collection, query_id, grade = cast(tuple[str, str, int], name)
        return QueryGroup(collection, query_id, group_of[grade]) if grade in group_of else None

    merged = sums.regroup(rename)
    rank = {name: i for i, name in enumerate(groups)}
    found = cast(tuple[QueryGroup, ...], merged.groups)
    kept = [i for i, n_pairs in enumerate(merged.totals["pairs"]) if n_pairs > 0]
    kept.sort(key=lambda i: (rank[found[i].group], found[i].collection, found[i].query_id))
    names = tuple(found[i] for i in kept)
    totals = {name: values[kept] for name, values in merged.totals.items()}
    pairs = totals["pairs"]
    pair_share = totals["token_share"] / pairs[:, None]
    mass = totals["mass"] / pairs[:, None, None, None, None]
    mass = np.concatenate([mass, mass.mean(3, keepdims=True)], axis=3)
    share = _ratio(mass, mass.sum(-1, keepdims=True))
    lift = _ratio(share, np.broadcast_to(pair_share[:, None, None, None], share.shape))
    return QueryMasses(names, pairs, totals["token_pairs"], pair_share, mass, share, lift)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    b = np.broadcast_to(b, a.shape)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def mass_frame(values: QueryMasses, heads: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """A row a (layer, head, direction, group, kind): means over queries of mass, share and lift with `_low` and `_high`; also
    pair_share, lift_pooled, n_queries (that have passages of the group), n_lift (that have a lift), n_pairs, token_pairs.
    """
    rows = []
    for group, members in _members(values).items():
        n_pairs, token_pairs = int(values.pairs[members].sum()), values.token_pairs[members].sum(0)
        pair_share = values.pair_share[members].mean(0)
        for layer, head, label in places(values, heads):
            for direction, name in enumerate(DIRECTION_NAMES):
                for kind, kind_name in enumerate(KINDS):
                    row: dict[str, object] = {"layer": layer, "head": label, "direction": name, "group": group}
                    row["kind"] = kind_name
                    for quantity in QUANTITIES:
                        per_query = getattr(values, quantity)[members, direction, layer, head, kind]
                        row |= _interval(quantity, per_query)
                    defined = np.isfinite(values.lift[members, direction, layer, head, kind])
                    row["pair_share"] = pair_share[kind]
                    row["lift_pooled"] = row["share"] / pair_share[kind] if pair_share[kind] > 0 else np.nan
                    row |= {"n_queries": len(members), "n_lift": int(defined.sum()), "n_pairs": n_pairs}
                    row["token_pairs"] = int(token_pairs[kind])
                    rows.append(row)
    return pd.DataFrame(rows)


def per_query_frame(values: QueryMasses, heads: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """A row a (collection, query_id, group, layer, head, direction, kind): mass, share, pair_share, lift, n_pairs."""
    chosen = places(values, heads)
    shape = (len(values.groups), len(chosen), len(DIRECTION_NAMES), len(KINDS))
    row, place, direction, kind = np.indices(shape).reshape(4, -1)
    layer, head = np.array([p[0] for p in chosen])[place], np.array([p[1] for p in chosen])[place]
    names = [values.groups[i] for i in row]
    columns: dict[str, object] = {field: [getattr(n, field) for n in names] for field in QueryGroup._fields}
    columns |= {"layer": layer, "head": [chosen[i][2] for i in place]}
    columns |= {"direction": np.array(DIRECTION_NAMES)[direction], "kind": np.array(KINDS)[kind]}
    for quantity in QUANTITIES:
        columns[quantity] = getattr(values, quantity)[row, direction, layer, head, kind]
    columns["pair_share"] = values.pair_share[row, kind]
    columns["n_pairs"] = values.pairs[row].astype(np.int64)
    return pd.DataFrame(columns)


def depth_frame(values: QueryMasses) -> pd.DataFrame:
    """Do exact matches get less with depth? A row a (direction, group, quantity), heads averaged, kind same_piece.

    Columns: `early` and `late`, means over queries of the quantity (share or lift) averaged over the first and the last half of the
    layers (an odd middle layer is in neither); `difference` (late - early) with `_low`, `_high` and the paired two-tailed `p`;
    n_queries. Without rows for a model of one layer.
    """
    n_layers = values.mass.shape[2]
    half = n_layers // 2
    rows = []
    for group, members in _members(values).items() if half else ():
        for direction, name in enumerate(DIRECTION_NAMES):
            for quantity in ("share", "lift"):
                curves = getattr(values, quantity)[members, direction, :, -1, 0]
                curves = curves[np.isfinite(curves).all(1)]
                early, late = curves[:, :half].mean(1), curves[:, n_layers - half :].mean(1)
                row: dict[str, object] = {"direction": name, "group": group, "quantity": quantity}
                row |= {"early": _mean(early), "late": _mean(late), **_interval("difference", late - early)}
                rows.append(row | {"p": paired_t(late, early), "n_queries": len(curves)})
    return pd.DataFrame(rows)


def places(values: QueryMasses, heads: Sequence[tuple[int, int]]) -> list[tuple[int, int, str]]:
    """(layer, index on the head axis, name) of every layer's mean over heads, then of the heads."""
    n_layers = values.mass.shape[2]
    return [(layer, -1, ALL_HEADS) for layer in range(n_layers)] + [(layer, head, str(head)) for layer, head in heads]


def _members(values: QueryMasses) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for i, name in enumerate(values.groups):
        members.setdefault(name.group, []).append(i)
    return members


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _interval(name: str, values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    low, high = mean_interval(known)
    return {name: _mean(known), f"{name}_low": low, f"{name}_high": high}
