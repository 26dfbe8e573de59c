"""The figures of probes by layer, and what they show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tl_crossenc.pools.grades import listed
from tl_crossenc.report.figures.probes import LOWEST_R2, SET_NAMES, probe_features, probes
from tl_crossenc.report.figures.style import signed
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.tables import interval_text, queries_text
from tl_crossenc.results.artefacts import load_table
from tl_crossenc.statistics.published import ZHAN_2020, ZHAN_2020_PROBE_FLOOR

KEY, FEATURES = "probes", "probe_features"
PROBE_NAMES = {"ridge": "a ridge regression", "logistic": "a logistic regression", "tokens": "Zhan et al.'s probe"}
DECODABLE = "A probe finds what can be read off a state, not what the model uses."


def _draw(folder: Path) -> Callable[[bool], Figure]:
    relevance, cutoff = load_table(folder, KEY, "relevance"), Run.read(folder).cutoff
    return lambda narrow: probes(relevance, cutoff=cutoff, narrow=narrow)


def _draw_features(folder: Path) -> Callable[[bool], Figure]:
    features = load_table(folder, FEATURES, "features")
    return lambda narrow: probe_features(features, narrow=narrow)


def _caption(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    relevance = load_table(folder, KEY, "relevance")
    own = relevance[relevance["source"] == "model"]
    best = own.loc[own["ndcg"].idxmax()]
    grades = "; ".join(dict.fromkeys(listed(of, " or ") for of in scalars["relevant_grades"].values()))
    draws = scalars["n_shuffles"]
    grey = [
        *(["the same of the untrained twin (dashed)"] if (relevance["source"] == "untrained").any() else []),
        *([f"labels shuffled within queries (dotted, mean of {draws})"] if draws else []),
        "the random ranking (line)",
    ]
    lacking = [f"{SET_NAMES[name]} ({n:,})" for name, n in scalars["left_out"].items() if n]
    left = f" Pairs without such tokens are left out: {', '.join(lacking)}." if lacking else ""
    named = f"{SET_NAMES[best['set']]} after {best['layer']} layers, {best['ndcg']:.3f}"
    return (
        f"{run.measure} of {run.where} ({_sample(scalars, run)}), ranked by {PROBE_NAMES[scalars['probe']]} that reads the "
        f"{_pooled(scalars)} of some tokens and is asked for relevance (grade {grades}). Every query is ranked by a probe "
        f"that was fitted on other queries ({scalars['n_folds']} folds, seed {scalars['seed']}), its penalty chosen there, too. "
        f"0 layers run: the embeddings. Bands: 95 % t-intervals over queries. Grey: {', '.join(grey)}. Black: the model's own "
        f"head on the stream at that layer.{left} Best of these {len(own)}, so flattered: {named}"
        f"{interval_text(best['ndcg_low'], best['ndcg_high'])}. Last panel, in the colours of the others: {ZHAN_2020}, MRR@10 "
        f"over BM25's top 100, at the same relative depth, random {ZHAN_2020_PROBE_FLOOR}: compare shapes, not heights. {DECODABLE}"
    )


def _caption_features(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    counted = "; ".join(
        f"{of['passages']:,} passages of {of['mean_words']:.0f} words on average" for of in scalars["bm25"].values()
    )
    about = next(iter(scalars["bm25"].values()))
    none = scalars["constant_features"]
    constant = f" No R² of {', '.join(none)}: the same for every pair." if none else ""
    return (
        f"What classical retrieval measures of a pair, read off the {_pooled({**scalars, 'probe': 'ridge'})} of some tokens of "
        f"{run.where} by ridge regression ({_sample(scalars, run)}): R² within queries, of pairs whose query was not fitted "
        f"on; below 0 is worse than the query's mean (cut at {signed(LOWEST_R2, 2)}). "
        f"BM25 with k1 = {about['k1']:g}, b = {about['b']:g} and the "
        f"counts of the pool ({counted}), without stop words. R² over all pairs, with intervals, and that of the untrained "
        f"twin are in the table.{constant} {DECODABLE}"
    )


def _sample(scalars: dict[str, Any], run: Run) -> str:
    n, of = scalars["queries"], scalars["of_queries"]
    queries = queries_text(n) if n == of else f"{n} of {of} queries, drawn at random"
    return f"{queries}, {scalars['pairs']:,} {run.graded}"


def _pooled(scalars: dict[str, Any]) -> str:
    if scalars["probe"] == "tokens":
        return "states"
    return {"mean": "mean state", "max": "elementwise maximum of the states"}[scalars["pooling"]]


DRAWERS = {KEY: _draw, FEATURES: _draw_features}
CAPTIONS = {KEY: _caption, FEATURES: _caption_features}
