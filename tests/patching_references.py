"""Aligned pairs of tiny models and of the planted model, and patching one pair and one piece at a time by hooks."""

import numpy as np
import torch
from planted_texts import whole_words
from tiny_models import D_VOCAB, tiny_rows
from type_checks import unchecked

from tl_crossenc.inputs.pairs import EncodedPairs

PART_NAMES = ("CLS", "QUERY", "SEP1", "DOC", "SEP2")
SIZES = ((3, 5), (2, 8), (1, 1), (4, 2))
LEAVES = {
    "z": "attn.hook_z",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "pattern": "attn.hook_pattern",
}


def leaf(site):
    """The hook's name inside of a block."""
    return LEAVES.get(site, f"hook_{site}")


def encode_rows(rows):
    """Rows (tokens, types, parts) as encoded pairs."""
    tokens, types, parts = (np.concatenate([np.asarray(row[i]) for row in rows]) for i in range(3))
    offsets = np.cumsum([0, *(len(row[0]) for row in rows)])
    return EncodedPairs(
        tokens.astype(np.int32), types.astype(np.int8), parts.astype(np.int8), offsets, np.zeros(len(rows), bool), 0
    )


def tiny_twins(sizes=SIZES, seed=0, changed=None, vocabulary=D_VOCAB):
    """Clean and corrupted pairs of a tiny model. All words differ, or only those at the positions `changed`."""
    clean, other = tiny_rows(sizes, seed, vocabulary), tiny_rows(sizes, seed + 1, vocabulary)
    corrupted = []
    for (tokens, types, parts), (others, _, _) in zip(clean, other, strict=True):
        mixed = [
            o if changed is None or i in changed else t for i, (t, o) in enumerate(zip(tokens, others, strict=True))
        ]
        corrupted.append((mixed, types, parts))
    return encode_rows(clean), encode_rows(corrupted)


def planted_twins(model, n_pairs=3):
    """Passages with a query's words (clean), and the same with these replaced by words from outside of it (corrupted)."""
    words = whole_words()
    queries, clean, corrupted = [], [], []
    for i in range(n_pairs):
        query, others = words[7 * i : 7 * i + 5], words[100 + 13 * i : 100 + 13 * i + 9]
        queries.append(" ".join(query))
        clean.append(" ".join([*others[:4], *query[: i + 1], *others[4:6]]))
        corrupted.append(" ".join([*others[:4], *words[200 : 200 + i + 1], *others[4:6]]))
    return model.encode_pairs(queries, clean), model.encode_pairs(queries, corrupted)


def cache_of(model, batch):
    """Every activation of a run, and its scores."""
    with torch.no_grad(), unchecked():
        scores, cache = model.run_with_cache(batch)
    return scores, cache


def patched_score(model, batch, edits):
    """The score of one unpadded pair in a whole run in which `edits`, (hook name, function of the activation), are made."""

    def hook(edit):
        def run(activation, hook):
            return edit(activation.clone())

        return run

    with torch.no_grad(), unchecked():
        return float(model.run_with_hooks(batch, fwd_hooks=[(name, hook(edit)) for name, edit in edits]))


def replace_at(index, donor):
    """An edit that takes the donor's activation at `index`."""

    def edit(activation):
        activation[index] = donor[index]
        return activation

    return edit


def positions_of(batch, part):
    """Where an unpadded pair has a part."""
    return (batch.parts.codes[0] == PART_NAMES.index(part)).nonzero().flatten().tolist()


def plain_loop(model, base, donor, site, indices, name=None):
    """`[pair, layer, piece]`: for every pair, layer and piece a whole run of one unpadded pair with one hook.

    Args:
        indices: from a batch of one pair to its pieces' indices into the activation; None for a piece that it does not have.
    """
    scores = []
    for i in range(len(base)):
        batch = base.batch([i])
        _, donated = cache_of(model, donor.batch([i]))
        scores.append([])
        for layer in range(model.cfg.n_layers):
            name = f"blocks.{layer}.{leaf(site)}"
            scores[-1].append(
                [
                    float("nan")
                    if index is None
                    else patched_score(model, batch, [(name, replace_at(index, donated[name]))])
                    for index in indices(batch)
                ]
            )
    return np.array(scores)
