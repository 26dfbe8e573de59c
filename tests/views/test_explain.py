"""What is shown of a pair: every number against arithmetic of its own, and texts that cannot break the page."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import rich.console
import torch
from planted_families import FAMILIES, opened
from tiny_models import tiny_hf

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD, vocabulary
from tl_crossenc.console.shown import short_name
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.porting import config_from_checkpoint, port_weights
from tl_crossenc.report.figures import style
from tl_crossenc.views.explain import explain
from tl_crossenc.views.explained_pair import TABLES, component_name
from tl_crossenc.views.markup import PART_COLOURS, signed

QUERY, PASSAGE = "tune a guitar", "the guitar by the window and a piano"
N_QUERY, N_DOC, N = 3, 8, 14


@pytest.fixture(scope="module")
def found(random_model):
    return random_model.explain(QUERY, PASSAGE)


@pytest.fixture(scope="module")
def patterns(random_model):
    """`[layer, head, pos, pos]` by hand from queries and keys."""
    _, cache = random_model.run_with_cache(random_model.to_pairs(QUERY, PASSAGE))
    layers = []
    for layer in range(random_model.cfg.n_layers):
        q, k = (cache[f"blocks.{layer}.attn.hook_{x}"][0].numpy() for x in "qk")
        heads = []
        for head in range(random_model.cfg.n_heads):
            weights = np.exp(q[:, head] @ k[:, head].T / np.sqrt(q.shape[-1]))
            heads.append(weights / weights.sum(1, keepdims=True))
        layers.append(heads)
    return np.array(layers)


def positions(direction):
    places = {"QUERY": range(1, 1 + N_QUERY), "DOC": range(2 + N_QUERY, 2 + N_QUERY + N_DOC)}
    return [list(places[side]) for side in direction.split("->")]


# Numbers.


def test_the_score_is_the_models_and_contributions_sum_to_it(random_model, found):
    score = float(random_model.score(QUERY, PASSAGE)[0])
    assert found.score == pytest.approx(score, abs=1e-9)
    assert found.contributions["contribution"].sum() == pytest.approx(score, abs=1e-9)
    assert sum(value for _, value in found.top_contributions) == pytest.approx(score, abs=1e-9)
    sizes = found.contributions["contribution"].abs()
    assert (sizes.diff().dropna() <= 0).all()


def test_tokens_and_parts_are_the_inputs(found):
    assert len(found.tokens) == N
    assert [found.tokens[p] for p in positions("QUERY->DOC")[0]] == QUERY.split()
    assert [found.tokens[p] for p in positions("QUERY->DOC")[1]] == PASSAGE.split()
    assert found.parts.tolist() == [0, *[1] * N_QUERY, 2, *[3] * N_DOC, 4]
    assert not found.truncated


def test_masses_are_what_the_patterns_sum_to(found, patterns):
    assert len(found.heads) == 2 * 9
    for _, row in found.heads.iterrows():
        attenders, attended = positions(row["direction"])
        pattern = patterns[row["layer"], row["head"]]
        mass = beyond = 0.0
        for r in attenders:
            for c in attended:
                mass += pattern[r, c] / len(attenders)
                beyond += max(pattern[r, c] - 1 / N, 0.0) / len(attenders)
        assert row["mass"] == pytest.approx(mass, abs=1e-9)
        assert row["beyond"] == pytest.approx(beyond, abs=1e-9)
        assert row["even"] == pytest.approx(len(attended) / N)
        assert row["reaches_score"] == (row["layer"] < 2)


def test_links_are_the_heaviest_cells(found, patterns):
    for (direction, layer, head), links in found.links.groupby(["direction", "layer", "head"]):
        attenders, attended = positions(direction)
        cells = {(r, c): patterns[layer, head, r, c] for r in attenders for c in attended}
        best = sorted(cells, key=cells.get, reverse=True)[:3]
        assert [(a, b) for a, b in zip(links["attender_pos"], links["attended_pos"], strict=True)] == best
        np.testing.assert_allclose(links["weight"], [cells[cell] for cell in best], atol=1e-9)
        assert [found.tokens[a] for a, _ in best] == links["attender"].tolist()
        assert [found.tokens[b] for _, b in best] == links["attended"].tolist()


def test_what_is_shown_is_the_head_of_the_tables(found):
    for direction in ("QUERY->DOC", "DOC->QUERY"):
        own = found.heads[(found.heads["direction"] == direction) & (found.heads["layer"] < 2)]
        ordered = own.sort_values("beyond", ascending=False).head(5)
        names = [f"{row['layer']}.{row['head']}" for _, row in ordered.iterrows()]
        shown = found.top_heads(direction)
        assert [name for name, *_ in shown] == names
        assert [round(mass, 9) for _, mass, _, _ in shown] == ordered["mass"].round(9).tolist()
        for *_, pairs in shown:
            assert all(weight >= 2 / N for *_, weight in pairs)


def test_an_ablated_run_is_explained_as_it_is(random_model):
    with random_model.ablating("DOC->QUERY"):
        found = random_model.explain(QUERY, PASSAGE)
        score = float(random_model.score(QUERY, PASSAGE)[0])
    assert found.score == pytest.approx(score, abs=1e-9)
    assert found.score != pytest.approx(float(random_model.score(QUERY, PASSAGE)[0]), abs=1e-6)
    assert (found.heads.loc[found.heads["direction"] == "DOC->QUERY", "mass"] == 0).all()
    assert "zero(DOC->QUERY)" in found.condition
    assert "zero(DOC-&gt;QUERY)" in found._repr_html_()
    assert "ablating zero(DOC->QUERY)" in str(found)


# The known answer.


@pytest.fixture(scope="module", params=FAMILIES)
def of_family(request, tmp_path_factory):
    """The planted model of each family."""
    return opened(request.param, tmp_path_factory.mktemp(request.param), "float32")[0]


@pytest.mark.parametrize("passage", ["a guitar garden", "the old guitar by the river", "guitar"])
def test_on_the_planted_model_it_names_the_matching_head_and_joins_equal_pieces(of_family, passage):
    found = of_family.explain("tune a guitar", passage)
    assert found.top_contributions[0][0] == "head {}.{}".format(*MOVING_HEAD)
    assert found.top_contributions[0][1] == pytest.approx(found.score, abs=1e-4)
    mark = found.tokens[1].removesuffix("tune")  # of a word's beginning
    equal = {mark + word for word in {"tune", "a", "guitar"} & set(passage.split())}
    for direction in found.directions:
        (name, _, _, pairs), *others = found.top_heads(direction)
        assert name == "{}.{}".format(*MATCHING_HEAD)
        assert others == []
        assert pairs
        assert {found.tokens[a] for a, _, _ in pairs} == {found.tokens[b] for _, b, _ in pairs} == equal
        assert all(found.tokens[a] == found.tokens[b] for a, b, _ in pairs)


def test_where_nothing_matches_no_pair_is_named(of_family):
    found = of_family.explain("tune guitar", "old garden window")
    assert all(pairs == [] for direction in found.directions for *_, pairs in found.top_heads(direction))
    assert "no pair stands out" in str(found)


# Shown.


def test_the_terminals_numbers(found):
    text = str(found)
    assert f"{found.score:.4f}" in text
    for name, value in found.top_contributions:
        assert re.search(rf"{re.escape(name)} +{re.escape(signed(value))}", text)
    for direction in found.directions:
        for name, mass, beyond, _ in found.top_heads(direction):
            assert re.search(rf"\b{re.escape(name)} .*{mass:.3f} +{beyond:.3f}", text)
    assert "\x1b" not in text


def test_a_terminal_gets_colours(found):
    console = rich.console.Console(force_terminal=True, color_system="standard", width=90, file=io.StringIO())
    with console.capture() as captured:
        console.print(found)
    assert "\x1b[" in captured.get()
    assert found.tokens[1] in captured.get()


def test_the_pages_numbers(found):
    html = found._repr_html_()
    bundle = found._repr_mimebundle_()
    assert bundle == {"text/html": html, "text/plain": str(found)}
    assert f">{found.score:.4f}<" in html
    for name, value in found.top_contributions:
        assert f">{name}</td>" in html
        assert f">{signed(value)}</td>" in html
    for direction in found.directions:
        for name, mass, beyond, pairs in found.top_heads(direction):
            for cell in (name, f"{mass:.3f}", f"{beyond:.3f}"):
                assert f">{cell}</td>" in html
            for _, _, weight in pairs:
                assert f">{weight:.2f}</span>" in html
    assert html.count("<div") == html.count("</div>")
    assert len(html) < 60_000


def test_every_token_has_its_parts_colour(found):
    html = found._repr_html_()
    for position, token in enumerate(found.tokens):
        part = Part(int(found.parts[position]))
        red, green, blue = (int(PART_COLOURS[part][i : i + 2], 16) for i in (1, 3, 5))
        title = f'title="{part.name}, position {position}" style="background:rgba({red},{green},{blue},0.15)'
        assert re.search(rf"{re.escape(title)}[^>]*>{re.escape(token)}[₀-₉]*</span>", html)


def test_pieces_that_a_text_has_twice_are_told_apart_by_position(planted):
    found = planted.explain("tune a guitar", "a guitar, a piano")
    tokens = ["[CLS]", "tune", "a", "guitar", "[SEP]", "a", "guitar", ",", "a", "piano", "[SEP]"]
    assert list(found.tokens) == tokens
    assert list(found.names) == [*tokens[:5], "a₅", "guitar", ",", "a₈", "piano", "[SEP]"]
    for shown in (str(found), found._repr_html_()):
        assert "a₅" in shown
        assert "a₈" in shown
    joined = str(found).split("joins")[1]
    assert "a→a₅" in joined
    assert "a₅→a" in joined


def test_the_columns_are_explained_where_they_are_shown(found):
    for shown in (" ".join(str(found).split()), found._repr_html_()):
        for column in ("mass:", "even:", "beyond:", "joins:"):
            assert column in shown


def test_the_colours_are_those_of_the_figures():
    assert {part.name: colour for part, colour in PART_COLOURS.items()}.items() <= style.PART_COLOURS.items()


def test_it_needs_no_network_and_runs_no_script(found):
    html = found._repr_html_()
    assert not re.search(r"https?:|<script|<link|@import|src=|url\(", html)


def test_texts_are_escaped(planted):
    attack = "<script>alert(1)</script> \"onload='x' & <img src=x>"
    html = planted.explain(attack, attack)._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    found = planted.explain("tune a guitar", "a guitar")
    tokens = tuple(token.replace("guitar", "<b>'\"&") for token in found.tokens)
    html = replace(found, tokens=tokens, model="<i>name</i>", condition="<u>")._repr_html_()
    assert not re.search(r"<b>'|<i>|<u>", html)
    assert "&lt;b&gt;&#x27;&quot;&amp;" in html


def test_brackets_are_text_to_rich(planted):
    assert "[bold]" in str(planted.explain("tune a guitar", "a guitar")).replace("[CLS]", "[bold]")
    assert "[CLS]" in str(planted.explain("tune [red] a guitar [/red]", "a guitar"))


def test_the_repr_is_one_line(found):
    text = repr(found)
    assert "\n" not in text
    assert f"score {found.score:.4g} of {N} tokens" in text


def test_a_cut_passage_says_so(planted):
    found = planted.explain("tune a guitar", "guitar " * 600, attribution=None)
    assert found.truncated
    assert "reads no more of it" in str(found)
    assert "reads no more of it" in found._repr_html_()


@pytest.mark.parametrize(("query", "passage"), [("tune a guitar", ""), ("", "a guitar"), ("", "")])
def test_empty_texts(planted, query, passage):
    found = planted.explain(query, passage)
    assert found.score == pytest.approx(float(planted.score(query, passage)[0]), abs=1e-6)
    assert found.directions == []
    assert "no attention crosses" in str(found)
    assert "no attention crosses" in found._repr_html_()
    assert repr(found)


# What is refused.


def test_tables_by_name(found):
    for what in TABLES:
        copy = found.to_frame(what)
        assert copy.equals(getattr(found, what))
        assert copy is not getattr(found, what)
    with pytest.raises(
        ValueError, match="among contributions, heads, links, words, completeness, lengths, cut, got 'layers'"
    ):
        found.to_frame("layers")
    with pytest.raises(ValueError, match="among QUERY->DOC, DOC->QUERY, got 'DOC->CLS'"):
        found.top_heads("DOC->CLS")


def test_one_pair_only(planted):
    with pytest.raises(TypeError, match=r"as one text, got list|Expected type: <class 'str'>"):
        planted.explain("tune a guitar", ["a guitar"])
    with pytest.raises(ValueError, match="expected top of at least 1, got 0"):
        planted.explain("a", "b", top=0)
    with pytest.raises(ValueError, match="expected links of at least 1, got -1"):
        explain(planted, "a", "b", links=-1)


def test_tab_completion_lists_the_views(planted, found):
    assert {"explain", "attention_view", "attention_matrix", "score", "ablating"} <= set(dir(planted))
    assert {"to_frame", "contributions", "heads", "links", "top_heads", "score"} <= set(dir(found))
    for name in ("explain", "attention_view", "attention_matrix"):
        assert len(getattr(planted, name).__doc__.splitlines()[0]) < 120


IN_IPYTHON = """
import json
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from tl_crossenc import HookedCrossEncoder

