"""Attention between QUERY and DOC tokens, weight by weight, split by how the two tokens match.

For a head with pattern A, a QUERY position i and a DOC position j, A[i, j] belongs to QUERY->DOC and A[j, i] to DOC->QUERY. The
pair (i, j) is of one kind:

    same_piece   the two word pieces are the same entry of the vocabulary
    same_word    they are not, but the whole words that they belong to are equal, ignoring case
    other        neither: no lexical match

Which pieces make a word the tokenizer says (`inputs.pieces`): `##`, `▁` or `Ġ`, bytes of one character together. No word runs on
from one part into another. Two [UNK] are the same piece: the model cannot tell them apart.

Two things are taken of each weight, for every kind m, layer and head, and no pattern outlives its batch:

    histogram    how many token pairs have their log10 weight in each of `N_BINS` bins of 0.1 between -8 and 0; a weight below
                 1e-8, zero among them, is in bin 0, which comes before these. A layer with a window has the weights of
                 those token pairs that lie in it, and no others
    mass         of one pair of texts, m's weights summed over the attended side and averaged over the attender's tokens;
                 exact, not read off the histogram

Vast et al. 2025 (Figure 1c) compare such distributions between relevant passages and easy negatives, and read lexical matching in
early and semantic matching in late layers out of them. A pair without QUERY or without DOC tokens does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_crossenc.console.framed import Framed, Labels
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.inputs.batching import length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch, as_encoded
from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.instruments.attention_flow import require_unablated
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.model.hooked_encoder import HookedEncoder
from tl_crossenc.model.made_by import recorded

KINDS = ("same_piece", "same_word", "other")
MATCH_DIRECTIONS = (Direction(Part.QUERY, Part.DOC), Direction(Part.DOC, Part.QUERY))
BIN_WIDTH = 0.1
LOWEST = -8.0
N_BINS = 81
"""The underflow bin and the 80 bins of `BIN_WIDTH` from log10 weight `LOWEST` to 0."""
EDGES = np.concatenate([[0.0], 10.0 ** (LOWEST + BIN_WIDTH * np.arange(N_BINS - 1)), [1.0]])
"""`[bin + 1]`, the bounds of the bins as weights: a bin holds its lower bound and not its upper one, but the last holds 1."""
CENTRES = LOWEST + BIN_WIDTH * (np.arange(N_BINS) - 0.5)
"""`[bin]`, the middle of each bin as log10 weight; the underflow bin is placed right before the others."""
TOKEN_BUDGET = 2048
"""Padded tokens a batch: fewer than elsewhere, since patterns are built."""


@dataclass(frozen=True)
class Tally:
    """Totals of some groups of pairs, that add up when groups merge.

    Attributes:
        groups: the name of each group, no name twice.
        totals: name -> an array whose first axis is the group.
    """

    groups: tuple[Hashable, ...]
    totals: dict[str, np.ndarray]

    __repr__ = short_repr

    @classmethod
    def join(cls, tallies: Iterable[Tally]) -> Tally:
        """All of them added up by group, groups in the order of their first appearance.

        Raises:
            ValueError: nothing to join, or totals of different names or shapes.
        """
        found = list(tallies)
        shapes = {tuple((name, a.shape[1:]) for name, a in sorted(tally.totals.items())) for tally in found}
        if len(shapes) != 1:
            raise ValueError(f"expected tallies of the same totals and shapes, got {sorted(shapes)}: join one model's")
        names = [group for tally in found for group in tally.groups]
        place = {name: i for i, name in enumerate(dict.fromkeys(names))}
        totals = {}
        for name, like in found[0].totals.items():
            totals[name] = np.zeros((len(place), *like.shape[1:]), like.dtype)
            for tally in found:
                for group, values in zip(tally.groups, tally.totals[name], strict=True):
                    totals[name][place[group]] += values
        return cls(tuple(place), totals)

    def regroup(self, name: Callable[[Hashable], Hashable | None]) -> Tally:
        """The groups added up under new names; those named None are left out."""
        named = [name(group) for group in self.groups]
        place = {new: i for i, new in enumerate(dict.fromkeys(new for new in named if new is not None))}
        totals = {key: np.zeros((len(place), *a.shape[1:]), a.dtype) for key, a in self.totals.items()}
        for i, new in enumerate(named):
            if new is not None:
                for key, values in self.totals.items():
                    totals[key][place[new]] += values[i]
        return Tally(tuple(place), totals)


@dataclass(frozen=True)
class PairMatches(Framed):
    """What was measured of each pair of texts. A pair without QUERY or DOC tokens has zeros.

    Attributes:
        token_pairs: how many (QUERY token, DOC token) there are of each kind.
        mass: of each kind, see the module; every layer and head.
        counts: histograms of the weights that there are: in a layer with a window fewer than `token_pairs`.
    """

    token_pairs: Int[np.ndarray, "pair kind"]
    mass: Float[np.ndarray, "pair direction layer head kind"]
    counts: Int[np.ndarray, "pair direction layer head kind bin"]

    __repr__ = short_repr
    MAIN = "mass"

    def axes(self) -> Mapping[str, Labels]:
        """Kinds and directions by their names, bins by the weight that they begin at."""
        return {"kind": KINDS, "direction": tuple(map(str, MATCH_DIRECTIONS)), "bin": EDGES[:-1]}

    def sums(self, groups: Sequence[Hashable]) -> Tally:
        """Totals by group: `pairs` that count, `token_pairs` and `token_share` `[kind]`, `mass` as above.

        `token_share` adds up each pair's share of token pairs that are of the kind; divided by `pairs` it is the mean share.
        """
        cells = self.token_pairs.sum(1, keepdims=True)
        totals = {
            "pairs": (cells[:, 0] > 0).astype(np.float64),
            "token_pairs": self.token_pairs.astype(np.float64),
            "token_share": self.token_pairs / np.maximum(cells, 1),
            "mass": self.mass,
        }
        return Tally(tuple(range(len(cells))), totals).regroup(lambda pair: groups[pair])  # type: ignore[call-overload]

    def histograms(self, groups: Sequence[Hashable]) -> Tally:
        """`counts` by group, as float64 (exact up to 2^53)."""
        names = tuple(dict.fromkeys(groups))
        chosen = [[i for i, group in enumerate(groups) if group == name] for name in names]
        totals = np.zeros((len(names), *self.counts.shape[1:]))
        for total, members in zip(totals, chosen, strict=True):
            np.sum(self.counts[members], axis=0, out=total)
        return Tally(names, {"counts": totals})


def measure_matches(
    model: HookedEncoder,
    pairs: EncodedPairs | PairBatch,
    pieces: Pieces,
    use: Callable[[np.ndarray, PairMatches], object],
    *,
    token_budget: int = TOKEN_BUDGET,
) -> None:
    """Run the pairs in batches, longest first, and hand what was measured of each batch to `use`, with its pairs' indices.

    Args:
        model: the model, with nothing ablated.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        pieces: of the model's tokenizer.
        use: called once a batch; what it does not keep is dropped.
        token_budget: padded tokens a batch.

    Raises:
        ValueError: an ablation is active, or attention that is no finite number.
    """
    pairs = as_encoded(pairs)
    require_unablated(model)
    with torch.no_grad():
        for indices in length_batches(pairs.lengths, token_budget, in_order=model.hooked):
            batch = pairs.batch(indices)
            words = word_codes(batch.tokens, batch.parts.codes, pieces)
            use(indices, pair_matches(model, batch.to(model.device), words))


def word_codes(
    tokens: Int[Tensor, "pair pos"], codes: Int[Tensor, "pair pos"], pieces: Pieces
) -> Int[np.ndarray, "pair pos"]:
    """A number for the word that each QUERY and DOC position belongs to, equal for equal words of the batch; -1 elsewhere."""
    numbers: dict[str, int] = {}
    found = np.full(tuple(tokens.shape), -1, dtype=np.int64)
    ids, parts = tokens.cpu().numpy(), codes.cpu().numpy()
    for row in range(len(ids)):
        for part in (Part.QUERY, Part.DOC):
            positions = np.flatnonzero(parts[row] == part)
            for word in pieces.words(ids[row, positions].tolist()):
                found[row, positions[word.start : word.stop]] = numbers.setdefault(word.text.casefold(), len(numbers))
    return found


@recorded
def pair_matches(model: HookedEncoder, batch: PairBatch, words: Int[np.ndarray, "pair pos"]) -> PairMatches:
    """Every weight between QUERY and DOC of a batch, gathered by pair, from the queries and keys of one plain run.

    Args:
        model: the model.
        batch: pairs, on the model's device.
        words: from `word_codes`.

    Raises:
        ValueError: attention that is no finite number.
    """
    n_pairs, n_layers, n_heads = len(batch), model.cfg.n_layers, model.cfg.n_heads
    tokens, codes = batch.tokens.cpu().numpy(), batch.parts.codes.cpu().numpy()
    pair, i, j = np.nonzero((codes == Part.QUERY)[:, :, None] & (codes == Part.DOC)[:, None, :])
    kind = np.where(tokens[pair, i] == tokens[pair, j], 0, np.where(words[pair, i] == words[pair, j], 1, 2))
    cell = pair * len(KINDS) + kind
    order = np.argsort(cell, kind="stable")
    pair, i, j, cell = pair[order], i[order], j[order], cell[order]
    present, starts = np.unique(cell, return_index=True)
    token_pairs = np.bincount(cell, minlength=n_pairs * len(KINDS)).reshape(n_pairs, len(KINDS))
    n_rows = np.stack([np.maximum((codes == d.attender).sum(1), 1) for d in MATCH_DIRECTIONS])  # [direction, pair]

    precise = torch.promote_types(model.dtype, torch.float32)
    given = replace(model.attention_input(batch.attention_mask, batch.parts), dtype=precise)
    edges = torch.from_numpy(EDGES[1:-1]).to(precise).to(model.device)
    at = [torch.from_numpy(index).to(model.device) for index in (pair, i, j)]
    slots = (cell[:, None] * n_heads + np.arange(n_heads)) * N_BINS
    mass = np.zeros((n_pairs, len(MATCH_DIRECTIONS), n_layers, n_heads, len(KINDS)))
    counts = np.zeros((*mass.shape, N_BINS), dtype=np.int32)
    held: list[Tensor] = []

    def hold(q: Tensor, hook: HookPoint) -> None:
        held.append(q)

    def measure(k: Tensor, hook: HookPoint) -> None:
        layer, attn = hook.layer(), model.block(hook.layer()).attn
        there = slice(None) if attn.window is None else np.abs(i - j) <= attn.window
        pattern = attn.pattern(held.pop().to(precise), k.to(precise), given)
        for direction, (rows, columns) in enumerate(((at[1], at[2]), (at[2], at[1]))):
            weights = pattern[at[0], :, rows, columns]
            if not bool(weights.isfinite().all()):
                raise ValueError(
                    "expected finite attention, but some is NaN or infinite: check the checkpoint's weights, or use dtype float32"
                )
            bins = torch.bucketize(weights, edges, right=True).cpu().numpy()
            found = np.bincount((slots + bins)[there].ravel(), minlength=n_pairs * len(KINDS) * n_heads * N_BINS)
            counts[:, direction, layer] = found.reshape(n_pairs, len(KINDS), n_heads, N_BINS).swapaxes(1, 2)
            total = np.zeros((n_pairs * len(KINDS), n_heads))
            if len(present):
                total[present] = np.add.reduceat(weights.to("cpu", torch.float64).numpy(), starts, axis=0)
            by_pair = total.reshape(n_pairs, len(KINDS), n_heads) / n_rows[direction][:, None, None]
            mass[:, direction, layer] = by_pair.swapaxes(1, 2)

    hooks: FwdHooks = []
    for layer in range(n_layers):
        hooks += zip(model.block(layer).attn.scored_points, (hold, measure), strict=True)
    model.run_with_hooks(batch, fwd_hooks=hooks)
    return PairMatches(token_pairs, mass, counts)
