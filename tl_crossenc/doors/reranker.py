"""A model as a reranker in PyTerrier's pipelines: `bm25 >> pt.text.get_text(index) >> model.as_pyterrier()`.

A transformer from results with texts (R with `text`) to results: a row keeps its columns, gets the model's `score`, and PyTerrier's
own `add_ranks` gives the `rank`. Queries are scored as they stand in `query`. No Java is needed for this.
"""

from __future__ import annotations

import functools
import importlib
from contextlib import nullcontext
from typing import Any

import pandas as pd

from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.ablations import as_condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


def as_pyterrier(
    model: HookedCrossEncoder,
    condition: Condition | Direction | str | None = None,
    *,
    text_field: str = "text",
    activated: bool = False,
    max_length: int | None = None,
    token_budget: int | None = None,
) -> Any:
    """A `pyterrier.Transformer` that reranks with the model.

    Args:
        model: the model; what it ablates at the moment of a run is ablated, too.
        condition: what is ablated besides, such as "DOC->QUERY"; None for nothing.
        text_field: the column that has the passages.
        activated: give activated scores (`model.activated`), as `CrossEncoder` does, in place of raw ones. Both rank alike, but for
            activated ones that are too close for a float.
        max_length, token_budget: as `model.score` takes them.

    Raises:
        ImportError: PyTerrier is not installed.
        ValueError: a condition that the model cannot be put under.
    """
    chosen = None if condition is None else as_condition(condition)
    if chosen is not None:
        chosen.compile(model.cfg.n_layers, model.cfg.n_heads)
    return _reranker()(model, chosen, text_field, activated, {"max_length": max_length, "token_budget": token_budget})


@functools.cache
def _reranker() -> Any:
    """The class, made when PyTerrier is there to inherit from."""
    try:
        pt = importlib.import_module("pyterrier")
    except ImportError:
        raise ImportError(
            "as_pyterrier needs PyTerrier, which is not installed: pip install 'tl-crossenc[pyterrier]'"
        ) from None

    class Reranker(pt.Transformer):  # type: ignore[name-defined]
        """Results with texts -> results by the model's scores."""

        def __init__(
            self,
            model: HookedCrossEncoder,
            condition: Condition | None,
            text_field: str,
            activated: bool,
            given: dict[str, Any],
        ):
            self.model, self.condition, self.text_field = model, condition, text_field
            self.activated, self.given = activated, given

        def __repr__(self) -> str:
            under = "" if self.condition is None else f", {self.condition}"
            return f"Reranker({self.model!r}{under})"

        def transform_inputs(self) -> list[list[str]]:
            """The columns that it needs."""
            return [["qid", "query", "docno", self.text_field]]

        def transform_outputs(self, inp_cols: list[str]) -> list[str]:
            """The columns that come out where these go in."""
            pt.validate.columns(inp_cols, includes=self.transform_inputs()[0], context=self)
            return [*(name for name in inp_cols if name not in ("score", "rank")), "score", "rank"]

        def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
            """Score every row, and rank the rows of every `qid`.

            Raises:
                pyterrier.validate.InputValidationError: a column is missing.
                ValueError: a row without a query or a text.
            """
            self.transform_outputs(list(inp.columns))
            out = inp.drop(columns=["score", "rank"], errors="ignore")
            for column in ("query", self.text_field):
                bad = [not isinstance(text, str) for text in out[column]]
                if any(bad):
                    raise ValueError(
                        f"expected a text in the column {column} of every row, but {sum(bad)} of {len(out)} have none, the first "
                        f"of docno {out['docno'][bad].iloc[0]!r}: get texts with pt.text.get_text(...) before"
                    )
            return pt.model.add_ranks(out.assign(score=self._scores(out)))

        def _scores(self, rows: pd.DataFrame) -> Any:
            ablated = nullcontext() if self.condition is None else self.model.ablating(self.condition)
            with ablated:
                scores = self.model.score(rows["query"].tolist(), rows[self.text_field].tolist(), **self.given)
            return (self.model.activated(scores) if self.activated else scores).double().numpy()

    return Reranker
