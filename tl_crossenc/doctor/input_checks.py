"""Checks of what the model is fed: token types, padding, what is cut, positions, the tokenizer."""

from __future__ import annotations

import numpy as np
import torch

from tl_crossenc.doctor.findings import NOTE, OK, WARNING, Finding
from tl_crossenc.doctor.probes import LONGEST_MEASURED, PASSAGES, Probes
from tl_crossenc.doctor.readings import Way, query_lengths
from tl_crossenc.doctor.runs import encoded_rows, run_rows
from tl_crossenc.doctor.terminal import number
from tl_crossenc.inputs.encoder import token_limit
from tl_crossenc.inputs.parts import Part

CUT_ANYWAY = 1 << 24
"""A tokenizer's limit from here on is none."""


def types(probes: Probes) -> Finding:
    """Whether token types are fed, why, and what the other way does to scores."""
    rows = probes.model.cfg.d_vocab_types
    if rows < 2:
        what = "The model has no token types." if not rows else "The model has one token type, fed everywhere."
        return Finding("token types", OK, what, "", "Query and passage are told apart by the separator alone.")
    if probes.model.types_fed:
        moved = probes.moved(probes.rerun(0 * probes.pairs.token_type_ids))
        what = f"Token types are fed: the model has {rows}, and its tokenizer names them among its inputs."
        measured = f"With type 0 everywhere scores move by up to {number(moved)}."
        means = "Systems that do not pass token_type_ids give those."
        return Finding("token types", NOTE if moved > probes.slack else OK, what, measured, means, moved)
    moved = probes.moved(probes.rerun(probes.pairs.parts >= Part.DOC))
    what = (
        f"Type 0 is fed everywhere, as Hugging Face does: the model has {rows}, but its tokenizer does not name them."
    )
    measured = f"With type 1 from the passage on scores move by up to {number(moved)}."
    means = "If it was trained with types, all systems that go by these files give wrong scores."
    return Finding("token types", WARNING if moved > probes.slack else OK, what, measured, means, moved)


def batches(probes: Probes) -> Finding:
    """Whether a pair's score depends on what is in its batch and on padding."""
    model, pairs = probes.model, probes.pairs
    together = probes.scored(run_rows(model, pairs, len(pairs) * int(pairs.lengths.max())))
    usual = probes.scored(run_rows(model, pairs))
    width = min(int(pairs.lengths.max()) * 3, model.cfg.n_ctx)
    batch = pairs.batch()
    gap = (0, width - batch.tokens.shape[1])
    with torch.no_grad():
        wide = model(
            torch.nn.functional.pad(batch.tokens, gap, value=pairs.pad_token_id),
            token_type_ids=torch.nn.functional.pad(batch.token_type_ids, gap),
            attention_mask=torch.nn.functional.pad(batch.attention_mask, gap),
            return_type="logits",
        )
    padded = probes.scored(wide.to("cpu", torch.float64).numpy())
    moved = {
        f"in one batch of {len(pairs)}": probes.moved(together),
        f"padded to {width} tokens": probes.moved(padded),
        "in the usual batches": probes.moved(usual),
    }
    largest = max(moved.values())
    measured = (
        "Beside each pair alone scores move by up to "
        + ", ".join(f"{number(by)} {how}" for how, by in moved.items())
        + "."
    )
    if largest <= probes.slack:
        return Finding("batches", OK, "Padding and batches do not matter beyond rounding.", measured, "", largest)
    what = f"Scores depend on their batch by more than rounding in this type ({number(probes.slack)})."
    means = "Use --dtype float32, or compare scores of the same batches."
    return Finding("batches", WARNING, what, measured, means, largest)


def left_padding(probes: Probes) -> Finding:
    """What padding on the left would do, and whether the tokenizer does it."""
    cfg, asked = probes.model.cfg, probes.encoder.tokenizer.padding_side == "left"
    what = "Pairs are padded on the right" + (
        ", though the tokenizer says left." if asked else ", as the tokenizer says."
    )
    severity = WARNING if asked else OK
    if cfg.pooling == "mean":
        return Finding(
            "left padding", severity, what, "", "The head reads the mean of real positions, wherever they are."
        )
    means = "Padded on the left, a head that reads the first position reads padding" + (
        ": Hugging Face's scores of a padded batch are wrong then." if asked else "."
    )
    if cfg.positional_embedding_type != "standard" or cfg.position_offset or cfg.relative is not None:
        return Finding("left padding", severity, what, "", means)
    moved = probes.moved(_padded_on_the_left(probes))
    measured = f"In one batch padded on the left scores move by up to {number(moved)}."
    return Finding("left padding", severity, what, measured, means, moved)


def _padded_on_the_left(probes: Probes) -> np.ndarray:
    """The scores of one batch whose padding comes first: positions count from it on, and the head reads it."""
    batch = probes.pairs.batch()
    turned = [torch.zeros_like(batch.tokens), torch.zeros_like(batch.tokens), torch.zeros_like(batch.attention_mask)]
    turned[0] += probes.pairs.pad_token_id
    for i, n in enumerate(probes.pairs.lengths):
        for column, given in zip(turned, (batch.tokens, batch.token_type_ids, batch.attention_mask), strict=True):
            column[i, -n:] = given[i, :n]
    with torch.no_grad():
        logits = probes.model(turned[0], token_type_ids=turned[1], attention_mask=turned[2], return_type="logits")
    return probes.scored(logits.to("cpu", torch.float64).numpy())


