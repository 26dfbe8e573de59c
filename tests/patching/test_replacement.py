"""Replacements against a slow encoder, against conditions, and against themselves."""

from itertools import combinations

import numpy as np
import pytest
import torch
from replacement_reference import Site, activation, part_means, replaced_score, resampled
from small_worlds import tiny_model
from tiny_models import encoded, port, run_oracle, tiny_hf, tiny_rows, to_batch

from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.interventions.targets import Target, as_targets, check_apart, format_targets, parse_targets
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.patching.replacement_values import ZERO, ReplacementMeans, ReplacementSamples

SITES = {
    "1.2": Site("head", 1, 2),
    "2.0": Site("head", 2, 0),
    "mlp.1": Site("mlp", 1),
    "attn.0": Site("attn", 0),
    "attn.2": Site("attn", 2),
    "DOC->QUERY@0.1": Site("direction", 0, 1, "DOC", "QUERY"),
    "ALL->DOC@1.0": Site("direction", 1, 0, "ALL", "DOC"),
    "CLS->ALL@2.2": Site("direction", 2, 2, "CLS", "ALL"),
}
REFERENCE = ((3, 5), (2, 4), (5, 2), (1, 7), (2, 2))


@pytest.fixture(scope="module")
def hf():
    return tiny_hf(2, seed=9)


@pytest.fixture
def model(hf):
    return port(hf)


@pytest.fixture(scope="module")
def reference():
    return tiny_rows(REFERENCE, seed=11)


def scores(model, rows):
    return model(to_batch(rows)).detach().numpy()


@pytest.mark.parametrize("text", SITES)
def test_zero_is_the_slow_encoder_with_zeros(hf, model, rows, text):
    expected = [
        replaced_score(hf, row, SITES[text], torch.zeros_like(activation(hf, row, SITES[text]))) for row in rows
    ]
    with replacing(model, text):
        found = scores(model, rows)
    assert found == pytest.approx(expected, abs=1e-11)
    assert np.abs(found - scores(model, rows)).max() > 1e-4


@pytest.mark.parametrize("text", SITES)
def test_mean_is_the_slow_encoder_with_means_by_part(hf, model, rows, reference, text):
    site = SITES[text]
    means = part_means(hf, reference, site)
    expected = [replaced_score(hf, row, site, torch.stack([means[part] for part in row[2]])) for row in rows]
    fitted = ReplacementMeans.fit(model, encoded(reference), text, token_budget=17)
    for part in site.rows([0, 1, 2, 3, 4]):
        assert fitted.means[Target.parse(text)][part].numpy() == pytest.approx(means[part].numpy(), abs=1e-12)
    with replacing(model, text, fitted):
        found = scores(model, rows)
    assert found == pytest.approx(expected, abs=1e-11)
    assert np.abs(found - scores(model, rows)).max() > 1e-4


@pytest.mark.parametrize("text", SITES)
def test_resample_is_the_slow_encoder_with_the_drawn_pairs_activations(hf, model, rows, reference, text):
    """One pair to draw from, so that the draw is known; it is shorter than some and longer than others."""
    donor = reference[1]
    expected = [replaced_score(hf, row, SITES[text], resampled(hf, row, donor, SITES[text])) for row in rows]
    fitted = ReplacementSamples.fit(model, encoded([donor]), text)
    with replacing(model, text, fitted):
        found = scores(model, rows)
    assert found == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("text", [*SITES, "1.2+2.0+mlp.1+attn.0+DOC->QUERY@1.0+CLS->ALL@2.2"])
def test_a_pairs_own_values_change_nothing(model, reference, text):
    """Resampled from itself; and the mean over one pair whose every part is one token long."""
    with torch.no_grad():
        for row in reference:
            fitted = ReplacementSamples.fit(model, encoded([row]), text, allow_self=True)
            with replacing(model, text, fitted):
                found = scores(model, [row])
            assert np.abs(found - scores(model, [row])).max() <= 1e-12
        single = tiny_rows(((1, 1),), seed=5)
        with replacing(model, text, ReplacementMeans.fit(model, encoded(single), text)):
            found = scores(model, single)
        assert np.abs(found - scores(model, single)).max() <= 1e-12


