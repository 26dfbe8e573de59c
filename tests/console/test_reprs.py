"""What a result shows at a prompt fits a screen."""

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import saved_results
from small_worlds import collection_folder, tiny_model

import tl_crossenc.experiments
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.match_distributions import run_match_distributions
from tl_crossenc.experiments.matching import query_means
from tl_crossenc.experiments.paper import PaperOptions, run_paper
from tl_crossenc.experiments.ranking import rank_under
from tl_crossenc.experiments.scoring import score_pool
from tl_crossenc.experiments.table1 import run_table1
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.pools.collections import Collection, load_collection
from tl_crossenc.pools.documents import FolderDocuments
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec, build_pool
from tl_crossenc.store.cells import Store

MODULES = (
    *(f"tl_crossenc.experiments.{module.name}" for module in pkgutil.iter_modules(tl_crossenc.experiments.__path__)),
    "tl_crossenc.model.execution",
    "tl_crossenc.instruments.attention_flow",
    "tl_crossenc.instruments.token_matches",
    "tl_crossenc.pools.pool",
    "tl_crossenc.pools.collections",
    "tl_crossenc.reproduce",
)
HEAVY = ("DataFrame", "Series", "ndarray", "Tensor", "AttentionFlow", "Moments", "Table1")


def test_every_class_that_holds_tables_has_a_short_repr():
    """A dataclass's own repr prints each of its fields whole."""
    found = []
    for module in MODULES:
        for name, kind in vars(importlib.import_module(module)).items():
            fields = (
                getattr(kind, "__annotations__", {}) if isinstance(kind, type) and kind.__module__ == module else {}
            )
            if name.startswith("_") or not any(word in str(field) for field in fields.values() for word in HEAVY):
                continue
            made = dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")
            if made and "__repr__" not in inspect.getsource(kind):
                found.append(f"{module}.{name}")
    assert not found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    collection = load_collection(collection_folder(place / "c", n_queries=5))
    return collection, build_pool(collection, PoolSpec(10, 3, 0)), tiny_model(place / "m"), Store(place / "s")


@pytest.mark.usefixtures("unchecked")
def test_results_fit_a_screen(world):
    collection, pool, model, store = world
    attention = run_attention(model, [pool], store)
    options = PaperOptions(counts=(1,), n_draws=2)
    results = {
        "collection": collection,
        "docs": collection.docs,
        "pool": pool,
        "scores": score_pool(model, pool.ranked, [UNABLATED], store),
        "ranked": rank_under(model, [pool], store, [UNABLATED]),
        "table1": run_table1(model, [pool], store),
        "means": query_means(attention, "QUERY->DOC"),
        "flow": attention.flow,
        "moments": attention.flow.moments,
        "matches": run_match_distributions(model, [pool], store, n_permutations=2),
        **run_paper(model, [pool], store, options=options),
    }
    for name, result in results.items():
        if isinstance(result, pd.DataFrame):
            continue
        assert not isinstance(result, Exception), name
        assert 0 < len(repr(result)) < 1300, f"{name}: {result!r}"
        assert len(repr(result).splitlines()) <= 24, name
    judged = sum(map(len, collection.qrels.values()))
    assert repr(pool) == f"Pool(c: {pool.describe()}, {judged} judgments; ideal: pool)"
    assert repr(collection).startswith("Collection(c: 5 queries, ")


def test_a_large_pool_and_collection_are_one_line():
    pairs = tuple(PoolPair(f"q{i // 20}", f"query {i // 20}", f"d{i}", "words " * 80, i % 4) for i in range(2000))
    pool = Pool("large", PoolSpec(), pairs, {"much": list(range(5000))})
    assert len(repr(pool)) < 200
    assert "\n" not in repr(pool)
    queries = {f"q{i}": "words " * 20 for i in range(3000)}
    docs = FolderDocuments(Path("docs.tsv"), frozenset())
    collection = Collection("large", queries, {q: {"d": 1} for q in queries}, docs, {"highest_grade": 1})
    said = "3,000 queries, 3,000 judgments of 0..1, FolderDocuments(docs.tsv: not read yet)"
    assert repr(collection) == f"Collection(large: {said})"


def test_short_reprs_show_sizes_and_never_data():
    given = saved_results.results()

    @dataclasses.dataclass
    class Found:
        MAIN: ClassVar[str] = "table"
        table: pd.DataFrame
        array: np.ndarray
        heads: tuple
        name: str
        many: dict

        __repr__ = short_repr

    text = repr(
        Found(
            given["figure1b"],
            np.zeros((300, 7)),
            tuple((i, i) for i in range(400)),
            "x" * 500,
            {i: i for i in range(99)},
        )
    )
    rows, columns = given["figure1b"].shape
    assert f"table: DataFrame of {rows:,} rows x {columns:,} columns (" in text
    assert "array: ndarray of shape (300, 7)" in text
    assert "heads: tuple of 400" in text
    assert "many: dict of 99" in text
    assert "x" * 59 + "…" in text
    assert "x" * 60 not in text
    assert "MAIN" not in text  # of the class, not of the result
