"""Why one passage outranks another for a query: components, words, heads and token pairs, and what removal turns the order.

**Formulas.** The score of either passage is a sum over the same components (`direct_attribution`, which has the formula and the
limits), so the difference of the scores is the sum of their differences,

    s(A) - s(B) = sum_c (a_c - b_c),

heads, MLPs, embeddings and biases; `remainder` is what rounding leaves of either score. It is exact, and still of what is written
directly: scales and slopes are each run's own, so that a component can differ though it writes the same in both.

`contrasted_words` has what words add and which removals turn the order, `contrasted_heads` how attention is compared, of which
`explain` has the formulas. All of it is of the run as it is: what `model.ablating` removes is gone, and so it is in every run
without a word.

**Limits.** Words are left out one at a time, and their effects do not add up to the difference; two words of which one would do add
nothing each. A text without a word is no text that anybody wrote. More attention in one passage says where to look, not that it
makes the difference.

>>> from tl_crossenc.model.cross_encoder import HookedCrossEncoder
>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> found = contrast(model, "tune guitar", "old guitar garden", "old piano garden tune")
>>> found.verdict
'A outranks B by 0.7560.'
>>> found.removal_sentence("A")
'A falls below B without 1 word: guitar (0.0007 against 2.4165; the fewest that do).'
>>> found.to_frame("words").query("to_a > 1")[["text", "word", "to_a", "to_b", "difference"]].round(2)
    text    word  to_a  to_b  difference
1  query  guitar  3.17   0.0        3.17
3      A  guitar  3.17   0.0        3.17
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from tl_crossenc.console.progress import counted
from tl_crossenc.console.shown import short_name
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.instruments.direct_attribution import DirectAttribution, direct_attribution
from tl_crossenc.instruments.removal import repeated
from tl_crossenc.instruments.word_attributions import words_of
from tl_crossenc.instruments.word_removal import encoder_of, word_removal
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import made_by
from tl_crossenc.views.attention_across import attention_across
from tl_crossenc.views.contrasted import Contrast
from tl_crossenc.views.contrasted_heads import contrasted_heads, contrasted_links
from tl_crossenc.views.contrasted_words import Pair, Scoring, Ties, turning_words, word_effects
from tl_crossenc.views.lengths import Lengths, asked_lengths
from tl_crossenc.views.tokens import shown_tokens

MOST_RUNS = 1000
"""Of each search for the fewest words, by default."""


def contrast(
    model: HookedCrossEncoder,
    query: str,
    a: str,
    b: str,
    *,
    top: int = 5,
    links: int = 3,
    removal: str | None = None,
    most_runs: int = MOST_RUNS,
    max_length: Lengths = None,
    token_budget: int | None = None,
    progress: Callable[[int], Any] | bool | None = None,
) -> Contrast:
    """Explain why A outranks B for a query, or B A. `model.explain(query, a, b)` is the same.

    Args:
        model: the model.
        query, a, b: one text each.
        top: how many components, words, and heads a direction, are shown; the tables have all.
        links: how many token pairs are kept of each head and direction, each way.
        removal: what stands for a word that is not there: "delete" (the default), "mask" or "pad".
        most_runs: how many sets of words are run to prove that what turns the order is the fewest, and as many for the search after
            that; for A and for B.
        max_length: the tokens that pairs are cut to, by default the model's own limit.
        token_budget: padded tokens a batch of texts without words.
        progress: called with the number of texts without words newly scored; True shows a bar.

    Raises:
        TypeError: not one text each.
        ValueError: A and B are the same text, or the same to the model; `top`, `links` or `most_runs` below 1; scores that are no
            finite numbers; a query that leaves no room; another removal or length than there is.
    """
    for name, text in (("query", query), ("passage a", a), ("passage b", b)):
        if not isinstance(text, str):
            raise TypeError(
                f"expected the {name} as one text, got {type(text).__name__}: contrast two passages at a time"
            )
    for name, count in (("top", top), ("links", links), ("most_runs", most_runs)):
        if count < 1:
            raise ValueError(f"expected {name} of at least 1, got {count}")
    limit, lengths = asked_lengths(encoder_of(model), max_length)
    if len(lengths) > 1:
        raise ValueError(
            f"expected one max_length where two passages are contrasted, got {len(lengths)}: contrast them at each"
        )
    encoded = model.encode_pairs([query, query], [a, b], max_length=limit)
    way = word_removal(model, encoded, removal).way
    found = [words_of(model, query, text, max_length=limit) for text in (a, b)]
    singles = [repeated(encoded, np.array([i])) for i in range(2)]
    _check_differ(a, b, singles)
    split = direct_attribution(model, encoded)
    if not np.isfinite(split.scores).all():
        raise ValueError(
            "expected finite scores, got NaN or infinity: check the checkpoint's weights, or use dtype float32"
        )
    tokens = [tuple(shown_tokens(model, pair)) for pair in singles]
    across = [attention_across(model, pair, own, 1)[0] for pair, own in zip(singles, tokens, strict=True)]
    pairs = [Pair(query, text, own) for text, own in zip((a, b), found, strict=True)]
    scores = split.scores.tolist()
    tied = abs(scores[0] - scores[1]) <= float(Ties.of(model).gap(split.scores[:1], scores[1])[0])
    with counted(progress, "texts without words", 0) as advance:
        scoring = Scoring(model, way, limit, token_budget, advance)
        effects, shared = word_effects(scoring, pairs)
        removals, turned = turning_words(scoring, pairs, scores, most_runs, tied=tied)
    condition = model.active_condition
    return Contrast(
        query=query,
        a=a,
        b=b,
        model=short_name(str(model.cfg.model_name)),
        condition="" if condition.edits == () else str(condition),
        score_a=scores[0],
        score_b=scores[1],
        tied=tied,
        truncated=(bool(encoded.truncated[0]), bool(encoded.truncated[1])),
        read=(found[0].read, found[1].read),
        contributions=_contributions(split),
        words=effects,
        shared=shared,
        heads=contrasted_heads(*across),
        links=contrasted_links(model, encoded, tokens, links),
        removal=turned,
        removals=removals,
        way=way,
        top=top,
        activated=_activated(model, split.scores),
        activation=model.activation.name,
        types_fed=model.types_fed,
        readout=f"{model.head.biased} bias",
        made=made_by(model, query=query, a=a, b=b, removal=way, most_runs=most_runs, max_length=limit, links=links),
    )


def _contributions(split: DirectAttribution) -> pd.DataFrame:
    """Table `contributions`: both pairs' components side by side."""
    keys = ["component", "layer", "head"]
    frame = split.to_frame()
    a, b = (frame[frame["pair"] == i].reset_index(drop=True) for i in range(2))
    both = a[keys].assign(a=a["contribution"], b=b["contribution"], difference=a["contribution"] - b["contribution"])
    return both.sort_values("difference", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def _activated(model: HookedCrossEncoder, scores: Float[np.ndarray, "pair"]) -> tuple[float, float] | None:
    if not model.activation.computed:
        return None
    a, b = model.activated(torch.from_numpy(scores)).tolist()
    return a, b


def _check_differ(a: str, b: str, pairs: Sequence[EncodedPairs]) -> None:
    if a == b:
        raise ValueError("expected two passages, got the same text twice: there is nothing that tells them apart")
    if np.array_equal(pairs[0].tokens, pairs[1].tokens):
        cut = ", for they differ only in what truncation cuts: raise max_length" if pairs[0].truncated.any() else ""
        raise ValueError(
            f"expected two passages that the model tells apart, got two that are the same {len(pairs[0].tokens)} tokens to it{cut}"
        )
