"""A random checkpoint of DeBERTa-v3-base's size, in float16: memory while it is ported, and parity past the first log bucket."""

import json
from pathlib import Path

import family_texts as texts
import pytest
import torch
import transformers as hf
from family_worlds import DEBERTA_V3
from memory import peak_memory
from safetensors.torch import save_file

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.model.parity import certify

BASE = {
    **DEBERTA_V3,
    "vocab_size": 128100,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "pooler_dropout": 0,
    "num_labels": 1,
}


def random_model():
    """Hugging Face's class with numbers that float16 has, in float32."""
    model = hf.DebertaV2ForSequenceClassification(hf.DebertaV2Config(**BASE, attn_implementation="eager"))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.empty(weight.shape).normal_(0, 0.04, generator=generator)
            weight.copy_((1 + noise if "LayerNorm.weight" in name else noise).half())
    return model.eval()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_model_of_deberta_v3_bases_size_ports_in_one_copy_and_equals_hugging_face(tmp_path, record_property):
    reference, tokenizer = random_model(), texts.deberta()
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(tmp_path)
    config = json.loads(reference.config.to_json_string(use_diff=True)) | {"dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [type(reference).__name__]}))
    state = {name: weight.half().contiguous() for name, weight in reference.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    del state
    in_float32 = 4 * sum(weight.numel() for weight in reference.parameters())
    assert 7.3e8 < in_float32 < 7.4e8
    share = (peak_memory(tmp_path, tmp_path) - peak_memory()) / in_float32
    record_property("memory", share)
    assert 0.99 < share <= 1.25, share  # less than one copy: nothing was measured

    model = HookedCrossEncoder.from_pretrained(tmp_path, device="cpu")
    long = "the flea lays her eggs on the host and the eggs fall off " * 50
    pairs = model.to_pairs(["how do fleas lay eggs", "eggs", "why"], [long, "bread", ""])
    assert sorted(pairs.attention_mask.sum(1).tolist())[-1] == 512  # beyond 256, where each bucket is of one distance
    found = certify(model, reference, pairs)
    for difference in found.differences:
        record_property(difference.what, difference.max_rel)
        print(f"{difference.what}: {difference.max_abs:.3g} of {difference.scale:.3g}")
    assert found.passed, found.differences
