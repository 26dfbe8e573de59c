"""What `explain` says of words, lengths and cuts: tables, pages and terminals against Hugging Face and arithmetic of their own."""

import json
import re
from dataclasses import replace
from html import unescape

import family_oracle as oracle
import numpy as np
import pandas as pd
import pytest
import torch
from family_models import opened
from small_worlds import forbid_model_work

from tl_crossenc.inputs.words import word_spans
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.token_attributions import ATTRIBUTIONS
from tl_crossenc.instruments.word_attributions import word_attributions
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.store.files import StoreError
from tl_crossenc.views.explained_pair import TABLES
from tl_crossenc.views.markup import signed
from tl_crossenc.views.shown_words import METHODS, NO_WORDS

QUERY = "how do fleas lay eggs"
PASSAGE = "The flea lays her eggs on the host; the eggs fall off, and hatch in two to twelve days."
LONG = " ".join([PASSAGE, "Bread <b>rises</b> & \u202eyeast\n is 'baked'.", PASSAGE])


@pytest.fixture(scope="module")
def world_and_model(tmp_path_factory):
    return opened("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def model(world_and_model):
    return world_and_model[1]


@pytest.fixture(scope="module")
def found(model):
    return model.explain(QUERY, PASSAGE)


@pytest.fixture(scope="module")
def cut(model):
    return model.explain(QUERY, LONG, max_length=(43, 29))


def hf_score(world, length, query=QUERY, passage=LONG):
    world.tokenizer.model_max_length, before = length, world.tokenizer.model_max_length
    try:
        return float(oracle.run(world, oracle.encode(world, [(query, passage)]), []).score[0])
    finally:
        world.tokenizer.model_max_length = before


# Numbers.


def test_the_words_are_the_instruments_in_the_order_of_the_texts(model, found):
    frame = found.to_frame("words")
    assert list(frame) == ["text", "word", "value", "start", "stop", "position", "pieces"]
    assert frame["text"].tolist() == ["query"] * 5 + ["passage"] * 19
    for text, whole in (("query", QUERY), ("passage", PASSAGE)):
        own = frame[frame["text"] == text]
        assert list(zip(own["start"], own["stop"], strict=True)) == word_spans(whole)
        assert own["word"].tolist() == [whole[a:b] for a, b in word_spans(whole)]
    instrument = word_attributions(model, QUERY, PASSAGE)
    np.testing.assert_array_equal(frame["value"], instrument.values)
    assert frame["position"].tolist() == [word.tokens.start for word in instrument.words]
    assert (found.attribution, found.way) == ("leave-one-out", "delete")
    sums = found.to_frame("completeness").set_index("text")
    for text in ("query", "passage"):
        assert sums.loc[text, "sum"] == pytest.approx(frame.loc[frame["text"] == text, "value"].sum())
    assert sums.loc["both", "error"] == pytest.approx(sums.loc["both", "sum"] - sums.loc["both", "difference"])


def test_lengths_are_hugging_faces_scores_and_cuts(world_and_model, cut):
    world, model = world_and_model
    frame = cut.to_frame("lengths")
    assert frame["max_length"].tolist() == [29, 43, 67]
    assert frame["explained"].tolist() == [False, False, True]
    whole = len(world.tokenizer(LONG, add_special_tokens=False)["input_ids"])
    for row in frame.to_dict("records"):
        assert row["score"] == pytest.approx(hf_score(world, row["max_length"]), abs=1e-11)
        assert row["activated"] == pytest.approx(1 / (1 + np.exp(-row["score"])), abs=1e-6)
        ids = world.tokenizer([QUERY], [LONG], truncation="only_second", max_length=row["max_length"])
        assert row["tokens"] == len(ids["input_ids"][0])
        assert row["cut"] == whole - ids.sequence_ids(0).count(1)
    assert cut.score == pytest.approx(frame["score"].iloc[-1], abs=1e-12)
    assert frame["score"].nunique() == 3
    one = model.explain(QUERY, LONG, max_length=29)
    assert one.to_frame("lengths")["max_length"].tolist() == [29]
    assert one.score == pytest.approx(frame["score"].iloc[0], abs=1e-12)
    assert len(one.tokens) == 29
    assert one.made["max_length"] == 29
    assert len(one.heads) == len(cut.heads)


@pytest.mark.usefixtures("unchecked")
def test_lengths_under_an_ablation_and_of_numpy(world_and_model):
    world, model = world_and_model
    with model.ablating("DOC->QUERY"):
        found = model.explain(QUERY, LONG, max_length=np.array([31]), attribution=None)
    world.tokenizer.model_max_length, before = 31, world.tokenizer.model_max_length
    batch = oracle.encode(world, [(QUERY, LONG)])
    world.tokenizer.model_max_length = before
    ablated = oracle.run(world, batch, [oracle.Removal("zero", ("DOC",), ("QUERY",))])
    assert found.lengths["score"].tolist() == pytest.approx([float(ablated.score[0])], abs=1e-11)
    assert found.score == pytest.approx(float(ablated.score[0]), abs=1e-9)


def test_words_that_are_cut_are_told_with_their_tokens(world_and_model, cut):
    """Against the tokenizer's own offsets."""
    world, _ = world_and_model
    whole = world.tokenizer(LONG, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    n_read = int((cut.parts == 3).sum())
    assert cut.cut_tokens == len(whole) - n_read
    expected = []
    for start, stop in word_spans(LONG):
        own = [i for i, (a, b) in enumerate(whole) if a < stop and b > start]
        lost = sum(i >= n_read for i in own)
        if lost:
            expected.append((LONG[start:stop], start, stop, lost, len(own) - lost))
    frame = cut.to_frame("cut")
    assert list(frame) == ["word", "start", "stop", "cut", "read"]
    assert [tuple(row) for row in frame.itertuples(index=False)] == expected
    assert cut.read == (0, whole[n_read - 1][1])
    assert cut.cut_text == LONG[cut.read[1] :]
    fully = {word for word, *_, read in expected if not read}
    assert fully
    assert cut.words["stop"].max() <= cut.read[1]


def test_each_attribution_by_its_name(model, found):
    statistics = LayerStatistics.fit(model, model.encode_pairs("bread", ["the sponge", "a quilt of eggs"]))
    assert set(METHODS) == set(ATTRIBUTIONS)
    for name in ATTRIBUTIONS:
        given = {"statistics": statistics} if name == "bottleneck" else {}
        other = model.explain(QUERY, "The flea; eggs!", attribution=name, **given)
        assert other.words["word"].tolist() == [*QUERY.split(), "The", "flea", "eggs"]
        if name in ("direct", "random"):
            values = word_attributions(model, QUERY, "The flea; eggs!", name).values
            np.testing.assert_allclose(other.words["value"], values, rtol=0, atol=1e-12)
        assert f"Words by {name}" in str(other)
        assert other.made["attribution"] == name
        if name not in ("attention", "direct"):
            continue
        signs = "+" in unescape(re.sub(r"<[^>]*>", " ", other._repr_html_()).split("What adds")[0].split("Words")[1])
        assert signs == (name == "direct")
        words = other._repr_html_().split("What adds")[0]
        assert ("#B2182B" in words or "#0072B2" in words) == (name == "direct")  # no colour without a sign
    nothing = model.explain(QUERY, PASSAGE, attribution=None)
    assert nothing.to_frame("words").empty
    assert "Words" not in str(nothing)
    assert nothing.score == found.score


def test_masked_words(model):
    found = model.explain(QUERY, PASSAGE, removal="mask")
    np.testing.assert_array_equal(found.words["value"], word_attributions(model, QUERY, PASSAGE, way="mask").values)
    assert "Words by leave-one-out, mask" in str(found)


# How it was made, and as plain values.


def test_frames_say_how_they_were_made(model, found):
    for what in TABLES:
        attrs = found.to_frame(what).attrs
        assert attrs["query"] == QUERY
        assert attrs["passage"] == PASSAGE
        assert attrs["attribution"] == "leave-one-out"
        assert attrs["removal"] == "delete"
        assert attrs["dtype"] == "float64"
        assert json.loads(json.dumps(attrs)) == attrs
    with model.ablating("DOC->QUERY"):
        assert model.explain("a", "b").to_frame("words").attrs["condition"] == "zero(DOC->QUERY)"


def test_all_of_it_goes_through_json(cut):
    again = json.loads(json.dumps(cut.to_dict(), allow_nan=False))
    assert again["score"] == cut.score
    assert again["truncated"] is True
    for what in TABLES:
        frame = pd.DataFrame(again[what]).astype(cut.to_frame(what).dtypes.to_dict())
        pd.testing.assert_frame_equal(frame, cut.to_frame(what), check_exact=True)
    assert again["made"]["max_length"] == 67


# Shown.


def test_the_terminal_has_the_largest_words_and_their_sums(found):
    text = str(found)
    for name in ("query", "passage"):
        own = found.words[found.words["text"] == name]
        largest = own.iloc[np.argsort(-own["value"].abs().to_numpy(), kind="stable")].head(5)
        for (word, value), (_, row) in zip(found.top_words(name), largest.iterrows(), strict=True):
            assert value == row["value"]
            assert word.rstrip("₀₁₂₃₄₅₆₇₈₉") == row["word"]
            assert re.search(rf"{re.escape(word)} +{re.escape(signed(value))}", text)
    assert any(
        name.startswith("eggs₁") or name.startswith("the₁") for name, _ in replace(found, top=50).top_words("passage")
    )
    for row in found.completeness.to_dict("records"):
        assert signed(row["sum"]) in text
        assert signed(row["difference"]) in text
    assert "need not add up" in text
    gradients = " ".join(str(replace(found, attribution="gradients", completeness=found.completeness.tail(1))).split())
    assert f"the error {found.completeness['error'].iloc[-1]:+.1e}" in gradients


def test_lengths_and_cuts_in_terminal_and_page(cut):
    text, html = str(cut), cut._repr_html_()
    for row in cut.lengths.to_dict("records"):
        numbers = (
            f"{row['max_length']}",
            f"{row['score']:.4f}",
            f"{row['activated']:.4f}",
            f"{row['tokens']}",
            f"{row['cut']}",
        )
        assert re.search(" +".join(map(re.escape, numbers)), text)
        for number in numbers:
            assert f">{number}</td>" in html
    told = (
        f"{cut.cut_tokens} of its {cut.cut_tokens + int((cut.parts == 3).sum())} tokens are cut ({len(cut.cut)} words)"
    )
    for shown in (" ".join(text.split()), html):
        assert told in shown
        assert "\u202e" not in shown
    assert "At other lengths" not in str(replace(cut, lengths=cut.lengths.tail(1)))


def test_every_word_of_the_page_has_its_value_and_a_mark_for_its_sign(found):
    html = found._repr_html_()
    extent = found.words["value"].abs().max()
    for row in found.words.to_dict("records"):
        own = re.findall(
            rf'<span title="{re.escape(signed(row["value"]))}"([^>]*)>{re.escape(row["word"])}</span>', html
        )
        assert own
        share = abs(row["value"]) / extent
        if share > 0.1:
            assert ("solid" if row["value"] > 0 else "dotted") in own[0]
        else:
            assert "solid" not in own[0]
            assert "dotted" not in own[0]
        if share > 0.02:
            assert f",{0.55 * share:.2f})" in own[0]
    running = re.sub(r"<[^>]*>", "", html)
    assert unescape(running).count(PASSAGE) == 1
    assert QUERY in running


def test_texts_on_the_page_are_escaped_and_it_needs_nothing_from_anywhere(cut, tmp_path):
    cut.to_html(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert cut._repr_html_() in html
    assert "<b>rises" not in html
    assert "&lt;" in html
    assert not re.search(r"https?:|<script|<link|@import|src=|url\(", html)
    assert html.count("<div") == html.count("</div>")
    assert html.count("<span") == html.count("</span>")
    attack = replace(cut, query='"><script>x</script>', model="<i>")
    attack.to_html(tmp_path / "page.html")
    assert not re.search("<script|<i>", (tmp_path / "page.html").read_text(encoding="utf-8"))
    with pytest.raises(StoreError):
        cut.to_html(tmp_path / "page.html" / "no")


def test_where_there_are_no_words(model):
    found = model.explain("!", ";")
    assert found.words.empty
    assert NO_WORDS in str(found)
    assert NO_WORDS in found._repr_html_()
    one = model.explain("!", "flea")
    assert one.words["word"].tolist() == ["flea"]
    assert one.completeness["text"].tolist() == ["passage"]
    assert one.completeness["error"].tolist() == pytest.approx([0])


def test_progress_counts_layer_runs(model):
    done = []
    model.explain(QUERY, PASSAGE, progress=done.append)
    assert sum(done) == (1 + 5 + 19 + 3) * model.cfg.n_layers


# What is refused.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attribution": "lime"}, "expected attributions among bottleneck, .* got 'lime'"),
        ({"attribution": "bottleneck"}, "expected statistics of other pairs to measure bits with"),
        ({"removal": "blank"}, "removed by mask, pad, delete, got"),
        ({"removal": "mask", "attribution": "direct"}, "expected no removal beside direct, which removes nothing"),
        ({"removal": "mask", "attribution": None}, "expected an attribution beside removal 'mask', got none"),
        ({"statistics": True}, "expected statistics beside attribution 'bottleneck' alone"),
        ({"max_length": ()}, "expected max_length as a whole number of tokens, or several, got none"),
        ({"max_length": 68}, "expected max_length from 4 tokens, .* to the model's 67 positions, got 68"),
        ({"max_length": (29, 3)}, "expected max_length from 4 tokens, .* got 3"),
        ({"max_length": 8}, "expected a query of at most 4 tokens, .*shorten the query"),
        ({"max_length": (29, 8)}, "expected a query of at most 4 tokens, .*shorten the query"),
        ({"max_length": 29.5}, "expected max_length as a whole number of tokens, got 29.5"),
        ({"max_length": "128"}, "expected max_length as a whole number of tokens, got '128'"),
        ({"max_length": (29, None)}, "expected max_length as whole numbers of tokens, got None among them"),
        ({"max_length": True}, "expected max_length as a whole number of tokens, got True"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_one_sentence(model, given, message, monkeypatch):
    if "max_length" in given and 8 not in np.atleast_1d(given["max_length"]).tolist():
        forbid_model_work(monkeypatch)  # told before anything is computed
    with pytest.raises((ValueError, TypeError), match=message) as error:
        model.explain(QUERY, PASSAGE, **given)
    assert "\n" not in str(error.value)


def test_a_model_without_a_tokenizer(model):
    with pytest.raises(ValueError, match="expected a model with a tokenizer to read texts"), torch.no_grad():
        HookedCrossEncoder(model.cfg).explain(QUERY, PASSAGE)