shell = InteractiveShell.instance()
model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
found = model.explain("tune a guitar", "a guitar")
shell.push({"model": model, "found": found})
with provisionalcompleter():
    offered = {
        typed: [c.text.lstrip(".") for c in shell.Completer.completions(typed, len(typed))]
        for typed in ("model.exp", "model.attention_", "found.to_")
    }
shown = [shell.display_formatter.format(value)[0] for value in (model, found)]
print("RESULT" + json.dumps([offered, shown, str(found), found._repr_html_()]))
"""


@pytest.mark.slow
def test_ipython_completes_and_displays(tmp_path):
    pytest.importorskip("IPython", reason="needs IPython, of the notebook extra")
    environment = os.environ | {"IPYTHONDIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", IN_IPYTHON]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    offered, (model, found), text, html = json.loads(done.stdout.partition("RESULT")[2])
    assert "explain" in offered["model.exp"]
    assert {"attention_view", "attention_matrix"} <= set(offered["model.attention_"])
    assert "to_frame" in offered["found.to_"]
    assert model["text/plain"].startswith("HookedCrossEncoder(planted: 4 layers x 4 heads")
    assert found["text/plain"] == text
    assert found["text/html"] == html


def test_a_model_of_one_layer_shows_no_head(planted):
    """All that QUERY and DOC take in comes too late for CLS."""
    hf = tiny_hf(n_labels=1, seed=3, vocab_size=len(vocabulary()), num_hidden_layers=1)
    checkpoint = Checkpoint("tiny", "sha256:0", hf.config.to_dict(), lambda: iter(hf.state_dict().items()), None, None)
    model = HookedCrossEncoder(config_from_checkpoint(checkpoint, torch.float64), planted.tokenizer)
    port_weights(model, checkpoint)
    found = model.eval().explain(QUERY, PASSAGE)
    assert len(found.heads) == 2 * 3
    assert [found.top_heads(direction) for direction in found.directions] == [[], []]
    assert "QUERY → DOC" in found._repr_html_()
    assert repr(found)
    assert str(found)


def test_names():
    assert short_name("/home/me/models/my-reranker") == short_name("./my-reranker") == "my-reranker"
    assert short_name("castorini/monobert-large-msmarco") == "castorini/monobert-large-msmarco"
    assert short_name("results/models/my-reranker") == short_name("~/my-reranker") == "my-reranker"
    assert [signed(value) for value in (1.25, -1.25, -1e-9)] == ["+1.2500", "-1.2500", "0.0000"]


def test_every_component_has_a_name(found):
    names = [component_name(row, found.readout) for _, row in found.contributions.iterrows()]
    assert len(set(names)) == len(names)
    assert {
        "head 0.0",
        "MLP 2",
        "attention bias 1",
        "LayerNorm bias of the embeddings",
        "embeddings",
        "remainder",
    } <= set(names)
