"""Diagnostic pairs: a query and a passage changed after a retrieval axiom, the two sides aligned token by token.

An axiom says which of two passages ought to score higher; that one is the clean side. Both sides are the same text but for slots,
and a slot is filled up with filler to the same number of tokens on both sides, so that nothing else moves. With q and r query
terms, d the passage, `_` filler and + appending (Fang et al. 2004; Fang and Zhai 2006 for STMC1; Tao and Zhai 2007 for proximity):

    axiom    what ought to score higher                append: clean, corrupted       replace: clean, corrupted
    TFC1     one more query term                       d + q, d + _                   d, d with its last q as _
    TFC2     a gain that shrinks with each more:       d + q^i q _.., d + q^i _ _..   d with q kept i + 1 times, i times
             one pair for each i
    TDC      the query term of higher idf              d + high, d + low              d with its last low as high, d
    LNC1     no further word that is not in the query  d + _, d + w                   d with its last w as _, d
    STMC1    a word close in meaning to a query term   d + close, d + _               d with its last q as close, as _
    PROX1    query terms closer together               d + q r _.. _, d + q _ _.. r   d with r beside q and _ far, with _ beside q

Chen et al. 2024 made such pairs for TFC1 in both forms; MechIR (Parry et al. 2025) makes diagnostic pairs after several axioms.
Filler is `neutral` (a word, "a" as in Chen et al.), `masked` (the tokenizer's mask token) or `random` (words of the vocabulary).

>>> from tl_crossenc.model.cross_encoder import HookedCrossEncoder
>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> def show(axiom, passage, **settings):
...     for label in diagnose(model, axiom, "guitar and piano", passage, **settings).labels:
...         print(label["clean"], "|", label["corrupted"])
>>> show("TFC1", "the guitar garden")
the guitar garden guitar | the guitar garden a
>>> show("TFC1", "the guitar garden", form="replace", filler="masked")
the guitar garden | the [MASK] garden
>>> show("TFC2", "the garden", term="piano", repeats=2)
the garden piano a | the garden a a
the garden piano piano | the garden piano a
>>> show("TDC", "the guitar garden", form="replace", idf={"guitar": 1.0, "piano": 2.0})
the piano garden | the guitar garden
>>> show("LNC1", "the guitar garden", word="window")
the guitar garden a | the guitar garden window
>>> show("STMC1", "the guitar garden", term="guitar", word="music")
the guitar garden music | the guitar garden a
>>> show("PROX1", "the garden", distance=2)
the garden guitar piano a a a | the garden guitar a a a piano
>>> show("PROX1", "guitar by the old piano", form="replace")
guitar piano the old a | guitar a the old piano
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.words import word_spans, words
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.counterfactuals import NEUTRAL, AlignedPairs, encode_sides
from tl_crossenc.patching.slots import (
    STOPWORDS,
    Segment,
    SlotWriter,
    closest_words,
    content_terms,
    idf_of,
    side_text,
)
from tl_crossenc.pools.pool import Pool

Axiom = Literal["TFC1", "TFC2", "TDC", "LNC1", "STMC1", "PROX1"]
Form = Literal["append", "replace"]
Filler = Literal["neutral", "masked", "random"]
AXIOMS: tuple[Axiom, ...] = get_args(Axiom)
FORMS: tuple[Form, ...] = get_args(Form)
FILLERS: tuple[Filler, ...] = get_args(Filler)
Built = list[tuple[list[Segment], dict[str, Any]]]
"""Texts of each pair as segments, and what to label it with."""


def diagnose(
    model: HookedCrossEncoder,
    axiom: Axiom,
    query: str,
    passage: str,
    *,
    form: Form = "append",
    filler: Filler = "neutral",
    term: str | None = None,
    word: str | None = None,
    idf: Mapping[str, float] | Pool | None = None,
    repeats: int = 3,
    distance: int = 5,
    neutral: str = NEUTRAL,
    seed: int = 0,
) -> AlignedPairs:
    """The clean and corrupted pair of one axiom (TFC2: several), labelled `axiom`, `form`, `filler` and `term`.

    Args:
        model: whose tokenizer decides on lengths.
        axiom, form, filler: see the module.
        term: the query term q. By default the first content term of the query (for `replace` the first that the passage has).
        word: LNC1: the word that is not in the query (append: a random one; replace: the passage's last). STMC1: the word close
            to q (by default `closest_words`). PROX1: the second query term r (the first other).
        idf: for TDC, of every content term, or the pool to compute it from (a word that no passage has is the rarest of all).
        repeats: for TFC2, append: how many query terms are added at most.
        distance: for PROX1, append: filler tokens between the terms of the corrupted side, besides the slot of r.
        neutral: the neutral filler, a word of one token.
        seed: of random fillers and words.

    Raises:
        ValueError: an unknown choice; a query without content terms; a term that query or passage does not have; no idf, or one
            that does not tell two terms apart; a difference that the model's length would cut away.
    """
    for name, value, known in (("axiom", axiom, AXIOMS), ("form", form, FORMS), ("filler", filler, FILLERS)):
        if value not in known:
            raise ValueError(f"expected {name} among {', '.join(known)}, got {value!r}")
    writer = SlotWriter(model, query, passage, filler, neutral, seed)
    build = _BUILD[axiom]
    replace = form == "replace"
    found = build(writer, replace, term, word, idf=idf, repeats=repeats, distance=distance)
    for segments, _ in found:
        writer.require_room(segments)
    labels = [{"axiom": axiom, "form": form, "filler": filler, **more} for _, more in found]
    clean, corrupted = [[(query, side_text(segments, side)) for segments, _ in found] for side in (0, 1)]
    pairs = encode_sides(model, clean, corrupted, labels)
    if (pairs.clean.parts[pairs.differs] != int(Part.DOC)).any():
        raise ValueError("expected the query untouched on both sides, got other tokens in it")
    return pairs


def _tfc1(w: SlotWriter, replace: bool, term: str | None, word: str | None, **_: Any) -> Built:
    q = w.term(term, in_passage=replace)
    if not replace:
        return [(w.appended([w.slot(q, "")]), {"term": q})]
    at = w.spans(q)[-1]
    return [(w.replaced([(at, w.slot(w.own(at), ""))]), {"term": q})]


def _tfc2(w: SlotWriter, replace: bool, term: str | None, word: str | None, *, repeats: int, **_: Any) -> Built:
    q = w.term(term, in_passage=replace)
    spans = w.spans(q)
    n = len(spans) if replace else repeats
    if n < 2:
        raise ValueError(f"expected at least 2 occurrences of {q!r} to see a gain shrink, got {n}")
    kept = [w.own(span) for span in spans] if replace else [q] * n
    fill = [w.slot(text, "")[1] for text in kept]
    built: Built = []
    for i in range(n):
        slots: list[Segment] = [*kept[:i], (kept[i], fill[i]), *fill[i + 1 :]]
        segments = w.replaced(list(zip(spans, slots, strict=True))) if replace else w.appended(slots)
        before = i if replace else len(spans) + i
        built.append((segments, {"term": q, "occurrences": before}))
    return built


def _tdc(w: SlotWriter, replace: bool, term: str | None, word: str | None, *, idf: Any, **_: Any) -> Built:
    terms = content_terms(w.query)
    if idf is None:
        raise ValueError("expected idf for TDC: a mapping from every query term, or a pool to compute it from")
    rarest = math.inf
    if isinstance(idf, Pool):
        rarest, idf = math.log(len({p.text for p in idf.pairs}) + 1), idf_of(p.text for p in idf.pairs)
    missing = [t for t in terms if t not in idf and not math.isfinite(rarest)]
    if missing:
        raise ValueError(f"expected the idf of every query term, got none of {', '.join(missing)}")
    value = {t: float(idf.get(t, rarest)) for t in terms}
    high = max(terms, key=lambda t: value[t]) if term is None else w.term(term, in_passage=False)
    others = [t for t in terms if value[t] < value[high] and (not replace or w.spans(t))]
    if not others:
        where = "in the passage" if replace else "in the query"
        raise ValueError(
            f"expected another query term {where} of lower idf than {high!r} ({value[high]:.3g}), got none"
        )
    low = min(others, key=lambda t: value[t])
    at = w.spans(low)[-1] if replace else (0, 0)
    slot = w.slot(high, w.own(at) if replace else low)
    segments = w.replaced([(at, slot)]) if replace else w.appended([slot])
    return [(segments, {"term": high, "word": low, "idf": value[high], "word_idf": value[low]})]


def _lnc1(w: SlotWriter, replace: bool, term: str | None, word: str | None, **_: Any) -> Built:
    asked = set(words(w.query))
    if word is None:
        own = [t for t in words(w.passage) if t not in asked and t not in STOPWORDS]
        if replace and not own:
            raise ValueError("expected a passage with a content word that is not in the query, got none")
        word = own[-1] if replace else w.random_words(1)[0]
    if set(words(word)) & asked:
        raise ValueError(f"expected a word that is not in the query for LNC1, got {word!r}")
    if not replace:
        return [(w.appended([w.slot("", word)]), {"term": word})]
    at = w.occurrence(word)
    return [(w.replaced([(at, w.slot("", w.own(at)))]), {"term": word})]


def _stmc1(w: SlotWriter, replace: bool, term: str | None, word: str | None, **_: Any) -> Built:
    q = w.term(term, in_passage=replace)
    close = word or closest_words(w.model, q, exclude=words(w.query))[0]
    if close.lower() in words(w.query):
        raise ValueError(f"expected a word close to {q!r} that is not in the query itself for STMC1, got {close!r}")
    slot = w.slot(close, "")
    segments = w.replaced([(w.spans(q)[-1], slot)]) if replace else w.appended([slot])
    return [(segments, {"term": q, "word": close})]


def _prox1(w: SlotWriter, replace: bool, term: str | None, word: str | None, *, distance: int, **_: Any) -> Built:
    q = w.term(term, in_passage=replace)
    others = [t for t in content_terms(w.query) if t != q and (not replace or w.spans(t))]
    r = w.term(word, in_passage=replace) if word is not None else next(iter(others), None)
    if r is None or r == q:
        raise ValueError(
            f"expected two different query terms{' in the passage' if replace else ''} for PROX1, got {q!r} alone"
        )
    near = w.slot(r, "")
    if not replace:
        if distance < 1:
            raise ValueError(f"expected a distance of at least 1 for PROX1, got {distance}")
        return [(w.appended([q, near, w.fill(distance), near[::-1]]), {"term": q, "word": r, "distance": distance})]
    at, far = w.spans(q)[0], w.spans(r)[-1]
    between = [span for span in word_spans(w.passage) if min(at[1], far[1]) <= span[0] < max(at[0], far[0])]
    if not between:
        raise ValueError(
            f"expected a word between {q!r} and {r!r} in the passage to bring them closer, got them side by side"
        )
    beside = between[0] if at < far else between[-1]
    slots: list[tuple[tuple[int, int], Segment]] = [(beside, near), (far, near[::-1])]
    return [(w.replaced(sorted(slots)), {"term": q, "word": r, "distance": len(between)})]


_BUILD: dict[Axiom, Callable[..., Built]] = {
    **{"TFC1": _tfc1, "TFC2": _tfc2, "TDC": _tdc},
    **{"LNC1": _lnc1, "STMC1": _stmc1, "PROX1": _prox1},
}
