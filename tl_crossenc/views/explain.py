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
import torch

from tl_crossenc.console.shown import short_name
from tl_crossenc.instruments.direct_attribution import direct_attribution
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.token_attributions import LEAVE_ONE_OUT
from tl_crossenc.instruments.word_attributions import words_of
from tl_crossenc.instruments.word_removal import encoder_of
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by
from tl_crossenc.views.attention_across import attention_across
from tl_crossenc.views.explanation import Explanation
from tl_crossenc.views.lengths import Lengths, asked_lengths, cut_words, score_lengths
from tl_crossenc.views.tokens import shown_tokens
from tl_crossenc.views.words import completeness_frame, word_frame, word_values


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
    heads, joined = attention_across(model, encoded, tokens, links)
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
