"""What users pass where pairs, conditions, layers and texts go: each form gives the same numbers, or one sentence says why not."""

import numpy as np
import pytest
import torch
from helpers import one_sentence

from tl_crossenc import Condition, Direction, HookedCrossEncoder, activation_patch, path_patch, run_conditions
from tl_crossenc.inputs.pairs import as_encoded
from tl_crossenc.instruments.attention_flow import measure_attention
from tl_crossenc.instruments.qk import part_moments
from tl_crossenc.instruments.tl_tools import as_tl_model
from tl_crossenc.patching.attribution import attribution_patch
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.patching.replacement_values import ReplacementMeans
from tl_crossenc.store.cells import Store

QUERY = "tune a guitar"
PASSAGES = ["a guitar garden", "old piano by the wall", "", "guitar"]
CLEAN, CORRUPTED = ["guitar by the window"], ["piano by the window"]


@pytest.fixture(scope="module")
def planted():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu", dtype="float64")


@pytest.fixture
def both(planted):
    """The same pairs, encoded and as a padded batch."""
    return planted.encode_pairs(QUERY, PASSAGES), planted.to_pairs(QUERY, PASSAGES)


def test_a_batch_without_its_padding_is_what_was_encoded(both):
    encoded, batch = both
    found = as_encoded(batch)
    for name in ("tokens", "token_type_ids", "parts", "offsets"):
        ours, theirs = getattr(found, name), getattr(encoded, name)
        assert ours.tolist() == theirs.tolist(), name
        assert ours.dtype == theirs.dtype, name
    assert found.pad_token_id == encoded.pad_token_id
    assert as_encoded(encoded) is encoded


def test_a_batch_padded_on_the_left_is_one_sentence(both):
    _, batch = both
    moved = batch[[0]]
    moved.attention_mask[0, 0] = False
    with pytest.raises(ValueError, match="padded on the right") as error:
        as_encoded(moved)
    assert one_sentence(error.value)


def test_rows_of_a_batch_keep_its_width(both):
    _, batch = both
    for rows, expected in ((slice(1, 3), [1, 2]), ([3, 0], [3, 0]), (np.array([2]), [2]), (1, [1]), (-1, [3])):
        part = batch[rows]
        assert torch.equal(part.tokens, batch.tokens[expected])
        assert torch.equal(part.token_type_ids, batch.token_type_ids[expected])
        assert torch.equal(part.attention_mask, batch.attention_mask[expected])
        assert torch.equal(part.parts.codes, batch.parts.codes[expected])


def test_conditions_are_run_on_either_and_as_text(planted, both):
    encoded, batch = both
    texts = ["none", "DOC->QUERY", "mask(CLS->ALL; layers=1)"]
    ways = [texts, [Condition.parse("none"), Direction("DOC", "QUERY"), Condition.parse(texts[2])]]
    expected = []
    for text in texts:
        with planted.ablating(text):
            expected.append(planted.score(QUERY, PASSAGES).numpy())
    assert np.ptp(np.stack(expected), axis=0).max() > 1
    for pairs in (encoded, batch):
        for way in ways:
            np.testing.assert_allclose(run_conditions(planted, pairs, way).values, np.stack(expected), atol=1e-10)
        np.testing.assert_allclose(run_conditions(planted, pairs, "DOC->QUERY").values, expected[1:2], atol=1e-10)
    with pytest.raises(ValueError, match="expected a direction") as error:
        run_conditions(planted, batch, ["DOC to QUERY"])
    assert one_sentence(error.value)


def test_patching_takes_batches(planted):
    sides = [planted.encode_pairs(QUERY, side) for side in (CLEAN, CORRUPTED)]
    batches = [planted.to_pairs(QUERY, side) for side in (CLEAN, CORRUPTED)]
    for run in (
        lambda pairs: activation_patch(planted, *pairs, "z"),
        lambda pairs: attribution_patch(planted, *pairs, {"z": "head"})["z"],
        lambda pairs: path_patch(planted, *pairs, "3.1.v"),
    ):
        assert np.array_equal(run(sides).scores, run(batches).scores)


def test_instruments_take_batches(planted, both):
    groups = [0, 0, 1, 1]
    flows = [measure_attention(planted, pairs, groups).moments.mean for pairs in both]
    assert np.array_equal(*flows)
    assert np.array_equal(*(part_moments(planted, pairs).mean for pairs in both))
    scores = []
    for pairs in both:
        means = ReplacementMeans.fit(planted, pairs, "3.1")
        with replacing(planted, "3.1", means):
            scores.append(planted.score(QUERY, PASSAGES))
    assert torch.equal(*scores)


@pytest.mark.parametrize("bad", [[QUERY, PASSAGES], None, "a text"])
def test_what_are_no_pairs_is_one_sentence(bad):
    with pytest.raises(TypeError, match=r"expected pairs from model\.encode_pairs") as error:
        as_encoded(bad)
    assert one_sentence(error.value)


