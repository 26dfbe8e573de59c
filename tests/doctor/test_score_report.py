"""What the doctor's tables and sentences say of foreign scores: every number beside Hugging Face's logits, torch and scipy."""

import pytest
from doctored import OF_TWO, SHORT, doctor, opened
from foreign_system import Foreign, long_folder
from scipy.stats import spearmanr


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(model, Hugging Face's logits by reading)."""
    folder = long_folder(tmp_path_factory.mktemp("model") / "bert")
    theirs = Foreign(folder)
    logits = {
        "as here": theirs.logits(SHORT),
        "token types all 0": theirs.logits(SHORT, edit=lambda fed: fed["token_type_ids"].zero_()),
        "passage before query": theirs.logits([(p, q) for q, p in SHORT]),
        "texts joined by a space": theirs.logits(SHORT, joint=" "),
    }
    model = opened(folder)
    return model, {name: values.double() for name, values in logits.items()}, theirs.tokenizer


def row_of(report, start):
    """The cells of the numbers of the first line of the table that begins so."""
    line = next(line for line in str(report).splitlines() if line.startswith(start))
    return line.split()[-4:]


@pytest.fixture(scope="module")
def off(world):
    """(scores, report): our score, but of line 4 by 0.5 and of line 8 by -0.25."""
    scores = OF_TWO["our score"](world[1]["as here"]).clone()
    scores[3] += 0.5
    scores[7] -= 0.25
    return scores, doctor(world[0], SHORT, scores)


def test_every_row_of_the_causes_beside_torch(world, off):
    scores, report = off
    frame = report.to_frame().set_index(["reading", "output"])
    assert frame.index.is_unique
    for reading, logits in world[1].items():
        for output, of in OF_TWO.items():
            own, row = of(logits), frame.loc[(reading, output)]
            apart = (scores - own).abs()
            assert row["max_abs"] == pytest.approx(float(apart.max()), abs=2e-5), (reading, output)
            assert row["mean_abs"] == pytest.approx(float(apart.mean()), abs=2e-5), (reading, output)
            assert row["within"] == int((apart < 1e-4).sum()), (reading, output)
            assert row["spearman"] == pytest.approx(float(spearmanr(scores, own).statistic), abs=1e-9)
            assert row["changes"] == (reading != "as here") + (output != "our score")
    halves = frame.xs("our score", level="output").index.str.startswith("half precision")
    assert halves.sum() == 2
    assert len(frame) == len(OF_TWO) * (len(world[1]) + 2)


def test_the_best_come_first_and_the_table_shows_them(off):
    """2 of 10 pairs are off, by 0.5 and 0.25: on average by 0.075."""
    scores, report = off
    frame = report.to_frame()
    exact = frame[~frame["reading"].str.startswith("half")]
    assert exact["within"].tolist() == sorted(exact["within"], reverse=True)
    for _, alike in exact.groupby("within"):
        assert alike["max_abs"].is_monotonic_increasing
    assert (frame["reading"][0], frame["output"][0], frame["within"][0]) == ("as here", "our score", 8)
    correlation = spearmanr(scores, report.pairs["ours"]).statistic
    assert row_of(report, "our score ") == ["5.0e-01", "7.5e-02", f"{correlation:.4f}", "8"]
    text = str(report)
    order = [line.split("  ")[0] for line in text.splitlines() if line.split()[-1:] and "e-" in line and line[0] != "-"]
    shown = [output for output in frame["output"][:10] if len(output) < 20]
    assert [name for name in order if name in shown] == shown
    assert f"The best of {len(frame)} causes held against them" in " ".join(text.split())
    assert "10 scores of the values given beside bert (logit[1] - logit[0]; float32)" in " ".join(text.split())


def test_the_sentences_on_what_is_off(off):
    _, report = off
    assert "nearest: our score, off by up to 5.0e-01, within what is allowed on 8 of 10 pairs." in report.verdict
    assert any(note.startswith("It does give 8 pairs; those that differ are in line 4, 8") for note in report.notes)
    assert any("hidden states of the other system" in note for note in report.notes)


def test_a_row_a_pair_in_the_order_of_the_file(world, off):
    scores, report = off
    _, logits, tokenizer = world
    pairs = report.pairs
    assert pairs["line"].tolist() == list(range(1, 11))
    assert list(zip(pairs["query"], pairs["passage"], strict=True)) == SHORT
    assert pairs["tokens"].tolist() == [len(tokenizer(q, p)["input_ids"]) for q, p in SHORT]
    assert pairs["score"].tolist() == scores.tolist()
    ours = OF_TWO["our score"](logits["as here"]).tolist()
    assert pairs["ours"].tolist() == pytest.approx(ours, abs=1e-5)
    assert pairs["difference"].tolist() == pytest.approx([0, 0, 0, 0.5, 0, 0, 0, -0.25, 0, 0], abs=1e-5)
    assert pairs["within"].tolist() == [True] * 3 + [False] + [True] * 3 + [False] + [True] * 2


def test_a_cause_that_gives_them_is_said_with_its_largest_difference(world):
    """Of three decimals; the pairs have ours beside the cause's."""
    model, logits, _ = world
    exact = logits["passage before query"][:, 1]
    rounded = [f"{score:.3f}" for score in exact.tolist()]
    largest = max(abs(float(text) - score) for text, score in zip(rounded, exact.tolist(), strict=True))
    report = doctor(model, SHORT, rounded)
    said = f"Reproduced by logit[1] with passage before query, to {largest:.1e} (allowed: "
    assert report.verdict.startswith(said)
    allowed = float(report.verdict.removeprefix(said).split(")")[0])
    assert 5e-4 <= allowed < 6e-4
    assert report.verdict.endswith("), on all 10 pairs.")
    assert report.pairs["best_cause"].tolist() == pytest.approx(exact.tolist(), abs=1e-5)
    assert report.pairs["ours"].tolist() == pytest.approx(OF_TWO["our score"](logits["as here"]).tolist(), abs=1e-5)
    assert row_of(report, "logit[1] ")[0] == f"{largest:.1e}"
    assert row_of(report, "logit[1] ")[-1] == "10"
    assert (report.to_frame()["reproduces"] == "yes").tolist() == [True] + [False] * (len(report.causes) - 1)
