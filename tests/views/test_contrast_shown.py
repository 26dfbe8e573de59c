"""How two contrasted passages are shown, and what is refused in one sentence."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import rich.console

from tl_crossenc.views.contrast import contrast
from tl_crossenc.views.contrasted_pairs import TABLES
from tl_crossenc.views.markup import signed

QUERY, A, B = "tune a guitar", "the guitar by the window and a piano", "the old piano in the garden"


@pytest.fixture(scope="module")
def found(planted):
    return contrast(planted, QUERY, A, B)


def plain(html):
    """What is left of a page without its tags."""
    return re.sub(r"<[^>]*>", "", html)


def test_the_terminals_numbers_fit_into_eighty_columns(found, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert f"A outranks B by {found.score_a - found.score_b:.4f}." in text
    for score, passage in ((found.score_a, A), (found.score_b, B)):
        assert re.search(rf"{score:.4f} +{passage}", text)
    for name, *values in found.top_contributions:
        assert re.search(rf"{re.escape(name)} +{' +'.join(map(re.escape, map(signed, values)))}", text)
    for where, word, *values in (*found.top_words(), *found.top_words("shared")):
        assert re.search(rf"{where} +{word} +{' +'.join(map(re.escape, map(signed, values)))}", text)
    for head in found.top_heads("DOC->QUERY"):
        assert re.search(rf"{re.escape(head.name)} +{head.beyond_a:.3f} +{head.beyond_b:.3f}", text)
    assert "guitar→guitar 0.99:0.00" in text
    assert found.removal_sentence("A") in " ".join(text.split())


def test_a_terminal_gets_colours_and_strikes_out_what_is_removed(found):
    console = rich.console.Console(force_terminal=True, color_system="standard", width=90, file=io.StringIO())
    with console.capture() as captured:
        console.print(found)
    struck = re.findall(r"\x1b\[[0-9;]*\b9\b[0-9;]*m([^\x1b]*)\x1b", captured.get())
    assert struck == found.to_frame("removal").loc[0, "words"].split(", ") == ["guitar", "a"][: len(struck)]


def test_the_pages_numbers(found):
    html = found._repr_html_()
    assert found._repr_mimebundle_() == {"text/html": html, "text/plain": str(found)}
    for name, *values in found.top_contributions:
        assert ">{}</td>".format("</td><td".join([name])) in html
        for value in values:
            assert f">{signed(value)}</td>" in html
    for _, word, *values in (*found.top_words(), *found.top_words("shared")):
        assert f">{word}</td>" in html
        for value in values:
            assert f">{signed(value)}</td>" in html
    for side in "AB":
        assert found.removal_sentence(side) in plain(html).replace("&#x27;", "'")
    for passage in (A, B, QUERY):
        assert passage in plain(html)
    assert html.count("<div") == html.count("</div>")
    assert html.count("<span") == html.count("</span>")
    assert len(html) < 60_000


def test_words_are_tinted_by_what_they_do_to_the_difference(found):
    words = re.findall(r'<span style="border-radius:2px;([^"]*)" title="([^"]*)">([^<]*)</span>', found._repr_html_())
    frame = found.to_frame("words")
    assert [word for *_, word in words] == frame["word"].tolist() == [*QUERY.split(), *A.split(), *B.split()]
    largest = frame["difference"].abs().max()
    removed = {("A", word) for word in found.to_frame("removal").loc[0, "words"].split(", ")}
    for (style, title, _), row in zip(words, frame.itertuples(), strict=True):
        colour = "#B2182B" if row.difference > 0 else "#0072B2"
        line = "solid" if row.difference > 0 else "dotted"
        tinted = f"border-bottom:2px {line} {colour};" in style
        assert tinted == (abs(row.difference) >= 0.02 * largest)
        assert tinted == ("background:" in style)
        assert ("line-through" in style) == ((row.text, row.word) in removed)
        expected = (
            f"to A {signed(row.to_a)}, to B {signed(row.to_b)}" if row.text == "query" else signed(row.difference)
        )
        assert title == expected


def test_a_file_needs_no_network_and_runs_no_script(found, tmp_path):
    found.to_html(tmp_path / "why.html")
    text = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert found._repr_html_() in text
    assert f"<title>planted: {QUERY}</title>" in text
    assert not re.search(r"https?:|<script|<link|@import|src=|url\(", text)


def test_texts_are_escaped(planted, found):
    attack = "<script>alert(1)</script> \"onload='x' & <img src=x>"
    html = contrast(planted, attack, f"{attack} guitar", attack, most_runs=1)._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    words = found.words.assign(word=[f"<b>{word}" for word in found.words["word"]])
    html = replace(found, words=words, model="<i>name</i>", condition="<u>")._repr_html_()
    assert not re.search(r"<b>(tune|guitar|piano)|<i>|<u>", html)
    assert "[red]" in str(contrast(planted, "tune [red] a guitar [/red]", "a guitar", "a piano", most_runs=1))


def test_the_repr_is_one_line(found):
    text = repr(found)
    assert "\n" not in text
    assert f"{found.score_a:.4g} against {found.score_b:.4g}" in text
    assert "A outranks B" in text


def test_tables_by_name_say_how_they_were_made(found, planted):
    for what in TABLES:
        copy = found.to_frame(what)
        assert copy.equals(getattr(found, what))
        assert copy is not getattr(found, what)
        assert copy.attrs["model"] == "planted"
        assert copy.attrs["removal"] == "delete"
        assert copy.attrs["most_runs"] == 1000
    with pytest.raises(ValueError, match="among contributions, words, shared, heads, links, removal, got 'layers'"):
        found.to_frame("layers")
    with pytest.raises(ValueError, match="among QUERY->DOC, DOC->QUERY, got 'DOC->CLS'"):
        found.top_heads("DOC->CLS")
    with planted.ablating("DOC->QUERY"):
        assert contrast(planted, "guitar", A, B).to_frame("words").attrs["condition"] == "zero(DOC->QUERY)"


# Texts that have little in them.


@pytest.mark.parametrize(("a", "b"), [("a guitar", ""), ("", "a guitar"), ("a guitar", " !")])
def test_a_passage_without_words(planted, a, b):
    found = contrast(planted, QUERY, a, b)
    empty = "A" if not a else "B"
    assert found.score_a == pytest.approx(float(planted.score(QUERY, a)[0]), abs=1e-6)
    assert found.score_b == pytest.approx(float(planted.score(QUERY, b)[0]), abs=1e-6)
    assert (found.to_frame("words")["text"] != empty).all()
    row = found.to_frame("removal").set_index("text").loc[empty]
    assert row["minimal"]
    assert (row["n_words"], row["runs"]) == (0, 0)
    assert f"{empty} has no word to remove." in str(found)
    assert f"{empty} has no word to remove." in found._repr_html_()
    assert found.directions == ["QUERY->DOC", "DOC->QUERY"]
    assert repr(found)


def test_an_empty_query(planted):
    found = contrast(planted, "", "a guitar", "the old piano")
    assert found.directions == []
    assert "no attention crosses" in str(found)
    assert "no attention crosses" in found._repr_html_()
    assert set(found.to_frame("words")["text"]) == {"A", "B"}


def test_no_text_has_a_word(planted):
    found = contrast(planted, "", "!", "?")
    assert found.to_frame("words").empty
    assert found.to_frame("shared").empty
    for shown in (str(found), found._repr_html_()):
        assert "None of the texts has a word." in shown


def test_the_prompt_contrasts_where_a_second_passage_is_given(planted, found):
    same = planted.explain(QUERY, A, B)
    assert same.to_dict() == found.to_dict()
    assert same.to_dict()["removal"][0]["words"] == "guitar, a"
    assert json.loads(json.dumps(same.to_dict())) == same.to_dict()
    assert planted.explain(QUERY, A, B, most_runs=3, removal="mask").to_frame().attrs["removal"] == "mask"
    assert type(planted.explain(QUERY, A)).__name__ == "Explanation"
    with pytest.raises(ValueError, match="neither attribution nor statistics beside a second passage"):
        planted.explain(QUERY, A, B, attribution="gradients")
    with pytest.raises(ValueError, match="expected a second passage beside most_runs"):
        planted.explain(QUERY, A, most_runs=3)


def test_a_word_that_is_cut_in_two_is_shown_once(planted):
    text = "old guitar garden zyxw bread"  # zyxw is four pieces
    found = contrast(planted, QUERY, text, "old piano", max_length=11)
    assert found.truncated == (True, False)
    assert found.to_frame("words").query("text == 'A'")["word"].tolist() == ["old", "guitar", "garden", "zyxw"]
    assert plain(found._repr_html_()).count(text) == 1
    assert " ".join(str(found).split()).count(text) == 1


def test_the_docs_example_prints_what_stands_under_it(capsys):
    page = (Path(__file__).parents[2] / "docs" / "PROMPT.md").read_text(encoding="utf-8")
    section = page.partition("## Why one passage outranks another")[2]
    code, printed = re.search(r"```python\n(.*?)```\s*```text\n(.*?)```", section, re.DOTALL).groups()
    exec(code, {})
    assert capsys.readouterr().out == printed
    assert set(re.findall(r"^\| `(\w+)` \|", section.partition("## Hooks")[0], re.MULTILINE)) == set(TABLES)


def test_progress_counts_texts(planted):
    counted = []
    found = contrast(planted, QUERY, A, B, progress=counted.append)
    n_words = len(found.to_frame("words")) + 3  # the query's words count for either passage
    shared, runs = len(found.to_frame("shared")), int(found.to_frame("removal")["runs"].sum())
    assert sum(counted) <= 2 + n_words + 2 * shared + runs + 2
    assert sum(counted) >= runs + n_words


# What is refused.


def test_the_same_passage_twice(planted):
    with pytest.raises(ValueError, match="expected two passages, got the same text twice"):
        contrast(planted, QUERY, A, A)
    with pytest.raises(ValueError, match=r"got two that are the same 9 tokens to it$"):
        contrast(planted, QUERY, "the old guitar", "The  OLD guitar ")
    with pytest.raises(ValueError, match="differ only in what truncation cuts: raise max_length"):
        contrast(planted, QUERY, f"{A} garden", f"{A} bread", max_length=10)


def test_what_is_no_text_or_no_number(planted):
    for texts, name in (((["a"], A, B), "query"), ((QUERY, [A], B), "passage a"), ((QUERY, A, None), "passage b")):
        with pytest.raises(TypeError, match=rf"expected the {name} as one text|Expected type: <class 'str'>"):
            contrast(planted, *texts)
    for name in ("top", "links", "most_runs"):
        with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
            contrast(planted, QUERY, A, B, **{name: 0})
    with pytest.raises(ValueError, match="removed by mask, pad, delete, got 'passage' and 'burn'"):
        contrast(planted, QUERY, A, B, removal="burn")
    with pytest.raises(ValueError, match="expected one max_length where two passages are contrasted, got 3"):
        contrast(planted, QUERY, A, B, max_length=(20, 30))
    with pytest.raises(TypeError, match=r"whole number of tokens|Expected type"):
        contrast(planted, QUERY, A, B, max_length=20.5)
    with pytest.raises(ValueError, match="shorten the query"):
        contrast(planted, "guitar " * 600, A, B)


def test_scores_that_are_no_numbers(planted):
    with (
        planted.hooks(fwd_hooks=[("classifier.hook_logits", lambda value, hook: value * float("nan"))]),
        pytest.raises(ValueError, match="expected finite scores, got NaN or infinity"),
    ):
        contrast(planted, QUERY, A, B)