@pytest.mark.parametrize("direction", ["DOC->QUERY", "ALL->ALL", "CLS->ALL", "ALL->SEP1", "QUERY->DOC"])
def test_zero_of_a_direction_is_the_condition(model, hf, rows, direction):
    with replacing(model, f"{direction}@1.2"):
        found = scores(model, rows)
    with model.ablating(direction, layers=1, heads=2):
        assert np.abs(found - scores(model, rows)).max() <= 1e-12


def test_zero_of_a_head_is_the_condition_all_all(model, hf, rows):
    everything = [("zero", range(5), range(5), (1,), (2,))]
    expected = [trace.score for trace in run_oracle(hf, rows, everything)]
    with replacing(model, "1.2"):
        assert scores(model, rows) == pytest.approx(expected, abs=1e-12)
    with model.ablating("ALL->ALL", layers=1, heads=2):
        assert scores(model, rows) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("point", ["hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern"])
def test_a_direction_is_what_is_read_under_hooks_of_ones_own(model, rows, point):
    """The hook inside of the block or around it, by either idiom; against the edited pattern with its cells set to 0."""
    batch = to_batch(rows)
    cells = (batch.parts.codes == 3)[:, :, None] & (batch.parts.codes == 1)[:, None, :]

    def returning(activation, hook):
        return activation * torch.linspace(0.5, 1.5, activation.shape[-1], dtype=activation.dtype)

    def in_place(activation, hook):
        activation *= torch.linspace(0.5, 1.5, activation.shape[-1], dtype=activation.dtype)

    def without_cells(pattern, hook):
        pattern = pattern.clone()
        pattern[:, 2][cells] = 0
        return pattern

    name = f"blocks.1.attn.{point}"
    with torch.no_grad():
        hooks = [(name, returning), ("blocks.1.attn.hook_pattern", without_cells)]
        expected = model.run_with_hooks(batch, fwd_hooks=hooks)
        for edit in (returning, in_place):
            with replacing(model, "DOC->QUERY@1.2"), model.hooks(fwd_hooks=[(name, edit)]):
                assert torch.allclose(model(batch), expected, atol=1e-12)
            with model.hooks(fwd_hooks=[(name, edit)]), replacing(model, "DOC->QUERY@1.2"):
                assert torch.allclose(model(batch), expected, atol=1e-12)


def test_a_run_from_the_middle_draws_for_nobody(model, rows, reference):
    """A residual stream has no tokens to draw by; those of the run before are another batch's."""
    samples = ReplacementSamples.fit(model, encoded(reference), "1.2")
    batch, other = to_batch(rows), to_batch(tiny_rows(seed=12))
    stream = {"attention_mask": other.attention_mask, "parts": other.parts, "start_at_layer": 1}
    with torch.no_grad(), replacing(model, "1.2", samples):
        resid = model(other, stop_at_layer=1)
        for run in (model, model.run_with_hooks):
            run(batch)
            with pytest.raises(ValueError, match="expected a run from the tokens on"):
                run(resid, **stream)


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_inside_of_an_ablation_a_direction_is_what_is_left_of_it(model, hf, rows, mode):
    """DOC reads QUERY no more: to replace that by zero changes nothing; to zero what DOC reads from SEP1 does what both do."""
    with model.ablating("DOC->QUERY", layers=1, heads=2, mode=mode):
        alone = scores(model, rows)
        with replacing(model, "DOC->QUERY@1.2"):
            assert np.abs(scores(model, rows) - alone).max() <= 1e-12
        with replacing(model, "DOC->SEP1@1.2"):
            found = scores(model, rows)
    both = [(mode, (3,), (1,), (1,), (2,)), ("zero", (3,), (2,), (1,), (2,))]
    assert found == pytest.approx([trace.score for trace in run_oracle(hf, rows, both)], abs=1e-11)


