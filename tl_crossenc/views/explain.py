"""One pair explained: what its words are worth, what adds to its score, which heads look across and what they join.

**Words** have, unless another attribution is asked for, the score less the score without the word, each left out alone
(`instruments.word_attributions` has the other methods, and what of them adds up). Those that truncation cut are listed apart, and
at other lengths there is the score alone.

**Formulas.** Contributions are those of `direct_attribution`, which has the formula and the limits: the score as a sum of what
every component writes to the rows that the classification head reads. Of a head with pattern A, the rows R of the one text and the
columns C of the other,

    mass(QUERY->DOC) = 1/|R| sum_{r in R} sum_{c in C} A[r, c]

is the share of its attention that a token of the one text gives to the other, `even` = |C| / n if it attended evenly to all n
positions (in a layer with a window to those that it sees: |C| and n are each row's own then, and `even` their mean ratio). A head
without any preference gives much to a long text; so heads are ordered by what goes beyond that,

    beyond(QUERY->DOC) = 1/|R| sum_{r in R} sum_{c in C} max(A[r, c] - 1/n, 0),

and the token pairs that a head joins are the largest A[r, c]; those from 2/n on are shown. All of this is of the run as it is: with
what `model.ablating` removes gone, with what `replacing` puts in its place (a head whose output is replaced adds what it was
replaced by; its pattern is as it was), and with the hooks that the model has. Where the classification head reads CLS alone, heads
of the last layer are in the tables but are not shown: nothing that QUERY or DOC takes in there reaches the score (`reaches_score`).

**Limits.** A head can look across without bringing anything (its values decide that), and what it brings may be undone later:
attention says where to look; ablation and patching (`patching`) say what it is worth.

>>> from tl_crossenc.model.cross_encoder import HookedCrossEncoder
>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> found = model.explain("tune a guitar", "a guitar garden")
>>> print(found)
score 5.7542   Sigmoid 0.9968   token types fed   planted
query    [CLS] tune a guitar [SEP]
passage  a guitar garden [SEP]
<BLANKLINE>
Words by leave-one-out, delete: the score less the score without each
query    guitar  +2.5820
         a       +2.5819
         tune    +0.0001
passage  garden  -1.7747
         a       +1.1932
         guitar  +1.1932
The query: the values sum to +5.1640; all of its words at once are worth +5.7542.
The passage: the values sum to +0.6117; all of its words at once are worth +5.7542.
Both texts: the values sum to +5.7758; all of their words at once are worth +5.7542.
Words are left out one at a time: what they are worth need not add up to what all are worth.
<BLANKLINE>
What adds most to the score, directly
head 3.1   +5.7542
31 others   0.0000
<BLANKLINE>
Heads that moved most attention across
direction   head   even   mass  beyond  joins
QUERY->DOC  1.2   0.333  0.662   0.588  a→a 0.99, guitar→guitar 0.99
DOC->QUERY  1.2   0.333  0.662   0.588  a→a 0.99, guitar→guitar 0.99
mass: how much of its attention a token of the first text gives to the second, on average; even:
what even attention would give; beyond: what exceeds even attention; joins: the heaviest token pairs
and their weights (a piece that its text has more than once has its position below).
>>> links = found.to_frame("links").query("direction == 'DOC->QUERY' and layer == 1 and head == 2")
>>> links[["attender", "attended", "attender_pos", "attended_pos"]].head(2).values.tolist()
[['a', 'a', 5, 2], ['guitar', 'guitar', 6, 3]]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_crossenc.console.shown import short_name
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.direct_attribution import direct_attribution
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.token_attributions import LEAVE_ONE_OUT
from tl_crossenc.instruments.word_attributions import words_of
from tl_crossenc.instruments.word_removal import encoder_of
from tl_crossenc.model.attention_input import columns_seen
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.hook_points import FwdHooks
from tl_crossenc.model.made_by import made_by
from tl_crossenc.views.explanation import Explanation
from tl_crossenc.views.lengths import Lengths, asked_lengths, cut_words, score_lengths
from tl_crossenc.views.tokens import shown_tokens
from tl_crossenc.views.words import completeness_frame, word_frame, word_values

ACROSS = ((Part.QUERY, Part.DOC), (Part.DOC, Part.QUERY))
"""(attender, attended)."""


def explain(
    model: HookedCrossEncoder,
    query: str,
    passage: str,
    *,
    top: int = 5,
    links: int = 3,
    attribution: str | None = LEAVE_ONE_OUT,
    removal: str | None = None,
    max_length: Lengths = None,
    statistics: LayerStatistics | None = None,
    progress: Callable[[int], Any] | bool | None = None,
) -> Explanation:
    """Explain the score of one passage for one query. `model.explain` is the same.

    Args:
        model: the model.
        query, passage: one text each.
        top: how many components, heads a direction, and words a text, are shown; the tables have all.
        links: how many token pairs are kept of each head and direction.
        attribution: what gives words their values, of `token_attributions.ATTRIBUTIONS`; None for no words, which spares the runs
            without each.
        removal: what stands for a word that is not there, of leave-one-out and gradients: "delete" (the default; gradients then
            begin at the padding token), "mask" or "pad".
        max_length: the tokens that the pair is cut to, by default the model's own limit; or several, which are scored beside it.
        statistics: of bottlenecks, the layers' distribution over other pairs (`LayerStatistics.fit`).
        progress: called with layer runs newly done for words; True shows a bar.

    Raises:
        TypeError: not one text each, or a length that is no whole number.
        ValueError: `top` or `links` below 1; attention or a score that is no finite number; a query that leaves no room; another
            attribution, removal or length than there is.
    """
    for name, text in (("query", query), ("passage", passage)):
        if not isinstance(text, str):
            raise TypeError(f"expected the {name} as one text, got {type(text).__name__}: explain pairs one by one")
    for name, count in (("top", top), ("links", links)):
        if count < 1:
            raise ValueError(f"expected {name} of at least 1, got {count}")
    length, lengths = asked_lengths(encoder_of(model), max_length)
    encoded = model.encode_pairs(query, passage, max_length=length)
    tokens = tuple(shown_tokens(model, encoded))
    split = direct_attribution(model, encoded)
    if not np.isfinite(split.scores).all():
        raise ValueError(
            "expected a finite score, got NaN or infinity: check the checkpoint's weights, or use dtype float32"
        )
    frame = split.to_frame().drop(columns="pair")
    frame = frame.sort_values("contribution", key=np.abs, ascending=False, kind="stable", ignore_index=True)
    heads, joined = _attention_across(model, encoded, tokens, links)
    found = words_of(model, query, passage, max_length=length)
    valued = word_values(model, query, passage, encoded, found, attribution, removal, length, statistics, progress)
    condition = model.active_condition
    return Explanation(
        query=query,
        passage=passage,
        model=short_name(str(model.cfg.model_name)),
        condition="" if condition.edits == () else str(condition),
        score=float(split.scores[0]),
        tokens=tokens,
        parts=np.asarray(encoded.parts).astype(np.int64),
        truncated=bool(encoded.truncated[0]),
        contributions=frame,
        heads=heads,
        links=joined,
        words=word_frame(valued),
        completeness=completeness_frame(valued),
        lengths=score_lengths(model, query, passage, lengths, length, found.passage_tokens),
        cut=cut_words(found.words),
        read=found.read,
        attribution=attribution or "",
        way="" if valued is None else valued.way,
        made=made_by(
            model,
            query=query,
            passage=passage,
            attribution=attribution,
            removal=None if valued is None else valued.way or None,
            max_length=length,
        ),
        top=top,
        activated=float(model.activated(torch.tensor(split.scores[:1]))[0]) if model.activation.computed else None,
        activation=model.activation.name,
        types_fed=model.types_fed,
        readout=f"{model.head.biased} bias",
    )


def _attention_across(
    model: HookedCrossEncoder, pair: EncodedPairs, tokens: tuple[str, ...], links: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `heads` and `links` of an `Explanation`; no pattern outlives its layer."""
    batch = pair.batch().to(model.device)
    places = {part: np.flatnonzero(batch.parts[part][0].cpu().numpy()) for part in (Part.QUERY, Part.DOC)}
    masses: list[tuple] = []
    joined: list[tuple] = []

    def look(pattern: Tensor, hook: HookPoint) -> None:
        layer = hook.layer()
        reaches = layer < model.cfg.n_layers - 1 or not model.head.reads_only_first_row
        seen = _seen(model, batch, layer)
        weights = pattern[0].detach().double().cpu().numpy()
        for attender, attended in ACROSS:
            rows, columns = places[attender], places[attended]
            if not len(rows) or not len(columns):
                continue
            name = f"{attender.name}->{attended.name}"
            for head, block in enumerate(weights[:, rows[:, None], columns]):
                beyond = (block - 1 / seen[rows, -1:]).clip(min=0).sum(1).mean()
                even, mass = (seen[rows, attended] / seen[rows, -1]).mean(), float(block.sum(1).mean())
                masses.append((name, layer, head, mass, float(even), float(beyond), reaches))
                for flat in np.argsort(-block, axis=None, kind="stable")[:links]:
                    r, c = np.unravel_index(flat, block.shape)
                    i, j = int(rows[r]), int(columns[c])
                    sides = i, j, tokens[i], tokens[j]
                    joined.append((name, layer, head, float(block[r, c]), *sides, int(seen[i, -1])))

    hooks: FwdHooks = [(f"blocks.{layer}.attn.hook_pattern", look) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        model.run_with_hooks(batch, fwd_hooks=hooks)
    heads = pd.DataFrame(masses, columns=["direction", "layer", "head", "mass", "even", "beyond", "reaches_score"])
    heads["order"] = heads["direction"].map({f"{a.name}->{b.name}": i for i, (a, b) in enumerate(ACROSS)})
    heads = heads.sort_values(["order", "beyond"], ascending=[True, False], kind="stable", ignore_index=True)
    columns = ["direction", "layer", "head", "weight", "attender_pos", "attended_pos", "attender", "attended", "seen"]
    return heads.drop(columns="order"), pd.DataFrame(joined, columns=columns)


def _seen(model: HookedCrossEncoder, batch: PairBatch, layer: int) -> Int[np.ndarray, "row 6"]:
    """How many positions of each part, and of all, each position of the only pair sees in a layer."""
    given = model.attention_input(batch.attention_mask, batch.parts)
    sets = torch.cat([batch.parts.one_hot, batch.attention_mask[..., None]], -1)
    counts = columns_seen(given, model.block(layer).attn.window, sets)[0].cpu().numpy()
    return np.broadcast_to(counts, (batch.tokens.shape[1], counts.shape[1]))
