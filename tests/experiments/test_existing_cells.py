"""The cells that windows leave, against loops over every token pair of Hugging Face's own encoding."""

import family_oracle as oracle
import numpy as np
import pandas as pd
import pytest
from family_models import opened
from small_worlds import collection_folder

from tl_crossenc.experiments.compare_masks import run_compare_masks
from tl_crossenc.experiments.existing_cells import existing_cells
from tl_crossenc.experiments.layers import run_layer_sweep
from tl_crossenc.experiments.table1 import run_table1
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.report.masks import masks_caption, write_masks
from tl_crossenc.report.tables import NO_CELL_MARK, markdown_table, windows_text
from tl_crossenc.store.cells import Store

PARTS = ("CLS", "QUERY", "SEP1", "DOC", "SEP2")
MASK0 = (
    "QUERY->CLS",
    "SEP1->CLS",
    "DOC->CLS",
    "SEP2->CLS",
    "DOC->SEP1",
    "QUERY->SEP2",
    "SEP1->QUERY",
    "SEP1->DOC",
    "SEP1->SEP2",
)
MASK0 = (*MASK0, "SEP2->QUERY", "SEP2->SEP1", "SEP2->DOC")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """(world, model, pool, its cells by loops: [layer or -1 for all, part, part])."""
    world, model = opened("modernbert-cls", tmp_path_factory.mktemp("modernbert"))
    collection = load_collection(collection_folder(tmp_path_factory.mktemp("collection") / "c", n_queries=3))
    pool = build_pool(collection, PoolSpec(2, 2, 0))
    batch = oracle.encode(world, [(pair.query, pair.text) for pair in pool.ranked.pairs])
    counts = np.zeros((len(world.half_windows) + 1, 5, 5), int)
    for parts in batch.parts.tolist():
        for i, row in enumerate(parts):
            for j, column in enumerate(parts):
                if row < 5 and column < 5:
                    for layer, half in enumerate((*world.half_windows, None)):
                        counts[layer, row, column] += half is None or abs(i - j) <= half
    return world, model, pool, counts


def of(counts, direction):
    sides = [range(5) if side == "ALL" else [PARTS.index(side)] for side in direction.split("->")]
    return counts[:, sides[0]][:, :, sides[1]].sum((1, 2))


def test_every_direction_in_every_layer(seen):
    world, model, pool, counts = seen
    frame = existing_cells(model, [pool]).frame()
    assert len(frame) == 36 * len(world.half_windows)
    for row in frame.to_dict("records"):
        found = of(counts, row["direction"])
        assert (row["cells"], row["existing"]) == (found[-1], found[row["layer"]])
        assert row["share"] == pytest.approx(found[row["layer"]] / found[-1])
    assert 0 < frame["share"].min() < 1 or (frame["share"] == 0).any()


def test_a_model_without_windows_has_no_such_table(tmp_path):
    _, model = opened("gte", tmp_path)
    assert existing_cells(model, []) is None


def test_conditions_weigh_layers_and_heads(seen):
    _, model, pool, counts = seen
    cells = existing_cells(model, [pool])
    condition = Condition.parse("zero(DOC->QUERY; layers=0,1; heads=2) + mask(CLS->SEP2; layers=1)")
    doc, cls = of(counts, "DOC->QUERY"), of(counts, "CLS->SEP2")
    n = model.cfg.n_heads
    assert cells.share(condition) == pytest.approx((doc[0] + doc[1] + n * cls[1]) / (2 * doc[-1] + n * cls[-1]))
    by_layer = cells.by_layer(condition)
    assert by_layer[:2] == pytest.approx([doc[0] / doc[-1], (doc[1] + n * cls[1]) / (doc[-1] + n * cls[-1])])
    assert np.isnan(by_layer[2:]).all()


@pytest.mark.usefixtures("unchecked")
def test_table_1_figure_1a_and_masks_have_the_shares(seen, tmp_path):
    world, model, pool, counts = seen
    layers, store = len(world.half_windows), Store(tmp_path / "store")
    table = run_table1(model, [pool], store)
    for direction, share in table.comparison["existing_cells"].items():
        found = of(counts, str(direction))
        assert share == pytest.approx(found[:-1].sum() / (layers * found[-1]))
    sweep = run_layer_sweep(model, [pool], store, directions=[Direction.parse("DOC->QUERY")], span="from")
    found = of(counts, "DOC->QUERY")
    expected = [found[layer:-1].sum() / ((layers - layer) * found[-1]) for layer in range(layers)]
    assert sweep.curve["existing_cells"].tolist() == pytest.approx(expected)
    masks = run_compare_masks(model, [pool], store, presets=["mice-mask0", "zhan-q2d:2"])
    mask0 = sum(of(counts, direction) for direction in MASK0)
    shares = masks.existing_cells.set_index(["preset", "layer"])["share"]
    assert shares["mice-mask0"].tolist() == pytest.approx((mask0[:-1] / mask0[-1]).tolist())
    assert shares["zhan-q2d:2"].isna().tolist() == [False, False, *[True] * (layers - 2)]
    of_all = mask0[:-1].sum() / (layers * mask0[-1])
    assert masks.table.loc[masks.table["preset"] == "mice-mask0", "existing_cells"].tolist() == pytest.approx(
        [of_all] * 2
    )
    said = masks_caption("m", "c", masks.table, masks.unablated, masks.random, 10)
    assert "share of the removed cells that exist" in said
    files = write_masks(tmp_path / "out", masks, said)
    assert sorted(files) == sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
    )
    written = pd.read_csv(tmp_path / "out" / "tables" / "compare_masks_cells.csv").set_index(["preset", "layer"])[
        "share"
    ]
    assert written["mice-mask0"].tolist() == pytest.approx((mask0[:-1] / mask0[-1]).tolist())


def test_a_direction_without_a_cell_is_marked(seen, tmp_path):
    _, model, pool, _ = seen
    table = run_table1(model, [pool], Store(tmp_path / "store"))
    plain = markdown_table(table.comparison, table.unablated)
    assert NO_CELL_MARK not in plain
    table.comparison.loc["CLS->SEP2", "existing_cells"] = 0.0
    assert markdown_table(table.comparison, table.unablated).count(NO_CELL_MARK) == 1


def test_what_windows_leave_in_a_sentence(seen):
    world, model, pool, counts = seen
    frame = existing_cells(model, [pool]).frame()
    limited = [layer for layer, half in enumerate(world.half_windows) if half is not None]
    said = windows_text(frame)
    assert f"Layers with a window ({', '.join(map(str, limited))})" in said
    for direction in ("ALL->ALL", "DOC->QUERY", "QUERY->DOC"):
        found = of(counts, direction)
        assert f"{found[limited].sum() / (len(limited) * found[-1]):.0%} of {direction}" in said
    assert said.endswith("is in tables/existing_cells.csv. ∅: a direction that has no cell in any layer.")
    assert windows_text(None) == ""
    frame["existing"] = frame["cells"]
    assert windows_text(frame) == " Windows leave no cell out: all passages are shorter."