def test_layers_and_heads_are_taken_alike_everywhere(planted):
    last, heads = planted.cfg.n_layers - 1, planted.cfg.n_heads
    with planted.ablating("DOC->QUERY", layers=last, heads=range(heads - 1)):
        expected = planted.active_condition
    with planted.ablating("DOC->QUERY", layers=-1, heads=f"0-{heads - 2}"):
        assert planted.active_condition == expected
    batch = planted.to_pairs(QUERY, PASSAGES)
    hooks = [
        planted.ablation_hooks("DOC->QUERY", pairs=batch, layers=layers) for layers in (-1, [last], str(last), (-1,))
    ]
    assert all([name for name, _ in found] == [f"blocks.{last}.attn.hook_pattern"] for found in hooks)
    sides = [planted.encode_pairs(QUERY, side) for side in (CLEAN, CORRUPTED)]
    assert activation_patch(planted, *sides, "z", layers="1,3", heads=[-1, 0]).axes == {
        "layer": (1, 3),
        "head": (heads - 1, 0),
    }
    assert attribution_patch(planted, *sides, {"z": "head"}, layers=-1)["z"].axes["layer"] == (last,)
    assert path_patch(planted, *sides, "3.1.v", layers="0-1", heads=-2).axes == {"layer": (0, 1), "head": (heads - 2,)}
    for call in (
        lambda: planted.ablating("DOC->QUERY", layers=last + 1).__enter__(),
        lambda: planted.ablating("DOC->QUERY", heads=-heads - 1).__enter__(),
        lambda: activation_patch(planted, *sides, "z", layers=[-last - 2]),
        lambda: activation_patch(planted, *sides, "z", heads="0-9"),
        lambda: activation_patch(planted, *sides, "resid_pre", by="position", positions=[-1]),
        lambda: activation_patch(planted, *sides, "z", layers=[1, -3]),
    ):
        with pytest.raises(ValueError, match="expected") as error:
            call()
        assert one_sentence(error.value)


def test_the_model_takes_texts(planted):
    expected = planted.score(QUERY, PASSAGES)
    assert torch.allclose(planted(QUERY, PASSAGES), expected, atol=1e-10)
    assert torch.allclose(planted([QUERY] * 4, PASSAGES), expected, atol=1e-10)
    assert planted(QUERY, PASSAGES, return_type="logits").shape == (4, planted.cfg.n_labels)
    scores, cache = planted.run_with_cache(QUERY, PASSAGES)
    assert torch.allclose(scores, expected, atol=1e-10)
    width = planted.to_pairs(QUERY, PASSAGES).tokens.shape[1]
    assert cache["pattern", 0].shape == (4, planted.cfg.n_heads, width, width)
    hooked = planted.run_with_hooks(QUERY, PASSAGES, fwd_hooks=[("classifier.hook_logits", lambda x, hook: x * 0)])
    assert torch.equal(hooked, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("bad", [(QUERY,), ([QUERY, QUERY],), ({"q": QUERY}, PASSAGES), (3, PASSAGES), ([], [])])
def test_an_input_of_another_kind_is_one_sentence(planted, bad):
    with pytest.raises(TypeError, match="expected a query and its passages") as error:
        planted._as_input(bad[0], bad[1] if len(bad) > 1 else None)
    assert one_sentence(error.value)


def test_passages_beside_pairs_are_refused(planted):
    with pytest.raises(ValueError, match="expected no passages beside a PairBatch"):
        planted(planted.to_pairs(QUERY, PASSAGES), PASSAGES)


def test_a_mapping_of_ids_to_texts_scores_the_texts(planted):
    named = {f"d{i}": text for i, text in enumerate(PASSAGES)}
    assert torch.equal(planted.score(QUERY, named), planted.score(QUERY, PASSAGES))
    assert torch.equal(planted(QUERY, named), planted(QUERY, PASSAGES))
    assert torch.equal(planted.score(QUERY, named.values()), planted.score(QUERY, PASSAGES))
    for query, passages in (({"q": QUERY}, PASSAGES), (QUERY, set(PASSAGES)), ({QUERY, "piano"}, PASSAGES[:2])):
        with pytest.raises(TypeError, match="expected") as error:
            planted.score(query, passages)
        assert one_sentence(error.value)


def test_a_view_for_transformer_lens_wants_one_width(planted):
    one, other = (planted.to_pairs(QUERY, side) for side in ("guitar", "an old guitar"))
    with pytest.raises(ValueError, match=r"expected batches of one width, got 7, 9") as error:
        as_tl_model(planted, one, other)
    assert one_sentence(error.value)
    both = planted.to_pairs(QUERY, ["guitar", "an old guitar"])
    view = as_tl_model(planted, both[:1], both[1:])
    assert torch.allclose(view(both.tokens), planted(both), atol=1e-12)


def test_a_store_shows_its_folder(tmp_path):
    assert repr(Store(tmp_path / "a")) == f"Store({str(tmp_path / 'a')!r})"
    assert repr(Store(tmp_path / "a", read_only=True)) == f"Store({str(tmp_path / 'a')!r}, read only)"


def test_the_models_docstring_shows_how_to_begin():
    text = HookedCrossEncoder.__doc__
    for call in ("from_pretrained(", "model.score(", "model.ablating(", "run_with_cache(", "model.explain("):
        assert call in text
