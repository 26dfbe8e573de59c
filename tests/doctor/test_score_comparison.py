"""The doctor on foreign scores: each cause planted with Hugging Face and torch alone is found first, and no other."""

import numpy as np
import pytest
import torch
from doctored import OF_TWO, SHORT, assert_found, difference, doctor, opened
from foreign_system import MIXED, Foreign, family_folder, long_folder, long_pairs

from tl_crossenc import HookedCrossEncoder

LONG = long_pairs()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """As `two`, with one logit."""
    folder = long_folder(tmp_path_factory.mktemp("one") / "bert", n_labels=1, seed=3)
    return opened(folder), Foreign(folder)


def over_passages(score):
    """A softmax of three queries' passages: 4, 3 and 3 of them."""
    return torch.cat([torch.softmax(part, 0) for part in score.split([4, 3, 3])])


OF_ONE = {
    "our score": lambda logits: logits[:, 0],
    "our score, negated": lambda logits: -logits[:, 0],
    "sigmoid": lambda logits: torch.sigmoid(logits[:, 0]),
    "1 - sigmoid": lambda logits: 1 - torch.sigmoid(logits[:, 0]),
    "log-sigmoid": lambda logits: torch.nn.functional.logsigmoid(logits[:, 0]),
}


@pytest.mark.parametrize("output", OF_TWO)
def test_what_is_made_of_two_logits(output, two):
    model, theirs = two
    assert_found(doctor(model, SHORT, OF_TWO[output](theirs.logits(SHORT)).tolist()), "as here", output)


@pytest.mark.parametrize("output", OF_ONE)
def test_what_is_made_of_one_logit(output, one):
    model, theirs = one
    assert_found(doctor(model, SHORT, OF_ONE[output](theirs.logits(SHORT)).tolist()), "as here", output)


def test_what_is_made_of_the_passages_of_a_query(one):
    model, theirs = one
    queries = ["how do"] * 4 + ["flea"] * 3 + ["the bread"] * 3
    pairs = [(query, passage) for query, (_, passage) in zip(queries, SHORT, strict=True)]
    score = theirs.logits(pairs)[:, 0]
    assert_found(doctor(model, pairs, over_passages(score).tolist()), "as here", "softmax over the query's passages")
    ranged = [(part - part.min()) / (part.max() - part.min()) for part in score.split([4, 3, 3])]
    assert_found(doctor(model, pairs, torch.cat(ranged).tolist()), "as here", "min-max within the query")
    assert "min-max within the query" not in set(
        doctor(model, SHORT, score.tolist()).causes["output"]
    )  # no query twice


def no_types(fed):
    fed["token_type_ids"].zero_()


READINGS = {
    "the passage cut at 128 tokens": {"truncation": "only_second", "max_length": 128},
    "the passage cut at 256 tokens": {"truncation": "only_second", "max_length": 256},
    "the passage cut at 601 tokens": {"truncation": "only_second", "max_length": 601},
    "longest_first at 128 tokens": {"max_length": 128},
    "longest_first at 256 tokens": {"max_length": 256},
    "longest_first at 512 tokens": {},
    "token types all 0": {"truncation": "only_second", "edit": no_types},
}
FITS = [pair for pair in LONG if len(pair[0].split()) < 120]
"""Pairs whose query leaves room for a passage in 128 tokens."""


@pytest.mark.parametrize("reading", READINGS)
def test_how_pairs_are_read(reading, two):
    model, theirs = two
    pairs = LONG if "longest" in reading else FITS
    scores = difference(theirs.logits(pairs, **READINGS[reading]))
    assert_found(doctor(model, pairs, scores.tolist()), reading, "our score")


