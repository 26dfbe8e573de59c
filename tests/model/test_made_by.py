"""What a result says of how it was made: the model as it ran, and settings in words that JSON has."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import N_LAYERS, port, tiny_hf

from tl_crossenc import Condition, Direction, Part
from tl_crossenc.instruments.bottleneck import Fitting
from tl_crossenc.model.made_by import made_by


def test_the_model_as_it_runs_and_the_versions():
    model = port(tiny_hf())
    plain = made_by(model)
    assert plain == {
        "model": "tiny",
        "revision": "sha256:0",
        "condition": "none",
        "hooks": False,
        "dtype": "float64",
        "device": "cpu",
        "tl-crossenc": version("tl-crossenc"),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    with model.ablating("DOC->QUERY", layers=[1]):
        assert made_by(model) == plain | {"condition": "zero(DOC->QUERY; layers=1)"}
    with model.hooks([(f"blocks.{N_LAYERS - 1}.hook_mlp_out", lambda value, hook: None)]):
        assert made_by(model) == plain | {"hooks": True}
    model.cfg.model_name = "/somebody/elses/folder/my-reranker"
    assert made_by(model)["model"] == "my-reranker"


def test_settings_become_what_json_has_words_for():
    settings = {
        "count": np.int64(7),
        "share": np.float32(0.5),
        "on": np.True_,
        "condition_of_it": Condition.ablate("DOC->QUERY", layers=[0]),
        "directions": (Direction.parse("DOC->QUERY"), Direction.parse("CLS->ALL")),
        "part": Part.DOC,
        "where": Path("a/b"),
        "kind": torch.bfloat16,
        "device_of_it": torch.device("cpu"),
        "fitting": Fitting(steps=3),
        "groups": {2: frozenset({3, 1})},
        "nothing": None,
    }
    found = made_by(port(tiny_hf()), **settings)
    told = {name: found[name] for name in settings}
    assert told | {"fitting": told["fitting"]["steps"]} == {
        "count": 7,
        "share": 0.5,
        "on": True,
        "condition_of_it": "zero(DOC->QUERY; layers=0)",
        "directions": ["DOC->QUERY", "CLS->ALL"],
        "part": "DOC",
        "where": "a/b",
        "kind": "bfloat16",
        "device_of_it": "cpu",
        "fitting": 3,
        "groups": {"2": [1, 3]},
        "nothing": None,
    }
    assert json.loads(json.dumps(found)) == found


def test_what_json_has_no_words_for_and_names_that_are_taken_are_refused():
    model = port(tiny_hf())
    with pytest.raises(TypeError, match=r"expected the setting mask in plain values .*, got ndarray"):
        made_by(model, mask=np.zeros(3))
    with pytest.raises(TypeError, match=r"expected the setting run in plain values .*, got function"):
        made_by(model, run=[made_by])
    with pytest.raises(ValueError, match="got dtype"):
        made_by(model, dtype="float16")
