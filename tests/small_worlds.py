"""A tiny reranker and tiny collections on disk, and a model whose every use is an error: what the main job runs on in tests."""

import helpers
import numpy as np
import tiny_collections

from tl_crossenc.model.block import BertBlock
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.results.artefacts import NOT_ASKED

TOPICS = ("flea", "egg", "bread", "sponge", "quilt")
CONTEXT = 61


def model_folder(folder, *, seed=0, layout="safetensors", n_labels=2, config=None, state=None, vocabulary=True):
    """A random two-layer BERT classifier with a vocabulary, as a user would have it in a folder."""
    chosen = config or helpers.small_config(n_labels, max_position_embeddings=CONTEXT)
    weights = state or helpers.random_weights(chosen, n_labels, seed=seed)
    helpers.write_checkpoint(folder, chosen, weights, layout)
    return helpers.write_vocabulary(folder) if vocabulary else folder


def tiny_model(folder, dtype="float64", **settings):
    """The ported model of `model_folder`."""
    return HookedCrossEncoder.from_pretrained(str(model_folder(folder, **settings)), dtype=dtype, device="cpu")


def collection_folder(folder, *, n_queries=5, per_grade=(3, 2, 2, 2), prefix="", n_more=17):
    """Queries with distinct passages of grades 0..3 (`per_grade` of each, one fewer for every other query), and unjudged ones."""
    docs, queries, qrels = {}, {}, []
    for q in range(n_queries):
        query_id = f"{prefix}q{q}"
        queries[query_id] = f"how do {TOPICS[q % 5]} rise {q}"
        for grade, count in enumerate(per_grade):
            for i in range(max(1, count - q % 2)):
                doc_id = f"{prefix}d{q}-{grade}-{i}"
                docs[doc_id] = " ".join(
                    [TOPICS[(q + grade) % 5], "lay the eggs"[: 4 * grade], str(grade * 7 + i), "é " * i]
                )
                qrels.append((query_id, doc_id, grade))
    for i in range(n_more):
        docs[f"{prefix}x{i}"] = f"the {TOPICS[i % 5]} {i}"
    return tiny_collections.write_folder(folder, docs, queries, qrels)


def forbid_model_work(monkeypatch):
    """From here on every layer that a model runs is an error."""

    def refuse(*args, **kwargs):
        raise AssertionError("the model was run")

    monkeypatch.setattr(BertBlock, "forward", refuse)
    monkeypatch.setattr(HookedCrossEncoder, "run_embed", refuse)
    monkeypatch.setattr(HookedCrossEncoder, "forward", refuse)


def blank(monkeypatch):
    """From here on figures are composed and their files written, but nothing is drawn in them."""
    monkeypatch.setattr("tl_crossenc.report.drawing.to_svg", lambda figure, salt: '<svg viewBox="0 0 2 3"></svg>')
    monkeypatch.setattr("tl_crossenc.report.drawing.to_pdf", lambda figure: b"%PDF-1.4")


def count_layers(monkeypatch):
    """A list that grows by (layer, pairs) with every layer run, whole or some of its rows."""
    calls = []

    def counted(run):
        def call(self, resid, *args, **kwargs):
            calls.append((self.layer, len(resid)))
            return run(self, resid, *args, **kwargs)

        return call

    for name in ("forward", "rerun_rows"):
        if hasattr(BertBlock, name):
            monkeypatch.setattr(BertBlock, name, counted(getattr(BertBlock, name)))
    return calls


def asked(reasons):
    """The reasons why artefacts are not there, of those that were asked for."""
    return {key: reason for key, reason in reasons.items() if reason != NOT_ASKED}


def snapshot(folder):
    """Path under the folder → bytes, of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def identities(folder):
    """Path → (inode, time of last change), of every file: what a rewrite changes even where the bytes stay."""
    found = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(path.relative_to(folder)): (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


def pool_of_words(name, queries, grades, words, empty=()):
    """A pool whose passages are 2 to 9 random words; `empty` names pairs (query_id, number) without text.

    `grades` gives query_id -> the grade of each of its passages.
    """
    rng = np.random.default_rng(7)
    pairs = []
    for query_id, own in grades.items():
        for i, grade in enumerate(own):
            text = " ".join(rng.choice(words, size=rng.integers(2, 10)))
            pairs.append(PoolPair(query_id, queries[query_id], f"d{i}", "" if (query_id, i) in empty else text, grade))
    return Pool(name, PoolSpec(None, 0, 0), tuple(pairs))
