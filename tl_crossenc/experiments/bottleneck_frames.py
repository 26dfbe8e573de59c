"""From the bits of every token to frames by part, kind of match and position: means over queries of means over their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import N_PARTS, REAL_PART_NAMES, Part
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.instruments.token_matches import KINDS, word_codes
from tl_crossenc.interventions.directions import ALL
from tl_crossenc.statistics.significance import holm, mean_interval, paired_t

N_POSITIONS = 10
SIDES = (Part.QUERY, Part.DOC)


class Group(NamedTuple):
    """Tokens that are taken together: a `what` of part, match or position, their part, and which of that kind they are."""

    what: str
    part: str
    name: str


GROUPS: tuple[Group, ...] = (
    *(Group("part", part, part) for part in (*REAL_PART_NAMES, ALL)),
    *(Group("match", part.name, kind) for part in SIDES for kind in KINDS),
    *(Group("position", Part.DOC.name, str(decile)) for decile in range(N_POSITIONS)),
)
WHOLE = GROUPS.index(Group("part", ALL, ALL))


def token_kinds(pairs: EncodedPairs, pieces: Pieces) -> Int[np.ndarray, "token"]:
    """How each QUERY and DOC token matches the other side, an index of `KINDS`; -1 elsewhere.

    `same_piece`: its word piece is there; else `same_word`: its whole word is, ignoring case; else `other`.
    """
    found = []
    for i in range(len(pairs)):
        batch = pairs.batch([i])
        tokens, parts = batch.tokens[0].numpy(), batch.parts.codes[0].numpy()
        words = word_codes(batch.tokens, batch.parts.codes, pieces)[0]
        kinds = np.full(len(tokens), -1)
        for own, other in (SIDES, SIDES[::-1]):
            at, there = parts == own, parts == other
            equal = [np.isin(column[at], column[there]) for column in (tokens, words)]
            kinds[at] = np.where(equal[0], 0, np.where(equal[1], 1, 2))
        found.append(kinds)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def memberships(parts: Int[np.ndarray, "pos"], kinds: Int[np.ndarray, "pos"]) -> Float[np.ndarray, "pos group"]:
    """1 where a token of one pair is in a group of `GROUPS`. The tokens of a passage lie in the middle of their share of it."""
    found = np.zeros((len(parts), len(GROUPS)))
    found[np.arange(len(parts)), parts] = 1
    found[:, WHOLE] = 1
    for side, part in enumerate(SIDES):
        for kind in range(len(KINDS)):
            found[:, N_PARTS + 1 + side * len(KINDS) + kind] = (parts == part) & (kinds == kind)
    doc = np.flatnonzero(parts == Part.DOC)
    decile = ((np.arange(len(doc)) + 0.5) / max(len(doc), 1) * N_POSITIONS).astype(int)
    found[doc, len(GROUPS) - N_POSITIONS + decile] = 1
    return found


class QueryBits(NamedTuple):
    """Means over a query's pairs, NaN where no pair has a token of the group.

    Attributes:
        queries: (collection, query_id) of each.
        bits: `[query, layer, group]`, of all tokens of the group together.
        per_token: the same for one token of it.
        share: of the bits of all tokens.
        n_pairs: `[query, group]`, pairs that have the group.
        n_tokens: `[group]`, of all pairs.
    """

    queries: tuple[tuple[str, str], ...]
    bits: Float[np.ndarray, "query layer group"]
    per_token: Float[np.ndarray, "query layer group"]
    share: Float[np.ndarray, "query layer group"]
    n_pairs: Int[np.ndarray, "query group"]
    n_tokens: Int[np.ndarray, "group"]

    def __repr__(self) -> str:
        return short_repr(self)


def query_bits(
    owners: Sequence[tuple[str, str]],
    bits: Sequence[Float[np.ndarray, "layer _"]],
    members: Sequence[Float[np.ndarray, "_ group"]],
) -> QueryBits:
    """Of pairs, each with its (collection, query_id), its tokens' bits and their groups."""
    counts = np.stack([group.sum(0) for group in members])
    totals = np.stack([own @ group for own, group in zip(bits, members, strict=True)])
    there = (counts > 0)[:, None]
    per_token = np.divide(totals, counts[:, None], out=np.full(totals.shape, np.nan), where=there)
    whole = totals[..., WHOLE, None]
    share = np.divide(totals, whole, out=np.full(totals.shape, np.nan), where=there & (whole > 0))
    names = tuple(dict.fromkeys(owners))
    rows = [[i for i, owner in enumerate(owners) if owner == name] for name in names]
    totals = np.where(there, totals, np.nan)
    total, one, part = (np.stack([_mean(values[own]) for own in rows]) for values in (totals, per_token, share))
    n_pairs = np.stack([(counts[own] > 0).sum(0) for own in rows])
    return QueryBits(names, total, one, part, n_pairs, counts.sum(0).astype(np.int64))