def test_several_targets_are_replaced_together(hf, model, rows):
    conditions = [
        ("zero", (3,), (1,), (1,), (2,)),
        ("zero", (1,), (3,), (1,), (2,)),
        ("zero", range(5), range(5), (2,), (0,)),
    ]
    with replacing(model, ["QUERY<->DOC@1.2", Target("head", 2, 0)]):
        found = scores(model, rows)
    assert found == pytest.approx([trace.score for trace in run_oracle(hf, rows, conditions)], abs=1e-11)


def test_texts_caches_and_conditions_see_the_replacement(tmp_path):
    model = tiny_model(tmp_path / "m")
    query, passages = "how do eggs rise", ["fleas lay the eggs", "bread", "eggs " * 9]
    encoded = model.encode_pairs(query, passages)
    targets = as_targets(["0.1", "mlp.1"])
    means = ReplacementMeans.fit(model, encoded, targets)
    with replacing(model, targets, means) as same:
        assert same is model
        by_score = model.score(query, passages, token_budget=1).numpy()
        by_conditions = run_conditions(model, encoded, [UNABLATED, Condition.ablate("DOC->QUERY", layers=1)]).values
        pairs = model.to_pairs(query, passages)
        by_cache, cache = model.run_with_cache(pairs)
        explicit = model.run_with_hooks(pairs, fwd_hooks=[("blocks.0.attn.hook_pattern", lambda pattern, hook: None)])
    assert by_conditions[0] == pytest.approx(by_score, abs=1e-12)
    assert by_cache.detach().numpy() == pytest.approx(by_score, abs=1e-12)
    assert explicit.detach().numpy() == pytest.approx(by_score, abs=1e-12)
    z = cache["blocks.0.attn.hook_z"][:, :, 1].detach()
    mask = pairs.attention_mask
    assert torch.equal(z[mask], means.means[targets[0]][pairs.parts.codes[mask].long()])
    with model.ablating("DOC->QUERY", layers=1), replacing(model, targets, means):
        assert by_conditions[1] == pytest.approx(model.score(query, passages).numpy(), abs=1e-12)
    assert np.abs(by_score - model.score(query, passages).numpy()).max() > 1e-4


def test_the_model_is_restored_come_what_may(model, rows):
    before = scores(model, rows)
    hooks = len(model._forward_pre_hooks), len(model.embed._forward_pre_hooks)
    with pytest.raises(KeyError, match="mine"), replacing(model, list(SITES)[:1]):
        raise KeyError("mine")
    with replacing(model, "0.0"), replacing(model, "mlp.2"):
        assert np.abs(scores(model, rows) - before).max() > 1e-4
    assert np.array_equal(scores(model, rows), before)
    assert not any(point.has_hooks(dir="both") for point in model.hook_dict.values())
    assert (len(model._forward_pre_hooks), len(model.embed._forward_pre_hooks)) == hooks
    assert not any(block._forward_pre_hooks for block in model.blocks)


def test_means_do_not_depend_on_batches_and_the_draw_not_on_neighbours(model, rows, reference):
    one, many = (ReplacementMeans.fit(model, encoded(reference), "1.2", token_budget=b) for b in (1, 4096))
    target = Target.parse("1.2")
    assert one.means[target].numpy() == pytest.approx(many.means[target].numpy(), abs=1e-12)
    assert one.counts.tolist() == [5, 13, 5, 20, 5]
    samples = ReplacementSamples.fit(model, encoded(reference), "1.2", seed=3, token_budget=17)
    with replacing(model, "1.2", samples):
        together = scores(model, rows)
        alone = np.concatenate([scores(model, [row]) for row in rows])
        backwards = scores(model, rows[::-1])[::-1]
    assert together == pytest.approx(alone, abs=1e-12)
    assert together == pytest.approx(backwards, abs=1e-12)
    again = ReplacementSamples.fit(model, encoded(reference), "1.2", seed=3)
    with replacing(model, "1.2", again):
        assert scores(model, rows) == pytest.approx(together, abs=1e-12)


