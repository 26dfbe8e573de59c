"""A forgotten attention mask, planted with Hugging Face and torch alone, is found first, and none where there is none."""

import numpy as np
import pytest
import torch
from doctored import OF_TWO, SHORT, assert_found, difference, doctor, opened
from foreign_system import MIXED, Foreign, family_folder, long_folder, long_pairs

from tl_crossenc.doctor.foreign_scores import scores_of
from tl_crossenc.doctor.unmasked import BATCH_SIZES, Unmasked, unmasked_readings


def many(n, seed=11):
    """n pairs of 4 to 33 tokens."""
    sizes = np.random.default_rng(seed).integers(1, (5, 29), (n, 2))
    return long_pairs([tuple(size) for size in sizes.tolist()])


MADE = ("our score", "sigmoid (softmax, column 1)", "log-softmax, column 0", "logit[1]")


def slow(*cases):
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("length", "output"),
    [
        (256, "sigmoid (softmax, column 1)"),
        *slow((128, "our score"), (512, "log-softmax, column 0"), (601, "logit[1]")),
    ],
)
def test_padding_to_a_fixed_length(length, output, two):
    """Whatever the batches: of 7 and 3 pairs, which no batch size of the known ones is."""
    model, theirs = two
    pairs = [*SHORT, *long_pairs(((4, 400),))] if length < 500 else SHORT  # one is cut
    scores = OF_TWO[output](theirs.unmasked(pairs, 7, length))
    assert (scores - OF_TWO[output](theirs.unmasked(pairs, 3, length))).abs().max() < 1e-5
    assert (scores - OF_TWO[output](theirs.logits(pairs, max_length=length))).abs().max() > 1e-3
    assert_found(doctor(model, pairs, scores), f"padding to {length} tokens, without a mask", output)


@pytest.mark.parametrize(("size", "output"), [(16, "logit[1]"), *slow((8, "our score"), (32, "log-softmax, column 0"))])
def test_padding_in_batches_in_the_order_of_the_file(size, output, two):
    model, theirs = two
    pairs = many(37)
    report = doctor(model, pairs, OF_TWO[output](theirs.unmasked(pairs, size)))
    assert_found(report, f"padding in batches of {size} in the file's order, without a mask", output)


@pytest.mark.slow
@pytest.mark.parametrize("size", BATCH_SIZES)
@pytest.mark.parametrize("output", MADE)
def test_all_sizes_with_every_output(size, output, two):
    """211 pairs: uneven batches of each size."""
    model, theirs = two
    pairs = many(211)
    report = doctor(model, pairs, OF_TWO[output](theirs.unmasked(pairs, size)))
    assert_found(report, f"padding in batches of {size} in the file's order, without a mask", output)
    assert len(report.untried) >= 4


def test_a_pair_that_comes_again_has_the_padding_of_its_first_batch(two):
    """By hand: batches of 8 rows. Pair 0 is in both; its score is that of the first, beside pair 5 of 42 tokens."""
    model, theirs = two
    rows = np.asarray([0, 1, 2, 3, 4, 5, 6, 7, 0, 8, 9])
    pairs = [SHORT[row] for row in rows]
    foreign = scores_of([q for q, _ in pairs], [p for _, p in pairs], range(len(pairs)))
    assert foreign.rows.tolist() == rows.tolist()
    readings = {reading.name: reading for reading in unmasked_readings(model.encoder, foreign.rows)[0]}
    own = readings["padding in batches of 8 in the file's order, without a mask"]
    assert [len(ids) for ids, _ in own.read(foreign.queries, foreign.passages)] == [42] * 8 + [16] * 2
    scores = difference(theirs.unmasked(pairs, 8))
    assert_found(doctor(model, pairs, scores), own.name, "our score")


def test_a_softmax_of_the_passages_of_a_query_and_an_affine_function(two):
    model, theirs = two
    pairs = [(q, p) for q, (_, p) in zip(["how do"] * 4 + ["flea"] * 3 + ["the bread"] * 3, SHORT, strict=True)]
    score = difference(theirs.unmasked(pairs, 10, 128))
    name = "padding to 128 tokens, without a mask"
    shares = torch.cat([torch.softmax(part, 0) for part in score.split([4, 3, 3])])
    assert_found(doctor(model, pairs, shares), name, "softmax over the query's passages")
    report = doctor(model, pairs, 3 * score.double() - 0.25)
    assert report.reproduced == "no"
    assert (report.relation.kind, report.relation.cause.reading) == ("affine", name)
    assert report.relation.slope == pytest.approx(3, rel=1e-3)


