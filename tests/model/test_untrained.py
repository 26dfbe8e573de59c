"""The untrained twin: weights as Hugging Face draws them, the model's own tokenizer, and nothing of the model touched."""

import family_rotary
import family_worlds
import pytest
import torch
from family_models import COVERED, opened
from family_worlds import MODELS
from small_worlds import tiny_model
from tiny_models import port
from transformers import BertConfig, BertForSequenceClassification

from tl_crossenc.model.untrained import untrained_twin


@pytest.fixture(scope="module")
def hugging_face():
    """A freshly made classifier of Hugging Face's, never trained; sizes large enough for standard deviations to show."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=211, hidden_size=60, num_hidden_layers=3, num_attention_heads=3, intermediate_size=97
    )
    return BertForSequenceClassification(config).eval()


def test_weights_are_drawn_as_hugging_face_draws_them(hugging_face):
    ported = port(hugging_face, torch.float32)
    twin = untrained_twin(ported, seed=5)
    theirs, mine = ported.state_dict(), twin.state_dict()
    assert list(theirs) == list(mine)
    for name, weight in theirs.items():
        assert (mine[name].shape, mine[name].dtype) == (weight.shape, weight.dtype)
        if weight.std() < 1e-9:  # ones or zeros, to the bit
            assert torch.equal(mine[name], weight), name
        elif weight.numel() > 1000:
            assert float(mine[name].std()) == pytest.approx(float(weight.std()), rel=0.08), name
            assert abs(float(mine[name].mean())) < 4 * 0.02 / weight.numel() ** 0.5, name
        assert weight.std() < 1e-9 or not torch.equal(mine[name], weight)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name in COVERED and not name.startswith(("lightning", "modernbert-modular"))]
)
def test_every_familys_weights_are_drawn_as_hugging_face_draws_them(name, monkeypatch, tmp_path):
    """Against the port of a world whose weights are left as Hugging Face's class makes them."""
    for module in (family_worlds, family_rotary):
        monkeypatch.setattr(module, "fill", lambda model, *_: model.eval())
    torch.manual_seed(3)
    _, fresh = opened(name, tmp_path, dtype="float32")
    theirs, mine = fresh.state_dict(), untrained_twin(fresh, seed=5).state_dict()
    assert list(theirs) == list(mine)
    for key, weight in theirs.items():
        if weight.numel() == 1 or weight.std() < 1e-9:
            assert torch.equal(mine[key], weight), key
        else:
            near = 0.12 if weight.numel() > 1000 else 0.9
            assert float(mine[key].std()) == pytest.approx(float(weight.std()), rel=near), key
            assert float(mine[key].abs().max()) == pytest.approx(float(weight.abs().max()), rel=0.5), key


def test_the_seed_and_nothing_else_decides(hugging_face):
    ported = port(hugging_face, torch.float32)
    again, other = untrained_twin(ported, 5), untrained_twin(ported, 6)
    for name, weight in untrained_twin(ported, 5).state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    drawn = [name for name, weight in again.state_dict().items() if weight.std() > 1e-9]
    same = [name for name in drawn if torch.equal(again.state_dict()[name], other.state_dict()[name])]
    assert same == []
    assert not torch.equal(again.stack.qkv_weight[0], again.stack.qkv_weight[1])  # layers are drawn apart
    assert not torch.equal(again.stack.qkv_weight[0, 0], again.stack.qkv_weight[0, 1])
    with pytest.raises(ValueError, match="expected a seed from 0 on, got -1"):
        untrained_twin(ported, -1)


def test_the_model_stays_and_its_tokenizer_serves_both(tmp_path):
    model = tiny_model(tmp_path)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with model.ablating("DOC->QUERY"):
        twin = untrained_twin(model)
        assert str(twin.active_condition) == "none"
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    pairs = [m.encode_pairs("how do fleas lay", ["the egg", "bread rise"]) for m in (model, twin)]
    assert pairs[0].tokens.tolist() == pairs[1].tokens.tolist()
    assert twin.dtype == model.dtype
    assert twin.cfg.revision == "untrained:0"
    assert twin.score("how do fleas lay", "the egg").isfinite().all()
