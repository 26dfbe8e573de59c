"""Every instrument must point at exactly the heads that were planted, whatever the family."""

import numpy as np
import pytest
from planted_families import FAMILIES, write
from planted_texts import graded_pool

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD, SINK_HEAD
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.head_ablation import run_head_ablation
from tl_crossenc.experiments.layers import run_layer_sweep
from tl_crossenc.experiments.matching import matching_heads, passing_heads
from tl_crossenc.experiments.qk_alignment import run_qk_alignment
from tl_crossenc.experiments.sinks import measure_sinks
from tl_crossenc.interventions.directions import parse_directions
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.store.cells import Store

SEED = 3


@pytest.fixture(scope="module", params=FAMILIES)
def written(request, tmp_path_factory):
    """(what opens a family's planted model, what is known of it)."""
    return write(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def planted(written):
    return HookedCrossEncoder.from_pretrained(written[0], device="cpu")


@pytest.fixture(scope="module")
def known(written):
    return written[1]


@pytest.fixture(scope="module")
def pool():
    return graded_pool(n_queries=7, per_grade=3, seed=SEED)


@pytest.fixture(scope="module")
def attention(planted, pool, tmp_path_factory):
    return run_attention(planted, [pool], Store(tmp_path_factory.mktemp("attention")))


@pytest.fixture(scope="module")
def alignment(planted, pool, tmp_path_factory):
    return run_qk_alignment(planted, [pool], Store(tmp_path_factory.mktemp("alignment")), max_pairs=31)


def head_of(row):
    return (int(row["layer"]), int(row["head"]))


def test_heads_that_attend_evenly_to_what_they_reach_have_no_excess(planted, attention, known):
    """In a layer with a window, too: the other thirteen and, in layer 2 of ModernBERT, what a window of 15 leaves of them."""
    frame = attention.by_direction
    excess = (
        frame[frame["quantity"] == "excess"].groupby(["layer", "head"])["mean"].agg(lambda means: means.abs().max())
    )
    excess = excess.drop([MATCHING_HEAD, SINK_HEAD, MOVING_HEAD, *known.side])
    assert excess.max() < 1e-6
    windows = planted.cfg.windows
    assert (windows is not None) == known.name.startswith("modernbert")
    if windows:
        masses = frame[(frame["quantity"] == "mass") & (frame["layer"] == 2) & (frame["head"] == 0)]
        found = masses.groupby(["attender", "attended"])["mean"].mean()
        # 7 query pieces are at 1..7 and see 8 + row positions; of the passage's at 9..19 the row sees row - 1
        assert found["QUERY", "DOC"] == pytest.approx(
            np.mean([max(row - 1, 0) / (8 + row) for row in range(1, 8)]), abs=1e-6
        )


@pytest.mark.parametrize("quantity", ["mass", "density", "excess"])
@pytest.mark.parametrize("direction", ["DOC->QUERY", "QUERY->DOC", "QUERY<->DOC"])
def test_figure_1b_passes_exactly_the_matching_head(attention, direction, quantity):
    frame = matching_heads(attention, directions=[direction], quantity=quantity)
    assert passing_heads(frame) == (MATCHING_HEAD,)
    others = frame[[head_of(row) != MATCHING_HEAD for _, row in frame.iterrows()]]
    assert others["difference"].abs().max() < 1e-6
    if quantity == "mass":
        matching = frame[[head_of(row) == MATCHING_HEAD for _, row in frame.iterrows()]]
        assert matching["difference"].min() > 0.3


def test_figure_1b_difference_is_the_share_of_matched_words(attention, known):
    """Grades 2 and 3 have 5 and 8 of 11 words in the query, easy negatives none; each match takes 1 / (1 + e^-5) or more beside
    one separator.
    """
    frame = matching_heads(attention, directions=["DOC->QUERY"], quantity="mass")
    found = {head_of(row): row["difference"] for _, row in frame.iterrows()}[MATCHING_HEAD]
    assert found == pytest.approx((5 / 11 + 8 / 11) / 2 / (1 + known.sep1 * np.exp(-5)), abs=1e-3)


def test_the_sinks_show_the_sink_head_on_the_separators_and_the_moving_head_on_cls(attention, known):
    frame = measure_sinks(attention).by_head
    for attender in ("CLS", "QUERY", "SEP1", "DOC", "SEP2", "ALL"):
        masses = frame[(frame["attender"] == attender) & (frame["sink"] == "SEP")].set_index(["layer", "head"])["mass"]
        assert masses[SINK_HEAD] > 0.9999
    assert masses.idxmax() == SINK_HEAD
    assert masses.drop([SINK_HEAD, MATCHING_HEAD, *known.side]).max() < 0.12 + 0.03 * (known.sep1 - 1)
    on_cls = frame[(frame["attender"] == "DOC") & (frame["sink"] == "CLS")].set_index(["layer", "head"])["mass"]
    assert on_cls.idxmax() == MOVING_HEAD
    assert on_cls[MOVING_HEAD] > 0.9999


def test_cls_reads_the_passage_in_the_moving_head(attention):
    frame = attention.by_direction
    chosen = frame[(frame["attender"] == "CLS") & (frame["attended"] == "DOC") & (frame["quantity"] == "mass")]
    masses = chosen.groupby(["layer", "head"])["mean"].mean()
    assert masses.idxmax() == MOVING_HEAD
    assert masses[MOVING_HEAD] > 0.9999
    assert masses.drop(MOVING_HEAD).max() < 0.53


def test_the_matching_head_alone_is_aligned(alignment, known):
    heads = alignment.heads.set_index(["layer", "head"])
    assert heads["alignment"].idxmax() == heads["trace"].idxmax() == MATCHING_HEAD
    assert heads["alignment"][MATCHING_HEAD] == pytest.approx(known.alignment, abs=1e-5)
    assert heads["trace"][MATCHING_HEAD] == pytest.approx(known.trace, abs=1e-3)
    for place in (SINK_HEAD, MOVING_HEAD, *known.side):
        assert heads["alignment"][place] == pytest.approx(0, abs=1e-6)
    assert heads["trace"].drop(MATCHING_HEAD).abs().max() < 1e-6
    assert heads["sum_sigma"].drop([MATCHING_HEAD, SINK_HEAD, MOVING_HEAD, *known.side]).abs().max() == 0


@pytest.mark.parametrize("contrast", ["contrast_logit", "other_contrast_logit"])
def test_the_matching_head_alone_prefers_the_other_side(alignment, known, contrast):
    """-12 t t' gives 12 across and -12 on one's own side, 24 apart; what the mean codes add to it is small beside that.

    A head that finds out about sides prefers what lies before: that is its task.
    """
    heads = alignment.heads.set_index(["layer", "head"])
    assert heads[contrast][MATCHING_HEAD] == pytest.approx(24, abs=3)
    assert heads[contrast].drop([MATCHING_HEAD, *known.side]).abs().max() < 1e-4


@pytest.mark.parametrize("direction", ["DOC->QUERY", "QUERY->DOC"])
def test_only_the_matching_heads_scores_are_all_interaction(alignment, known, direction):
    """Equal pieces are 20 above the rest, and what tokens add to their part's mean is what tells them apart."""
    frame = alignment.decomposition
    terms = frame[frame["direction"] == direction].set_index(["layer", "head"]).drop([*known.side])
    assert terms["match_lift"].idxmax() == MATCHING_HEAD
    assert terms["match_lift"][MATCHING_HEAD] > 2
    assert terms["variance"].idxmax() == MATCHING_HEAD


@pytest.mark.parametrize("span", ["up_to", "from", "only"])
def test_figure_1a_falls_to_a_random_ranking_at_the_layer_of_the_head_that_reads_the_direction(
    planted, pool, tmp_path, span
):
    layer_of = {"DOC->QUERY": MATCHING_HEAD[0], "CLS->DOC": MOVING_HEAD[0], "QUERY->DOC": None, "ALL->SEP2": None}
    directions = [direction for text in layer_of for direction in parse_directions(text)]
    sweep = run_layer_sweep(planted, [pool], Store(tmp_path), directions=directions, span=span)
    assert sweep.unablated[0] == 1.0
    assert sweep.random < 0.8
    assert len(sweep.curve) == 16
    for _, row in sweep.curve.iterrows():
        layers = {"up_to": range(row["layer"] + 1), "from": range(row["layer"], 4), "only": [row["layer"]]}[span]
        hit = layer_of[str(row["direction"])] in layers
        assert row["mean"] == pytest.approx(sweep.random if hit else 1.0, abs=1e-9), row["condition"]


@pytest.mark.usefixtures("unchecked")
def test_ablating_the_matching_head_matters_and_random_heads_do_not(planted, pool, tmp_path):
    found = run_head_ablation(planted, [pool], Store(tmp_path), [MATCHING_HEAD, SINK_HEAD], counts=(1, 2), n_draws=3)
    ranked = found.curve[found.curve["kind"] == "ranked"]
    assert ranked["mean"].to_numpy() == pytest.approx(found.random, abs=1e-9)
    between = found.curve[(found.curve["kind"] == "random") & (found.curve["scope"] == "QUERY<->DOC")]
    assert (between["mean"] == 1.0).all()