def per_query_frame(found: QueryBits, layers: Sequence[int]) -> pd.DataFrame:
    """A row a (collection, query_id, layer, what, part, name): bits, per_token, share, n_pairs.

    Groups that no pair of the query has are left out.
    """
    query, layer, group = np.indices(found.bits.shape).reshape(3, -1)
    columns: dict[str, object] = {
        name: [found.queries[i][at] for i in query] for at, name in enumerate(("collection", "query_id"))
    }
    columns["layer"] = np.asarray(layers)[layer]
    columns |= {field: [getattr(GROUPS[i], field) for i in group] for field in Group._fields}
    columns |= {name: getattr(found, name)[query, layer, group] for name in ("bits", "per_token", "share")}
    columns["n_pairs"] = found.n_pairs[query, group]
    frame = pd.DataFrame(columns)
    return frame[frame["n_pairs"] > 0].reset_index(drop=True)


def by_layer_frame(found: QueryBits, layers: Sequence[int]) -> pd.DataFrame:
    """A row a (layer, part), ALL for every token: bits, per_token and share with `_low` and `_high`, n_queries, n_pairs."""
    return _frame(found, layers, "part", ("bits", "per_token", "share"))


def position_frame(found: QueryBits, layers: Sequence[int]) -> pd.DataFrame:
    """A row a (layer, decile) of the passage: per_token with `_low` and `_high`, n_queries, n_pairs."""
    frame = _frame(found, layers, "position", ("per_token",))
    frame.insert(1, "decile", frame["name"].astype(int))
    return frame.drop(columns=["part", "name"])


def match_frame(found: QueryBits, layers: Sequence[int]) -> pd.DataFrame:
    """A row a (layer, part, kind of match): per_token with `_low` and `_high`, n_queries, n_pairs, n_tokens; and of matches

    `difference`, per token more than the part's `other` tokens have, over queries with both, its interval, `p` of the paired t-test
    and `p_holm`, corrected over all rows.
    """
    frame = _frame(found, layers, "match", ("per_token",)).rename(columns={"name": "kind"})
    frame["n_tokens"] = [
        found.n_tokens[GROUPS.index(Group("match", *row))] for row in zip(frame["part"], frame["kind"], strict=True)
    ]
    rows = []
    for layer, part, kind in zip(frame["layer"], frame["part"], frame["kind"], strict=True):
        at = list(layers).index(layer)
        own, other = (found.per_token[:, at, GROUPS.index(Group("match", part, name))] for name in (kind, KINDS[-1]))
        both = np.isfinite(own) & np.isfinite(other) & (kind != KINDS[-1])
        p = paired_t(own[both], other[both])
        rows.append(_interval("difference", (own - other)[both]) | {"p": p})
    frame = pd.concat([frame, pd.DataFrame(rows)], axis=1)
    tested = frame["p"].notna()
    frame.loc[tested, "p_holm"] = holm(frame.loc[tested, "p"])
    return frame


def score_frame(pairs: pd.DataFrame) -> pd.DataFrame:
    """A row a layer: means over queries of the model's `score`, of that under the mask, `masked`, and of their distance in standard
    deviations of scores, `error`, with `_low` and `_high`; `floored`, the most features whose noise has the smallest deviation.
    Where the scores of the pairs that noise is like do not vary, `error` is NaN.
    """
    spread = pairs["score_sd"].where(pairs["score_sd"] > 0)  # of pairs whose scores do not vary there is no such unit
    pairs = pairs.assign(error=(pairs["masked"] - pairs["score"]).abs() / spread)
    rows = []
    for layer, own in pairs.groupby("layer", sort=True):
        means = own.groupby(["collection", "query_id"], sort=False)[["score", "masked", "error"]].mean()
        row: dict[str, object] = {"layer": layer}
        for name in means.columns:
            row |= _interval(name, means[name].dropna().to_numpy())
        rows.append(row | {"n_queries": len(means), "n_pairs": len(own), "floored": int(own["floored"].max())})
    return pd.DataFrame(rows)


def _frame(found: QueryBits, layers: Sequence[int], what: str, quantities: Sequence[str]) -> pd.DataFrame:
    rows = []
    for at, layer in enumerate(layers):
        for i, group in enumerate(GROUPS):
            known = found.n_pairs[:, i] > 0
            if group.what == what and known.any():
                row: dict[str, object] = {"layer": layer, "part": group.part, "name": group.name}
                for quantity in quantities:
                    row |= _interval(quantity, getattr(found, quantity)[known, at, i])
                rows.append(row | {"n_queries": int(known.sum()), "n_pairs": int(found.n_pairs[:, i].sum())})
    frame = pd.DataFrame(rows)
    return frame.drop(columns="name") if what == "part" else frame


def _interval(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = mean_interval(values)
    return {name: float(values.mean()) if values.size else float("nan"), f"{name}_low": low, f"{name}_high": high}


def _mean(values: Float[np.ndarray, "pair layer group"]) -> Float[np.ndarray, "layer group"]:
    """Over the pairs that have a value."""
    known = np.isfinite(values)
    count = known.sum(0)
    return np.divide(np.where(known, values, 0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)