@pytest.mark.parametrize(
    "reading", ["longest_first at 256 tokens", "the passage cut at 128 tokens", "token types all 0"]
)
@pytest.mark.parametrize("output", ["sigmoid (softmax, column 1)", "log-softmax, column 0", "logit[1]"])
def test_one_change_of_each(reading, output, two):
    model, theirs = two
    pairs = LONG if "longest" in reading else FITS
    scores = OF_TWO[output](theirs.logits(pairs, **READINGS[reading]))
    assert_found(doctor(model, pairs, scores.tolist()), reading, output)


def test_passages_before_queries_and_joined_texts(one):
    model, theirs = one
    for reading, logits in (
        ("passage before query", theirs.logits([(p, q) for q, p in LONG])),
        ("texts joined by a space", theirs.logits(LONG, joint=" ")),
    ):
        assert_found(doctor(model, LONG, logits[:, 0].tolist()), reading, "our score")
        assert_found(doctor(model, LONG, torch.sigmoid(logits[:, 0]).tolist()), reading, "sigmoid")


def test_a_separator_in_the_text_is_what_types_of_0_are(two):
    """In BERT the same tokens, so both are named."""
    model, theirs = two
    report = doctor(model, SHORT, difference(theirs.logits(SHORT, joint=" [SEP] ")).tolist())
    assert_found(report, "token types all 0", "our score")
    assert "On these pairs that reading is the same as: texts joined by a separator." in report.notes


@pytest.mark.parametrize("name", ["xlm-roberta", "roberta", "distilbert", "electra", "modernbert-cls", "deberta-v2"])
@pytest.mark.parametrize("n_labels", [1, 2])
def test_every_family(name, n_labels, tmp_path):
    """Our score, its sigmoid, the texts the other way round; types where there are some."""
    folder = family_folder(name, tmp_path, n_labels)
    model, theirs = opened(folder), Foreign(folder)
    as_here = theirs.logits(MIXED)
    swapped = theirs.logits([(p, q) for q, p in MIXED])
    score, same = (lambda x: x[:, 0], "") if n_labels == 1 else (difference, " (softmax, column 1)")
    most = 1e-4
    assert_found(doctor(model, MIXED, score(as_here).tolist()), "as here", "our score", most)
    assert_found(doctor(model, MIXED, torch.sigmoid(score(as_here)).tolist()), "as here", f"sigmoid{same}", most)
    assert_found(doctor(model, MIXED, score(swapped).tolist()), "passage before query", "our score", most)
    readings = set(doctor(model, MIXED, score(as_here).tolist()).causes["reading"])
    assert ("token types all 0" in readings) == (name == "electra")


def test_case_and_accents_where_the_tokenizer_tells_them_apart(tmp_path):
    folder = family_folder("xlm-roberta", tmp_path)
    model, theirs = opened(folder), Foreign(folder)
    plain = str.maketrans("éèêëûüïñàÜ", "eeeeuuinaU")
    for reading, edit in (
        ("lower case", str.lower),
        ("no accents", lambda text: text.translate(plain)),
        ("lower case and no accents", lambda text: text.lower().translate(plain)),
    ):
        logits = theirs.logits([(edit(q), edit(p)) for q, p in MIXED])
        assert_found(doctor(model, MIXED, logits[:, 0].tolist()), reading, "our score", 1e-4)
    assert_found(
        doctor(model, MIXED, theirs.logits(MIXED, joint=" </s> ")[:, 0].tolist()),
        "texts joined by a separator",
        "our score",
    )


