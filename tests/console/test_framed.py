"""Arrays and tables of a result as frames: against loops over the array, labels by hand."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from jaxtyping import Float, Int

from tl_crossenc.console.framed import Framed, array_frame

RNG = np.random.default_rng(3)


@dataclass(frozen=True)
class Found(Framed):
    """Arrays of two kinds, a table, a series and a setting."""

    weights: Float[np.ndarray, "pair layer head"]
    bits: Float[np.ndarray, "pair layer head"]
    counts: Int[np.ndarray, "pair *layer"]
    square: Float[np.ndarray, "part part 2"]
    table: pd.DataFrame
    series: pd.Series
    missing: Float[np.ndarray, "pair"] | None = None
    steps: int = 7

    def axes(self) -> Mapping[str, object]:
        return {"layer": (1, 4), "head": {"head": ("a", "b", "c", "d", "e"), "kind": (0, 0, 1, 1, 0)}}


def found(**changes):
    table = pd.DataFrame({"layer": [1, 4], "mean": [0.5, 0.25]}, index=["x", "y"])
    given = Found(
        RNG.random((3, 2, 5)),
        RNG.random((3, 2, 5)),
        np.arange(3),
        RNG.random((5, 5, 2)),
        table,
        pd.Series([1.0, 2.0], name="random"),
        made={"model": "tiny", "seed": 3},
    )
    return replace(given, **changes)


def test_a_row_an_element_with_labels_and_the_arrays_beside_it():
    given = found()
    frame = given.to_frame()
    assert list(frame.columns) == ["pair", "layer", "head", "kind", "weights", "bits"]
    assert len(frame) == 30
    for row in frame.itertuples():
        place = row.pair, (1, 4).index(row.layer), "abcde".index(row.head)
        assert row.weights == given.weights[place]
        assert row.bits == given.bits[place]
        assert row.kind == (0, 0, 1, 1, 0)[place[2]]
    assert given.to_frame("bits").equals(frame)
    assert given.to_frame("counts")["counts"].tolist() == [0, 1, 2]
    by_layer = found(counts=np.arange(6).reshape(3, 2)).to_frame("counts").set_index(["pair", "layer"])["counts"]
    assert by_layer[2, 4] == 5
    square = given.to_frame("square").set_index(["part_0", "part_1", "2_2"])["square"]
    assert square[4, 1, 0] == given.square[4, 1, 0]


def test_tables_are_copies_and_say_how_they_were_made():
    given = found()
    frame = given.to_frame("table")
    assert frame.equals(given.table)
    assert frame.attrs == {"model": "tiny", "seed": 3, "steps": 7}
    assert given.table.attrs == {}
    frame["mean"] = 0.0
    assert given.table["mean"].tolist() == [0.5, 0.25]
    assert given.to_frame("series")["random"].tolist() == [1.0, 2.0]
    assert found(made={}).to_frame().attrs == {"steps": 7}


def test_attrs_survive_copies_pickles_and_parquet(tmp_path):
    frame = found().to_frame()
    expected = {"model": "tiny", "seed": 3, "steps": 7}
    frame.to_parquet(tmp_path / "frame.parquet")
    for other in (frame.copy(), pickle.loads(pickle.dumps(frame)), pd.read_parquet(tmp_path / "frame.parquet")):
        assert other.attrs == expected
        assert other.equals(frame)
    assert json.loads(json.dumps(frame.attrs)) == expected


def test_a_table_that_there_is_not_and_labels_that_do_not_fit():
    with pytest.raises(
        ValueError, match="expected a table among weights, bits, counts, square, table, series, got 'bit'"
    ):
        found().to_frame("bit")
    with pytest.raises(ValueError, match="got 'missing'"):
        found().to_frame("missing")
    with pytest.raises(ValueError, match="expected 3 labels along layer, got 2"):
        found(weights=np.zeros((2, 3, 5))).to_frame("weights")


def test_how_it_was_made_is_no_part_of_what_it_is():
    assert array_frame({"x": np.zeros((0, 2))}, ("pair", "head"), {}).shape == (0, 3)
    assert "made" not in repr(found())
    assert pickle.loads(pickle.dumps(found())).made == {"model": "tiny", "seed": 3}