@pytest.mark.slow
def test_a_function_that_only_rises(two):
    model, theirs = two
    score = difference(theirs.unmasked(SHORT, 10, 128)).double()
    relation = doctor(model, SHORT, score**3).relation
    assert (relation.kind, relation.cause.reading) == ("rising", "padding to 128 tokens, without a mask")


def test_none_is_found_in_noise_or_at_another_length(two):
    """200 tokens are no known length. What a sample rules out is named, and every reading is somewhere."""
    model, theirs = two
    noise = torch.randn(37, generator=torch.Generator().manual_seed(2)) * 0.01
    pairs = many(37)
    for scores in (difference(theirs.unmasked(pairs, 8)) + noise, difference(theirs.unmasked(pairs, 5, 200))):
        report = doctor(model, pairs, scores)
        assert (report.reproduced, report.relation) == ("no", None), report.verdict
        told = {*report.causes["reading"], *(name for name, _ in report.untried)}
        assert {f"padding to {length} tokens, without a mask" for length in (128, 256, 512, 601)} <= told
    assert all(why.startswith("on 8 of the pairs alone, nothing") for _, why in report.untried)
    text = " ".join(str(report).split())
    assert "Not held against all pairs: - padding" in text
    assert all(name in text for name, _ in report.untried)
    assert report.to_dict()["not_tried"][0]["reading"] == report.untried[0][0]


def test_padding_on_the_left(tmp_path):
    """The head reads padding then, as Hugging Face's does."""
    folder = long_folder(tmp_path, seed=4)
    model, theirs = opened(folder), Foreign(folder)
    model.tokenizer.padding_side = theirs.tokenizer.padding_side = "left"
    scores = difference(theirs.unmasked(SHORT, 8))
    name = "padding in batches of 8 in the file's order, without a mask"
    assert_found(doctor(model, SHORT, scores), name, "our score")


SLOW = ("roberta", "distilbert", "electra", "modernbert-cls", "modernbert-mean", "deberta-v2", "gte")


@pytest.mark.parametrize("name", ["xlm-roberta", *slow(*((name,) for name in SLOW))])
def test_every_family(name, tmp_path):
    """67 tokens are all positions. Where padding has a row of the table of positions, training leaves it at zero."""
    folder = family_folder(name, tmp_path)
    model, theirs = opened(folder), Foreign(folder)
    with torch.no_grad():
        for key, weight in theirs.model.named_parameters():
            if key.endswith("position_embeddings.weight") and model.cfg.position_offset:
                weight[theirs.tokenizer.pad_token_id] = 0
    fixed = theirs.unmasked(MIXED, 7, 67)[:, 0]
    name = "padding to 67 tokens, without a mask"
    assert_found(doctor(model, MIXED, fixed), name, "our score", 1e-4)
    in_batches = torch.sigmoid(theirs.unmasked(MIXED, 8)[:, 0])
    name = "padding in batches of 8 in the file's order, without a mask"
    assert_found(doctor(model, MIXED, in_batches), name, "sigmoid", 1e-4)


def test_what_cannot_be_tried_is_said(two, tmp_path):
    """A model of 2,003 positions, and a tokenizer without padding."""
    folder = long_folder(tmp_path, positions=2003)
    model = opened(folder)
    report = doctor(model, SHORT, difference(Foreign(folder).logits(SHORT)))
    assert dict(report.untried)["padding to 2,003 tokens, without a mask"] == (
        "at most 1,024 tokens for every pair are tried"
    )
    model.tokenizer.pad_token = None
    report = doctor(model, SHORT, difference(Foreign(folder).logits(SHORT)))
    assert report.untried == (("padding without a mask", "the tokenizer has no padding token"),)


def test_pairs_of_one_length_do_not_tell_batches(two):
    model, theirs = two
    pairs = long_pairs(((3, 9), (5, 7), (2, 10), (4, 8)))
    report = doctor(model, pairs, difference(theirs.logits(pairs)))
    told = dict(report.untold)
    for size in BATCH_SIZES:
        name = f"padding in batches of {size} in the file's order, without a mask"
        assert told[name] == "the pairs of a batch have equally many tokens"
    assert not [name for name in told if name.startswith("padding to")]


def test_types_of_padding_are_the_tokenizers(two):
    """Ids and types beside Hugging Face's own padding."""
    model, theirs = two
    queries, passages = map(list, zip(*SHORT, strict=True))
    fed = theirs.tokenizer(queries, passages, padding="max_length", max_length=128, truncation=True)
    read = Unmasked(unmasked_readings(model.encoder, np.arange(10))[0][0].read.way, model.encoder, 128)
    for i, (ids, types) in enumerate(read(queries, passages)):
        assert ids.tolist() == fed["input_ids"][i]
        assert types.tolist() == fed["token_type_ids"][i]
