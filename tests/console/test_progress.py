"""Progress in a terminal, in a notebook, and where nobody watches."""

import sys
from types import SimpleNamespace

import pytest
import torch

from tl_crossenc.console.progress import bar_html, counted, in_notebook, progress_bar
from tl_crossenc.model.cross_encoder import HookedCrossEncoder


@pytest.fixture
def notebook(monkeypatch):
    """An IPython whose displays are kept: a list for each, its updates in order."""
    pytest.importorskip("IPython", reason="needs IPython, of the notebook extra")
    import IPython
    import IPython.display

    displays = []

    def display(html, display_id):
        kept = [html.data]
        displays.append(kept)
        return SimpleNamespace(update=lambda new: kept.append(new.data))

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", display)
    return displays


def test_a_notebooks_bar_is_updated_in_place(notebook):
    assert in_notebook()
    with progress_bar("scoring <b>") as advance:
        for done in (1, 2, 3):
            advance(done, 3)
    ((*_, last),) = notebook
    assert "scoring &lt;b&gt;" in last
    assert 'value="3" max="3"' in last
    assert "3 of 3, 0 s" in last


def test_a_notebook_is_not_flooded(notebook):
    with progress_bar("scoring") as advance:
        for done in range(1, 1001):
            advance(done, 1000)
    assert len(notebook[0]) < 100


def test_a_bar_says_how_long_it_will_take():
    assert "5 of 20, 6 s left" in bar_html("x", 5, 20, 2.0)
    assert "left" not in bar_html("x", 0, 20, 2.0)
    assert "value" not in bar_html("x", 0, 0, 0.0)


def test_a_terminal_of_ipython_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=SimpleNamespace))
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not in_notebook()


def test_nothing_is_drawn_where_nobody_watches(capfd):
    with progress_bar("scoring") as advance:
        advance(1, 2)
        advance(2, 2)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_it(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("scoring") as advance:
        advance(2, 2)
    out, err = capfd.readouterr()
    assert out == ""
    assert "scoring" in err
    assert "2/2" in err


def test_counted_takes_a_function_a_bar_or_nothing(notebook):
    calls = []
    with counted(calls.append, "x", 3) as advance:
        advance(2)
        advance(1)
    assert calls == [2, 1]
    for nothing in (None, False):
        with counted(nothing, "x", 3) as advance:
            advance(3)
    assert notebook == []
    with counted(True, "x", 3) as advance:
        advance(2)
        advance(1)
    assert "3 of 3" in notebook[0][-1]


def test_scores_with_a_bar_are_the_same(notebook):
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    passages = ["a guitar", "old garden window", "", "guitar guitar"]
    plain = model.score("tune a guitar", passages)
    torch.testing.assert_close(model.score("tune a guitar", passages, progress=True), plain, atol=0, rtol=0)
    tokens = 4 * (1 + 3 + 1 + 1) + 2 + 3 + 0 + 2  # [CLS], query, both [SEP]; the passages' words
    assert f"{tokens} of {tokens}" in notebook[0][-1]
