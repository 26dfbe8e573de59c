"""`explain` of families with other pieces, windows and pooling: tokens by hand, attention by loops over Hugging Face's patterns."""

import html

import family_oracle as oracle
import numpy as np
import pytest
from family_models import opened

from tl_crossenc.views.explained_pair import component_name

QUERY, PASSAGE = "the 🐕 has fleas", "The flea's café, host!"
SHOWN = {
    "xlm-roberta": "<s> the 🐕 has fleas </s> </s> The flea ' s café , host ! </s>",
    "roberta": "<s> the 🐕 ##· ##· h ##as fleas </s> </s> The fl ##ea 's c ##af ##é , h ##os ##t ! </s>",
    "modernbert-mean": "[CLS] the 🐕 ##· ##· h ##as fleas [SEP] The fl ##ea 's c ##af ##é , h ##os ##t ! [SEP]",
}


@pytest.mark.parametrize("name", SHOWN)
def test_tokens_and_attention_across(name, tmp_path):
    world, model = opened(name, tmp_path)
    found = model.explain(QUERY, PASSAGE, top=500, links=500)
    joined = "".join(found.tokens).replace("##", "").replace("·", "")
    frame = [world.frame.cls, *world.frame.sep1, world.frame.sep2]
    assert joined == "".join([frame[0], QUERY.replace(" ", ""), *frame[1:-1], PASSAGE.replace(" ", ""), frame[-1]])
    assert " ".join(found.tokens) == SHOWN[name]
    batch = oracle.encode(world, [(QUERY, PASSAGE)])
    patterns, (parts,) = oracle.run(world, batch, []).patterns, batch.parts.tolist()
    places = {"QUERY": [i for i, p in enumerate(parts) if p == 1], "DOC": [i for i, p in enumerate(parts) if p == 3]}
    for row in found.heads.to_dict("records"):
        rows, columns = (places[side] for side in row["direction"].split("->"))
        half = world.half_windows[row["layer"]]
        seen = {r: [c for c in range(len(parts)) if half is None or abs(r - c) <= half] for r in rows}
        pattern = patterns[row["layer"]][0, row["head"]].numpy()
        assert row["mass"] == pytest.approx(np.mean([pattern[r, columns].sum() for r in rows]), abs=1e-9)
        assert row["even"] == pytest.approx(np.mean([len({*columns} & {*seen[r]}) / len(seen[r]) for r in rows]))
        beyond = [sum(max(pattern[r, c] - 1 / len(seen[r]), 0) for c in columns if c in seen[r]) for r in rows]
        assert row["beyond"] == pytest.approx(np.mean(beyond), abs=1e-9)
        last = row["layer"] == model.cfg.n_layers - 1
        assert row["reaches_score"] == (name == "modernbert-mean" or not last)
    for direction in found.directions:
        rows, columns = (places[side] for side in direction.split("->"))
        for head, _, _, shown in found.top_heads(direction):
            layer, number = map(int, head.split("."))
            pattern, half = patterns[layer][0, number].numpy(), world.half_windows[layer]
            heaviest = sorted(((r, c) for r in rows for c in columns), key=(-pattern).__getitem__)
            n_seen = [sum(half is None or abs(r - c) <= half for c in range(len(parts))) for r, _ in heaviest]
            twice = [cell for cell, n in zip(heaviest, n_seen, strict=True) if pattern[cell] >= 2 / n]
            assert [pair[:2] for pair in shown] == twice
    assert "nan" not in str(found)
    assert ("the last layer's are left out" in html.unescape(found._repr_html_())) == (name != "modernbert-mean")


READOUT = {
    "bert": "pooler and classifier bias",
    "distilbert": "pooler and classifier bias",
    "lightning-mono": "classifier bias",
    "modernbert-cls": "norm, pooler and classifier bias",
}


@pytest.mark.parametrize("name", READOUT)
def test_what_the_head_adds_is_called_by_what_it_has(name, tmp_path):
    _, model = opened(name, tmp_path)
    found = model.explain(QUERY, PASSAGE, top=1000)
    row = found.contributions.query("component == 'readout'").iloc[0]
    assert component_name(row, found.readout) == READOUT[name]
    assert (READOUT[name] in [label for label, _ in found.top_contributions]) == (row["contribution"] != 0)
    assert ("pooler" in READOUT[name]) == (model.pooler is not None)
    assert ("norm" in READOUT[name]) == (model.ln_final is not None)