def test_a_pair_is_not_drawn_for_itself_and_seeds_differ(hf, model, reference):
    site = SITES["1.2"]
    drawn = []
    for seed in range(7):
        samples = ReplacementSamples.fit(model, encoded(reference), "1.2", seed=seed)
        with replacing(model, "1.2", samples):
            found = scores(model, reference)
        for i, row in enumerate(reference):
            each = [replaced_score(hf, row, site, resampled(hf, row, donor, site)) for donor in reference]
            drawn.append((i, int(np.abs(np.array(each) - found[i]).argmin())))
            assert abs(each[drawn[-1][1]] - found[i]) < 1e-11
    assert all(pair != donor for pair, donor in drawn)
    assert len({donor for _, donor in drawn}) > 3


def test_donors_are_at_most_as_many_as_asked_and_complete(model, reference):
    rows = [*reference, *tiny_rows(((4, 0),), seed=2)]
    samples = ReplacementSamples.fit(model, encoded(rows), "1.2", max_donors=3)
    assert len(samples.digests) == 3
    assert (samples.counts > 0).all()
    everyone = ReplacementSamples.fit(model, encoded(rows), "1.2")
    assert len(everyone.digests) == len(reference)


def test_who_is_drawn_from_depends_on_the_seed_and_everyone_may_be(model, reference):
    """Two of five pairs: one seed keeps the same two, in the order of the pairs, and a few seeds keep everyone once."""
    names = {ReplacementSamples.fit(model, encoded([row]), "1.2").digests[0]: i for i, row in enumerate(reference)}
    kept = []
    for seed in (*range(10), 0):
        samples = ReplacementSamples.fit(model, encoded(reference), "1.2", seed=seed, max_donors=2)
        kept.append(tuple(names[digest] for digest in samples.digests))
    assert kept[0] == kept[-1]
    assert set(kept) <= set(combinations(range(5), 2))
    assert len(set(kept)) > 3
    assert {donor for two in kept for donor in two} == set(range(5))


def test_each_batch_has_its_own_draws(model, reference):
    """Two batches of one shape in one block: the second is what it is in a block of its own."""
    first, second = (tiny_rows(((3, 5), (2, 6), (4, 4)), seed=seed) for seed in (21, 22))
    samples = ReplacementSamples.fit(model, encoded(reference), "1.2")
    with replacing(model, "1.2", samples):
        scores(model, first)
        found = scores(model, second)
    with replacing(model, "1.2", samples):
        assert found == pytest.approx(scores(model, second), abs=1e-12)
        alone = np.concatenate([scores(model, [row]) for row in second])
    assert found == pytest.approx(alone, abs=1e-12)


def test_padding_is_left_alone(model, rows):
    batch, kept = to_batch(rows), {}

    def keep(z, hook):
        kept[len(kept)] = z.detach().clone()

    model.run_with_hooks(batch, fwd_hooks=[("blocks.0.attn.hook_z", keep)])
    with replacing(model, "0.1"):
        model.run_with_hooks(batch, fwd_hooks=[("blocks.0.attn.hook_z", keep)])
    padding = ~batch.attention_mask
    assert torch.equal(kept[0][padding], kept[1][padding])
    assert (kept[1][batch.attention_mask][:, 1] == 0).all()


def test_gradients_flow_through_a_replacement(model, rows):
    with replacing(model, ["1.2", "DOC->QUERY@0.1"], ZERO):
        model(to_batch(rows)).sum().backward()
    assert torch.isfinite(model.stack.qkv_weight.grad).all()
    assert (model.stack.out_weight.grad[1].unflatten(1, (3, 7))[:, 2] == 0).all()


@pytest.mark.parametrize("text", ["3.7", "mlp.2", "attn.0", "DOC->QUERY@3.7", "ALL->SEP1@0.0"])
def test_targets_round_trip(text):
    assert str(Target.parse(text)) == text
    assert Target.parse(f" {text} ") == Target.parse(text)


def test_several_targets_in_one_text():
    found = parse_targets("3.7+mlp.2+QUERY<->DOC@1.0")
    assert format_targets(found) == "3.7+mlp.2+QUERY->DOC@1.0+DOC->QUERY@1.0"
    assert as_targets([*found, "3.7"]) == found