def test_types_that_are_fed_where_ours_are_not(tmp_path):
    """A tokenizer that does not name its types among its inputs; the other system feeds them."""
    folder = family_folder("electra-untyped", tmp_path, 2)
    model, theirs = opened(folder), Foreign(folder)
    assert not model.types_fed

    def typed(fed):
        ids = fed["input_ids"][0].tolist()
        first = ids.index(theirs.tokenizer.sep_token_id)
        fed["token_type_ids"] = torch.tensor([[0] * (first + 1) + [1] * (len(ids) - first - 1)])

    scores = difference(theirs.logits(MIXED, edit=typed))
    assert_found(doctor(model, MIXED, scores.tolist()), "token types fed", "our score", 1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_told_by_the_numbers_that_it_has(dtype, one):
    model, _ = one
    theirs = Foreign(model.cfg.model_name, dtype)
    pairs = SHORT + FITS
    logits = theirs.logits(pairs)[:, 0]
    report = doctor(model, pairs, logits.tolist())
    name = f"half precision ({str(dtype).removeprefix('torch.')})"
    assert report.reproduced == "yes", report.verdict
    assert (report.best.reading, report.best.output) == (name, "our score")
    assert report.best.max_abs > 1e-4  # no run of float32 is so far off
    report = doctor(model, pairs, torch.sigmoid(logits.to(dtype)).tolist())
    assert (report.reproduced, report.best.reading, report.best.output) == ("yes", name, "sigmoid")


def test_of_several_that_fit_the_plainest_comes_first_and_the_others_are_named(two):
    """Pairs of at most 33 tokens cut nothing: no limit can be told; these texts have no capitals."""
    model, theirs = two
    report = doctor(model, SHORT, difference(theirs.logits(SHORT)).tolist())
    assert_found(report, "as here", "our score")
    untold = dict(report.untold)
    assert untold["longest_first at 128 tokens"] == "no pair has more than 128 tokens (the longest has 42)"
    assert untold["the passage cut at 601 tokens"] == "no pair has more than 512 tokens (the longest has 42)"
    assert "lower case" in untold
    assert "passage before query" not in untold


def test_a_score_in_two_decimals_is_found_within_half_a_hundredth(two):
    model, theirs = two
    exact = difference(theirs.logits(SHORT))
    report = doctor(model, SHORT, [f"{score:.2f}" for score in exact.tolist()])
    assert report.reproduced == "yes"
    assert report.best.output == "our score"
    assert 0.005 < float(report.best.tolerance.max()) < 0.0052
    assert report.best.max_abs == pytest.approx(
        float((exact.double() - (exact.double() * 100).round() / 100).abs().max()), abs=1e-5
    )
    off = exact + 0.011
    assert doctor(model, SHORT, [f"{score:.2f}" for score in off.tolist()]).reproduced == "no"


def test_an_affine_function_and_a_rising_one_are_told_as_such(one):
    model, theirs = one
    score = theirs.logits(SHORT)[:, 0].double()
    report = doctor(model, SHORT, (3 * score - 0.25).tolist())
    assert report.reproduced == "no"
    assert report.relation.kind == "affine"
    assert report.relation.slope == pytest.approx(3, abs=1e-4)
    assert report.relation.intercept == pytest.approx(-0.25, abs=1e-4)
    assert "an affine function of one: 3 s - 0.25 with s = our score" in report.verdict
    report = doctor(model, SHORT, (100 * torch.sigmoid(score)).tolist())
    assert (report.relation.cause.output, round(report.relation.slope, 3)) == ("sigmoid", 100.0)
    report = doctor(model, SHORT, (score**3).tolist())
    assert report.relation.kind == "rising"
    assert "a function that only rises with our score" in report.verdict
    assert doctor(model, SHORT, (-(score**3)).tolist()).relation.kind == "falling"


@pytest.mark.parametrize("size", [0.003, 0.1])
def test_none_is_found_in_noise(size, two):
    model, theirs = two
    noise = torch.randn(len(SHORT), generator=torch.Generator().manual_seed(7)) * size
    report = doctor(model, SHORT, (difference(theirs.logits(SHORT)) + noise).tolist())
    assert report.reproduced == "no"
    assert report.relation is None
    assert report.verdict.startswith("None of the ")
    assert report.best.output == "our score"
    drawn = doctor(model, SHORT, torch.randn(len(SHORT), generator=torch.Generator().manual_seed(8)).tolist())
    assert (drawn.reproduced, drawn.relation) == ("no", None)


def test_none_is_found_for_another_model(two, tmp_path):
    model, _ = two
    other = Foreign(long_folder(tmp_path, seed=5))
    for scores in (difference(other.logits(SHORT)), torch.softmax(other.logits(SHORT), 1)[:, 1]):
        report = doctor(model, SHORT, scores.tolist())
        assert (report.reproduced, report.relation) == ("no", None)


def test_what_differs_is_said_where_most_pairs_agree(two):
    """A limit that is not among the known ones, 200 tokens: pairs up to there agree."""
    model, theirs = two
    pairs = [*SHORT, *FITS]
    report = doctor(model, pairs, difference(theirs.logits(pairs, max_length=200)).tolist())
    assert report.reproduced == "no"
    assert report.best.output == "our score"
    note = next(note for note in report.notes if note.startswith("It does give"))
    assert "They have 265 tokens or more, all others 148 or fewer" in note
    wrong = report.pairs.loc[~report.pairs["within"], "tokens"]
    assert (wrong > 200).all()


def test_a_chance_match_is_only_perhaps_one(one):
    model, _ = one
    pairs = [("flea", "egg"), ("flea", "bread rise")]
    report = doctor(model, pairs, ["0.9", "0.1"])
    assert report.reproduced != "yes"
    same = doctor(model, pairs, ["1", "1"])
    assert any("All 2 scores are equal (1)" in note for note in same.notes)
    assert same.reproduced != "yes"


def test_pairs_that_come_twice_and_queries_without_room(two):
    model, theirs = two
    long = [*SHORT, (LONG[5][0] * 7, "flea egg"), SHORT[0], SHORT[1]]
    scores = difference(theirs.logits(long))
    scores[-1] += 0.5
    report = doctor(model, long, scores.tolist())
    assert_found(report, "longest_first at 512 tokens", "our score")
    assert any(
        note.startswith("2 line(s) have a pair that was there before") and "up to 5.0e-01 apart" in note
        for note in report.notes
    )
    assert any("1 pair(s) have a query that leaves the passage no room in 512 tokens" in note for note in report.notes)
    assert np.isnan(report.pairs["ours"].iloc[10])


def test_rows_are_run_once_however_many_readings_have_them(two, monkeypatch):
    """Texts that no limit cuts: ours, types of 0, the texts turned round or joined, and half precision twice.

    Of the readings with padding, pairs 0, 3, 6 and 9 as a sample: at four fixed lengths; at 42 tokens, the longest of the first 8
    pairs and of all; the last at 16 as well, the longer of the last two.
    """
    model, _ = two
    ran = []
    forward = HookedCrossEncoder.forward

    def counting(self, tokens, *args, **kwargs):
        ran.append(len(tokens))
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(HookedCrossEncoder, "forward", counting)
    doctor(model, SHORT, [77.5] * len(SHORT))
    assert sum(ran) == len(SHORT) * 6 + 4 * 4 + 4 + 1


def test_a_model_that_is_being_ablated_or_cannot_read_is_refused(two):
    model, _ = two
    with model.ablating("DOC->QUERY"), pytest.raises(ValueError, match="without ablations and hooks"):
        doctor(model, SHORT, [0.0] * len(SHORT))
    with pytest.raises(ValueError, match="half a surrogate pair in line 1"):
        doctor(model, [("a\ud800", "b")], [0.0])


def test_frames_and_plain_values_hold_the_same(two):
    import json

    model, theirs = two
    report = doctor(model, SHORT, difference(theirs.logits(SHORT)).tolist())
    frame = report.to_frame()
    assert frame.attrs["pairs"] == len(SHORT)
    assert list(frame.columns[:4]) == ["reading", "output", "changes", "reproduces"]
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["causes"][0]["output"] == frame["output"][0]
    assert plain["verdict"] in " ".join(str(report).split())
    assert max(map(len, str(report).splitlines())) <= 80
