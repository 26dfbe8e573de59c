"""Random checkpoints of the size of real rerankers: one copy in memory, and Hugging Face's logits. Real ones by their names."""

import gc
from pathlib import Path

import family_texts as texts
import pytest
import torch
import transformers as hf
from family_worlds import DEBERTA_V3
from memory import peak_memory

from tl_crossenc import HookedCrossEncoder

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS[:4], strict=True))
LARGE = {"hidden_size": 1024, "num_attention_heads": 16}
SIZES = {
    "bge-reranker-v2-m3": (
        hf.XLMRobertaForSequenceClassification,
        hf.XLMRobertaConfig,
        texts.xlm_roberta,
        {
            **LARGE,
            "num_hidden_layers": 24,
            "intermediate_size": 4096,
            "max_position_embeddings": 8194,
            "vocab_size": 250_002,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
        },
    ),
    "ModernBERT-large": (
        hf.ModernBertForSequenceClassification,
        hf.ModernBertConfig,
        texts.modernbert,
        {**LARGE, "num_hidden_layers": 28, "intermediate_size": 2624, "classifier_pooling": "mean"},
    ),
    "DeBERTa-v3-base": (
        hf.DebertaV2ForSequenceClassification,
        hf.DebertaV2Config,
        texts.deberta,
        {
            **DEBERTA_V3,
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
            "vocab_size": 128_100,
        },
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", SIZES)
def test_a_model_of_real_size_ports_in_one_copy_and_equals_hugging_face(name, tmp_path, record_property):
    kind, config, tokenizer, sizes = SIZES[name]
    tokenizer = tokenizer()
    special = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0, "eos_token_id": 2}
    special |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    theirs = kind(config(**special, **sizes, num_labels=1, attn_implementation="eager")).eval()
    with torch.no_grad():
        for key, weight in theirs.named_parameters():  # biases are 0 and norms 1 as drawn, which would hide a lost one
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.05)
            if key.startswith(("classifier", "head")) and weight.dim() == 2:
                weight.mul_(3)
        encoded = tokenizer(QUERIES, PASSAGES, padding=True, return_tensors="pt")
        expected = theirs(**encoded).logits[:, 0]
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    del theirs
    gc.collect()
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    memory = (peak_memory(tmp_path, tmp_path) - peak_memory()) / size
    record_property("memory", memory)
    model = HookedCrossEncoder.from_pretrained(tmp_path, device="cpu")
    found = model.score(QUERIES, PASSAGES)
    difference = float((found - expected).abs().max())
    record_property("difference", difference)
    print(
        f"{name}: {size / 1e9:.2f} GB, memory {memory:.2f} x, difference {difference:.1e}, spread {expected.std():.1e}"
    )
    assert 0.9 < memory <= 1.25  # less: nothing was measured
    assert float(expected.std()) > 1e-3
    assert difference <= 1e-5 * max(1.0, float(expected.abs().max()))


# Published models: (layers, heads, labels).


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("BAAI/bge-reranker-v2-m3", (24, 16, 1)),
        ("BAAI/bge-reranker-base", (12, 12, 1)),
        ("jinaai/jina-reranker-v2-base-multilingual", (12, 12, 1)),
        ("cross-encoder/ms-marco-electra-base", (12, 12, 1)),
        ("webis/monoelectra-base", (12, 12, 1)),
        ("Alibaba-NLP/gte-reranker-modernbert-base", (22, 12, 1)),
        ("Alibaba-NLP/gte-multilingual-reranker-base", (12, 12, 1)),
        ("mixedbread-ai/mxbai-rerank-base-v1", (12, 12, 1)),
    ],
)
def test_a_published_model_opens_and_tells_an_answer_from_another_text(name, shape):
    model = HookedCrossEncoder.from_pretrained(name, device="cpu")
    cfg = model.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.n_labels) == shape
    scores = model.score(
        "how long do fleas live",
        ["An adult flea lives for about a hundred days.", "Bread rises because yeast gives off gas."],
    )
    assert scores[0] > scores[1]