def truncation(probes: Probes) -> Finding:
    """Where pairs are cut, and what the usual way to cut would leave of a long query."""
    encoder = probes.encoder
    limit, own = encoder.max_length, token_limit(encoder.tokenizer)
    if own <= encoder.n_positions:
        whose = "the tokenizer's model_max_length"
    elif own < CUT_ANYWAY:
        whose = f"the model's positions; the tokenizer says {own:,}"
    else:
        whose = "the model's positions; the tokenizer says none"
    what = f"Pairs are cut to {limit:,} tokens ({whose}), and only the passage is cut."
    query = _long(probes, limit - encoder.n_special - max((limit - encoder.n_special) // 4, 1))
    passage = _long(probes, limit)
    read = [Way(encoder), Way(encoder, cut="longest_first")]
    (ours,), (theirs,) = (way([query], [passage]) for way in read)
    n_query, n_passage = (query_lengths(encoder, [text])[0] for text in (query, passage))
    if ours is None or theirs is None:
        return Finding("truncation", NOTE, what)
    left = limit - encoder.n_special - n_query
    half = _query_left(probes, theirs[0], query, n_query)
    measured = (
        f"Of a query of {n_query:,} tokens and a passage of {n_passage:,}, {n_query:,} and {left:,} are read here, "
        f"{half:,} and {limit - encoder.n_special - half:,} by longest_first"
    )
    value = None
    if limit <= LONGEST_MEASURED:
        logits = run_rows(probes.model, encoded_rows([ours, theirs], probes.pairs.pad_token_id), 1)
        value = float(abs(np.subtract(*probes.scored(logits))))
        measured += f": scores {number(value)} apart"
    means = (
        "Tokenizers cut the longer text first unless told otherwise, so does sentence-transformers: the same while the query "
        f"has at most {(limit - encoder.n_special) // 2:,} tokens."
    )
    return Finding("truncation", NOTE, what, measured + ".", means, value)


def _long(probes: Probes, n_tokens: int) -> str:
    """A text of no more than so many tokens, or of a word, and nearly as many."""
    words = " ".join(PASSAGES).split()
    per_word = max(query_lengths(probes.encoder, [" ".join(words)])[0] / len(words), 1e-9)
    text = [words[i % len(words)] for i in range(max(int(n_tokens / per_word), 1))]
    while len(text) > 1 and query_lengths(probes.encoder, [" ".join(text)])[0] > n_tokens:
        text = text[: max(len(text) - max(len(text) // 50, 1), 1)]
    return " ".join(text)


def _query_left(probes: Probes, tokens: np.ndarray, query: str, n_query: int) -> int:
    """How many of a query's tokens begin a pair."""
    ids = probes.encoder.tokenizer(query, add_special_tokens=False, verbose=False)["input_ids"]
    start = 1
    for i in range(n_query):
        if start + i >= len(tokens) or tokens[start + i] != ids[i]:
            return i
    return n_query


def positions(probes: Probes) -> Finding:
    """How positions are told, and how many there are."""
    cfg = probes.model.cfg
    kinds = {"standard": "in a table", "rotary": "rotary", "relative": "relative, in buckets"}
    kind = kinds.get(str(cfg.positional_embedding_type), str(cfg.positional_embedding_type))
    if cfg.relative is not None and cfg.positional_embedding_type == "standard":
        kind = "in a table, and relative"
    what = f"{cfg.n_ctx:,} positions, {kind}"
    if cfg.position_offset:
        what += f", counted from row {cfg.position_offset} of the checkpoint's table"
    near = [window for window in cfg.windows or () if window is not None]
    if near:
        what += f"; in {len(near)} of {cfg.n_layers} layers a position sees {min(near)} to either side"
    means = "Systems that count positions from row 0 give other scores." if cfg.position_offset else ""
    return Finding("positions", OK, what + ".", "", means)


def tokenizer(probes: Probes) -> Finding:
    """Which tokenizer reads the texts, and what it does to case and accents."""
    own, cfg = probes.encoder.tokenizer, probes.model.cfg

    def same(a: str, b: str) -> bool:
        return own(a, add_special_tokens=False)["input_ids"] == own(b, add_special_tokens=False)["input_ids"]

    case = "lowers case" if same("Bread RISES", "bread rises") else "keeps case"
    accents = "strips accents" if same("creme", "crème") else "keeps accents"
    unknown = int((probes.pairs.tokens == own.unk_token_id).sum()) if own.unk_token_id is not None else 0
    of = int((probes.pairs.parts % 2 == 1).sum())  # QUERY and DOC
    what = f"{type(own).__name__} of {len(own):,} word pieces ({cfg.d_vocab:,} embeddings): it {case} and {accents}."
    measured = f"{unknown} of {of} word pieces of the built-in pairs are unknown to it."
    if 4 * unknown > of:
        return Finding(
            "tokenizer",
            WARNING,
            what,
            measured,
            "It is for other texts than English, or not this model's.",
            unknown / of,
        )
    return Finding("tokenizer", OK, what, measured, "", unknown / of)
