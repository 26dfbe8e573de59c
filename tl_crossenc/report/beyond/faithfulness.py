"""The figures of faithfulness, and what they show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tl_crossenc.report.figures.faithfulness import faithfulness, faithfulness_rankings
from tl_crossenc.report.run_record import Run
from tl_crossenc.report.tables import NO_TEST, queries_text
from tl_crossenc.results.artefacts import load_scalars, load_table

KEY, RANKINGS = "faithfulness", "faithfulness_rankings"
WAYS = {"mask": "become the mask token", "pad": "become the padding token", "delete": "are deleted"}


def _draw(folder: Path) -> Callable[[bool], Figure]:
    curves, measures = (load_table(folder, KEY, name) for name in ("curves", "measures"))
    return lambda narrow: faithfulness(curves, measures, narrow=narrow)


def _draw_rankings(folder: Path) -> Callable[[bool], Figure]:
    rankings, scalars = load_table(folder, RANKINGS, "rankings"), load_scalars(folder, KEY)
    random, cutoff = scalars["random_ranking"], Run.read(folder).cutoff
    return lambda narrow: faithfulness_rankings(rankings, random=random, cutoff=cutoff, narrow=narrow)


def _caption(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    measures = load_table(folder, KEY, "measures")
    own = measures[(measures["measure"] == "area") & (measures["attribution"] != "random")]
    better = own[(own["p_holm"] <= 0.05) & (own["difference"] > 0)]["attribution"].tolist()
    tests = int(measures["p"].notna().sum())
    found = (
        f"A larger area than random tokens have: {', '.join(better) if better else 'none'} (paired t-test over queries, Holm over "
        f"{tests} tests, p ≤ .05)."
        if tests
        else NO_TEST
    )
    kept = scalars["n_pairs"] - scalars["without_span"] - scalars["without_tokens"]
    lacking = "".join(f" Left out: {name}, since {reason}." for name, reason in scalars["left_out"].items())
    return (
        f"The score of a pair as the tokens of its {scalars['text']} {WAYS[scalars['removal']]}, by the order in which each "
        f"attribution ranks them: 1 is the score, 0 that without all of them. {_sample(scalars, run)}; {kept:,} pairs whose score "
        f"falls by at least {scalars['least_span']:.2g} count. Bands: 95 % t-intervals over queries. {found} Bits are those after "
        f"layer {scalars['layer']}; random is the mean of {_draws(scalars)}.{lacking} No model was trained on texts with holes: "
        "what removal does is partly surprise."
    )


def _caption_rankings(folder: Path, scalars: dict[str, Any], run: Run) -> str:
    rankings = load_table(folder, RANKINGS, "rankings")
    tests = int(rankings["p"].notna().sum())
    marks = f"Filled: different from random tokens, paired t-test over queries, Holm over {tests} tests, p ≤ .05."
    end = (
        "all passages of a query are the same input, and their ranking the random one"
        if (scalars["removal"], scalars["text"]) == ("delete", "passage")
        else "only what the removal leaves, such as lengths, ranks"
    )
    return (
        f"{run.measure} after the most important tokens of every {scalars['text']} {WAYS[scalars['removal']]}. "
        f"{_sample(scalars, run)}. At 100 % {end}; random ranking {scalars['random_ranking']:.3f}. {marks if tests else NO_TEST} "
        f"{_least(rankings)}{run.one_gain}"
    )


def _least(rankings: pd.DataFrame) -> str:
    """The attribution whose tokens the rankings need most, in the mean over what lies between the ends."""
    inner = rankings[rankings["fraction"].between(0, 1, inclusive="neither")]
    means = inner.groupby("attribution", sort=False)["mean"].mean()
    return f"Lowest in the mean between the ends: {means.idxmin()}, {means.min():.3f} (random {means['random']:.3f})."


def _sample(scalars: dict[str, Any], run: Run) -> str:
    drawn = f", drawn at random with seed {scalars['seed']}" if scalars["sampled"] else ""
    return f"Of {run.where}: {queries_text(scalars['n_queries'])}{drawn}, all {scalars['n_pairs']:,} {run.graded} of theirs"


def _draws(scalars: dict[str, Any]) -> str:
    return "one order" if scalars["draws"] == 1 else f"{scalars['draws']} orders"


DRAWERS = {KEY: _draw, RANKINGS: _draw_rankings}
CAPTIONS = {KEY: _caption, RANKINGS: _caption_rankings}
