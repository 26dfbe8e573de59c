"""The main job on a tiny random checkpoint of every family that opens: each figure, and a page that is true of the family."""

import html
import re

import family_oracle as oracle
import numpy as np
import pytest
from family_models import COVERED, opened
from family_worlds import MODELS
from small_worlds import asked, collection_folder

from tl_crossenc.pools.pool import PoolSpec
from tl_crossenc.reproduce import Settings, reproduce
from tl_crossenc.results.artefacts import ARTEFACTS, load_table

NAMES = [name for name in MODELS if name in COVERED]
pytestmark = (
    pytest.mark.slow
)  # what a family's own is, each experiment's tests have; the whole job is BERT's in test_reproduce.py
UNDEFINED = {
    "figure1c_distance": {
        "distance",
        "shift",
        "null_mean",
        "null_high",
        "p",
        "p_max",
        "p_holm",
    },  # too few token pairs of a kind
    "figure1c_mass": {"lift", "lift_low", "lift_high", "lift_pooled"},
    "figure1c_per_query": {"lift"},
    "head_ablation": {"p_random", "p_family"},  # the ranked row alone is tested
    "head_ablation_folds": {"p_holm"},  # all queries together alone are corrected
}
"""The columns that have no number where there is nothing to tell, of whatever family; table -> columns."""


@pytest.fixture(scope="module", params=NAMES)
def done(request, tmp_path_factory):
    """(world, model, what was found, the folder)."""
    base = tmp_path_factory.mktemp(request.param)
    world, model = opened(request.param, base / "checkpoint", dtype="float32")
    collection = collection_folder(base / "collection", n_queries=4)
    settings = Settings(
        str(base / "checkpoint"), (str(collection),), base / "out", pool=PoolSpec(10, 3, 0), device="cpu"
    )
    return world, model, reproduce(settings), base / "out"


def text_of(page):
    """What a reader sees of a page, without drawings."""
    page = re.sub(r"<style.*?</style>|<script.*?</script>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def test_every_figure_is_drawn_and_every_number_is_there(done):
    _, _, found, out = done
    assert asked(found.unavailable) == {}
    for key, artefact in ARTEFACTS.items():
        if key in found.unavailable:
            continue
        assert not artefact.drawn or (out / "figures" / f"{key}.svg").stat().st_size > 1000
        for name, file in artefact.tables.items():
            frame = load_table(out, key, name)
            without = {column for column in frame if frame[column].isna().any()}
            stem = file.rpartition("/")[2].partition(".")[0]
            assert len(frame), file
            assert without <= UNDEFINED.get(stem, set()), file


def test_scores_are_hugging_faces_with_directions_removed(done):
    world, _, found, _ = done
    scores, (pool,) = found.table1.scores, found.pools
    texts = {(pair.query_id, pair.doc_id): (pair.query, pair.text) for pair in pool.pairs}
    batch = oracle.encode(world, [texts[row.query_id, row.doc_id] for row in scores.itertuples()])
    for condition, removals in (
        ("none", []),
        ("zero(DOC->QUERY)", [oracle.Removal("zero", ("DOC",), ("QUERY",))]),
        ("zero(SEP1->DOC)", [oracle.Removal("zero", ("SEP1",), ("DOC",))]),
    ):
        expected = oracle.run(world, batch, removals).score.numpy()
        np.testing.assert_allclose(scores[condition], expected, atol=2e-4)


def test_attention_by_direction_is_hugging_faces(done):
    world, _, found, out = done
    (pool,) = found.pools
    batch = oracle.encode(world, [(pair.query, pair.text) for pair in pool.pairs])
    patterns = oracle.run(world, batch, []).patterns
    frame = load_table(out, "attention", "by_direction").query("quantity == 'mass' and grade == 3")
    means = frame.set_index(["attender", "attended", "layer", "head"])["mean"].sort_index()
    chosen = [i for i, pair in enumerate(pool.pairs) if pair.grade == 3]
    for attender, attended in (("DOC", "QUERY"), ("SEP1", "DOC"), ("CLS", "SEP1")):
        rows, columns = (batch.parts == oracle.PARTS.index(side) for side in (attender, attended))
        for layer, pattern in enumerate(patterns):
            by_row = (pattern * columns[:, None, None]).sum(-1)
            masses = (by_row * rows[:, None]).sum(-1) / rows.sum(1)[:, None]
            expected = masses[chosen].mean(0).numpy()
            np.testing.assert_allclose(means[attender, attended, layer].to_numpy(), expected, atol=1e-5)


def test_what_the_page_says_is_true_of_the_family(done):
    world, model, _, out = done
    said = text_of((out / "report.html").read_text("utf-8"))
    unpublished = said.replace("Zhan et al. 2020 (BERT-base", "").replace("MonoBERT", "")
    for word in ("BERT", "[SEP]", "[CLS]", "pooler", "CLS row"):
        assert word not in unpublished, word
    rotary, windows = model.cfg.rotary_bases is not None, any(world.half_windows)
    assert ("Rotary positions" in said) == rotary
    assert ("relative positions" in said) == (model.cfg.relative is not None)
    assert ("Layers with a window" in said) == windows
    assert ("beyond a layer's window" in said) == windows
    assert (out / "tables" / "existing_cells.csv").exists() == windows
    assert ("alignment_over_offsets" in load_table(out, "figure2", "heads")) == rotary
    decomposition = load_table(out, "decomposition", "decomposition")
    shares = decomposition[[column for column in decomposition if column.startswith("share_")]]
    assert shares.shape[1] == (5 if model.cfg.relative is not None else 4)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)


def test_every_drawing_is_a_picture_without_gaps(done):
    *_, out = done
    for path in (out / "figures").glob("*.svg"):
        drawn = path.read_text("utf-8")
        assert "nan" not in re.sub(r'(href|id|xlink:href)="[^"]*"', "", drawn).lower().replace("unan", ""), path.name


def test_the_twin_is_of_the_same_family(done):
    *_, out = done
    control, own = (load_table(out, key, "heads") for key in ("figure1b_control", "figure1b"))
    assert len(control) == len(own)
    assert not np.allclose(control["difference"], own["difference"])