@pytest.mark.parametrize("text", ["", "3", "3.x", "mlp", "mlp.1.2", "DOC->QUERY@mlp.1", "FOO->DOC@1.2", "-1.2", "3.7+"])
def test_what_is_no_target(text):
    with pytest.raises(ValueError, match=r"expected a|cannot read"):
        parse_targets(text)


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("1.2", "1.1", True),
        ("1.2", "1.2", False),
        ("1.2", "2.2", True),
        ("1.2", "DOC->QUERY@1.2", False),
        ("1.2", "DOC->QUERY@1.1", True),
        ("1.2", "attn.1", False),
        ("1.2", "mlp.1", True),
        ("attn.1", "mlp.1", True),
        ("attn.1", "DOC->DOC@1.0", False),
        ("mlp.1", "mlp.1", False),
        ("DOC->QUERY@1.2", "ALL->QUERY@1.2", False),
        ("DOC->QUERY@1.2", "QUERY->DOC@1.2", True),
        ("DOC->QUERY@1.2", "DOC->ALL@1.2", False),
    ],
)
def test_what_overlaps(first, second, apart):
    pair = Target.parse(first), Target.parse(second)
    assert pair[0].overlaps(pair[1]) is (not apart)
    assert pair[1].overlaps(pair[0]) is (not apart)
    if not apart:
        with pytest.raises(ValueError, match="would be replaced twice"):
            check_apart(pair)


def test_bad_input_is_one_sentence(model, rows, reference):
    means = ReplacementMeans.fit(model, encoded(reference), "1.2")
    cases = [
        (lambda: replacing(model, "3.0"), "expected a target in a model of 3 layers x 3 heads, got 3.0"),
        (lambda: replacing(model, "0.3"), "got 0.3"),
        (lambda: replacing(model, Target("mlp", -1)), "got mlp.-1"),
        (lambda: replacing(model, []), "expected at least one target"),
        (lambda: replacing(model, "1.1", means), "expected values fitted for the targets"),
        (lambda: replacing(model, "1.1+DOC->DOC@1.1"), "would be replaced twice"),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message), make():
            pass
    with pytest.raises(ValueError, match="got none of DOC"):
        ReplacementMeans.fit(model, encoded(tiny_rows(((4, 0),))), "1.2")
    with pytest.raises(ValueError, match="expected at least one pair with a query and a passage"):
        ReplacementSamples.fit(model, encoded(tiny_rows(((4, 0),))), "1.2")
    alone = ReplacementSamples.fit(model, encoded(reference[:1]), "1.2")
    with replacing(model, "1.2", alone), pytest.raises(ValueError, match="expected another pair to draw from"):
        scores(model, reference[:1])
    batch = to_batch(rows)
    with replacing(model, "1.2"), pytest.raises(ValueError, match="needs to know which position has which part"):
        model(batch.tokens, token_type_ids=batch.token_type_ids, attention_mask=batch.attention_mask)
    samples = ReplacementSamples.fit(model, encoded(reference), "1.2")
    with torch.no_grad():
        resid = model(batch, stop_at_layer=1)
    rest = {"attention_mask": batch.attention_mask, "parts": batch.parts, "start_at_layer": 1}
    with replacing(model, "1.2", samples), pytest.raises(ValueError, match="from the tokens on"):
        model(resid, **rest)
    with replacing(model, "1.2", means):
        whole = scores(model, rows)
        assert model(resid, **rest, return_type="scores").detach().numpy() == pytest.approx(whole, abs=1e-12)


def test_a_direction_needs_its_parts_alone(model):
    """Means of a direction whose attenders are there, over pairs without passages."""
    means = ReplacementMeans.fit(model, encoded(tiny_rows(((4, 0), (2, 0)))), "CLS->QUERY@1.2")
    assert means.counts.tolist() == [2, 6, 2, 0, 2]


@pytest.mark.parametrize(
    ("kind", "head", "direction"), [("head", None, None), ("mlp", 1, None), ("direction", 1, None)]
)
def test_a_target_that_does_not_fit_together(kind, head, direction):
    with pytest.raises(ValueError, match="expected a head for a head or a direction"):
        Target(kind, 0, head, direction)
