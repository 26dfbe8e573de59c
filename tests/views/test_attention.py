"""Views of attention: the numbers against a softmax by hand, and pages that need no network."""

import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import CHROMIUM, FLAGS

from tl_crossenc.checkpoints.planted import MATCHING_HEAD
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.views.attention import AttentionMatrix, attention_matrix, attention_view

QUERY, PASSAGE = "tune a guitar", "the guitar by the window"
TOKENS = ["[CLS]", *QUERY.split(), "[SEP]", *PASSAGE.split(), "[SEP]"]


@pytest.fixture(scope="module")
def model():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


@pytest.fixture(scope="module")
def view(model):
    pytest.importorskip("circuitsvis", reason="needs circuitsvis, of the notebook extra")
    return attention_view(model, QUERY, PASSAGE, layer=1, heads=[0, 2])


def by_hand(model, layer, head):
    _, cache = model.run_with_cache(model.to_pairs(QUERY, PASSAGE))
    q, k = (cache[f"blocks.{layer}.attn.hook_{x}"][0, :, head].double().numpy() for x in "qk")
    weights = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("layer", "head"), [(1, 2), (-1, 1), (0, -1)])
def test_the_matrix_is_the_pattern(model, layer, head):
    matrix = model.attention_matrix(QUERY, PASSAGE, layer=layer, head=head)
    assert (list(matrix.attenders), list(matrix.attended)) == (TOKENS, TOKENS)
    np.testing.assert_allclose(matrix.weights, by_hand(model, layer % 4, head % 4), atol=1e-5)
    assert repr(matrix) == f"AttentionMatrix(head {layer % 4}.{head % 4} of planted, ALL->ALL, 11 x 11 tokens)"


def test_a_direction_has_its_rows_and_columns_only(model):
    matrix = attention_matrix(model, QUERY, PASSAGE, layer=1, head=2, direction="DOC->QUERY")
    assert (list(matrix.attenders), list(matrix.attended)) == (PASSAGE.split(), QUERY.split())
    np.testing.assert_allclose(matrix.weights, by_hand(model, 1, 2)[5:10, 1:4], atol=1e-5)
    frame = matrix.to_frame()
    assert frame.loc["guitar", "guitar"] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-4)
    assert frame.drop(index="guitar").to_numpy().max() < 1e-3


def test_an_ablated_pattern_is_shown_as_it_is(model):
    with model.ablating("DOC->QUERY"):
        matrix = model.attention_matrix(QUERY, PASSAGE, layer=1, head=2)
    assert (matrix.weights[5:10, 1:4] == 0).all()
    assert matrix.weights[1:4, 5:10].max() > 0.9


def test_the_picture_has_a_cell_for_every_weight_that_can_be_seen(model):
    matrix = model.attention_matrix(QUERY, PASSAGE, layer=MATCHING_HEAD[0], head=MATCHING_HEAD[1])
    svg = matrix.to_svg()
    titles = re.findall(r'fill="rgba\(26,26,26,([\d.]+)\)"><title>(.*?) → (.*?): ([\d.]+)</title>', svg)
    expected = [
        (f"{w:.2f}", TOKENS[i], TOKENS[j], f"{w:.3f}") for (i, j), w in np.ndenumerate(matrix.weights) if w >= 0.01
    ]
    assert [tuple(map(unescape, title)) for title in titles] == expected
    assert svg.count("<rect") == len(expected) < 121
    assert [unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", svg)] == TOKENS * 2


class Balanced(HTMLParser):
    """Tags that are open, and whether every end tag closed the last of them."""

    VOID = ("meta", "br")

    def __init__(self):
        super().__init__()
        self.open, self.balanced = [], True

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag


def is_balanced(html):
    parser = Balanced()
    parser.feed(html)
    return parser.balanced and not parser.open


def test_the_matrix_escapes_its_tokens(model):
    tokens = ("<script>", "\"'&</title>")
    codes = np.array([1, 3])
    matrix = AttentionMatrix("<i>", "ALL->ALL", np.full((2, 2), 0.5), tokens, tokens, codes, codes)
    html = matrix._repr_html_()
    assert "<script" not in html
    assert "<i>" not in html
    assert is_balanced(html)
    assert not re.search(r"src=|href=|url\(", html)


@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_the_matrix_is_saved(model, tmp_path, suffix):
    matrix = model.attention_matrix(QUERY, PASSAGE, layer=1, head=2)
    matrix.save(tmp_path / f"m{suffix}")
    text = (tmp_path / f"m{suffix}").read_text(encoding="utf-8")
    assert matrix.to_svg() in text
    assert text.startswith("<svg" if suffix == ".svg" else "<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"ends in \.svg or \.html, got .*m\.png"):
        matrix.save(tmp_path / "m.png")


def test_the_view_has_its_script_and_asks_no_one(view, model):
    assert view._repr_html_() == view.html
    assert 1e6 < len(view.html) < 2e6
    assert not re.search(r"<script[^>]*\ssrc=|<link|import[^;\n]{0,80}from\s*[\"']https?:|unpkg\.com", view.html)
    for token in ("Q:tune", "Q:guitar", "D:guitar", "D:window", "[CLS]"):
        assert f'"{token}"' in view.html
    assert '"1.0"' in view.html
    assert '"1.2"' in view.html
    assert "layer 1, heads 0, 2 of planted" in repr(view)


def test_a_token_cannot_end_the_views_script(model, monkeypatch):
    pytest.importorskip("circuitsvis", reason="needs circuitsvis, of the notebook extra")
    attack = ["</script><img src=x>"] * len(TOKENS)
    monkeypatch.setattr(HookedCrossEncoder, "to_str_tokens", lambda self, query, passage: attack)
    html = attention_view(model, QUERY, PASSAGE, layer=1).html
    assert html.count("</script>") == 1
    assert "<img" not in html


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH")
def test_the_view_draws_itself_without_a_network(view, tmp_path):
    view.save(tmp_path / "view.html")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, (tmp_path / "view.html").as_uri()], capture_output=True, text=True, timeout=120)
    dom = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert "Head Selector" in dom
    assert "1.2" in dom
    assert "canvas" in dom


def test_without_circuitsvis_a_sentence_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "circuitsvis.attention", None)
    with pytest.raises(ImportError, match=r"needs circuitsvis.*pip install 'tl-crossenc\[notebook\]'"):
        model.attention_view(QUERY, PASSAGE, layer=0)


def test_what_there_is_not_is_refused(model):
    with pytest.raises(ValueError, match=r"expected a layer in 0\.\.3 .*got 4"):
        model.attention_matrix(QUERY, PASSAGE, layer=4, head=0)
    with pytest.raises(ValueError, match=r"expected a head in 0\.\.3 .*got -5"):
        model.attention_matrix(QUERY, PASSAGE, layer=0, head=-5)
    with pytest.raises(ValueError, match="among CLS, QUERY, SEP1, DOC, SEP2"):
        model.attention_matrix(QUERY, PASSAGE, layer=0, head=0, direction="PASSAGE->QUERY")
    pytest.importorskip("circuitsvis", reason="needs circuitsvis, of the notebook extra")
    with pytest.raises(ValueError, match=r"expected heads 0\.\.3, got head 9"):
        model.attention_view(QUERY, PASSAGE, layer=0, heads=[1, 9])
    with pytest.raises(ValueError, match="at least one head"):
        model.attention_view(QUERY, PASSAGE, layer=0, heads=[])
