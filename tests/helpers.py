"""Tiny tokenizers, and BERT classifiers written to disk in every layout that checkpoints come in."""

import json
import string
import zlib

import torch
from hypothesis import settings
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, PreTrainedTokenizerFast

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

WORDS = ("how", "do", "flea", "fleas", "lay", "egg", "the", "bread", "rise", "##s", "##ing", "日", "本", "é", "😀", "ש")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = list(
    dict.fromkeys(
        (
            *SPECIALS,
            *WORDS,
            *string.ascii_lowercase,
            *("##" + letter for letter in string.ascii_lowercase),
            *string.digits,
            *("##" + digit for digit in string.digits),
            *"!?.,;:-[]()'\"",
        )
    )
)
N_LAYERS, N_HEADS, D_MODEL, D_MLP, N_CTX, D_VOCAB = 2, 3, 15, 37, 41, 113
LAYOUTS = ("safetensors", "bin", "legacy", "sharded-safetensors", "sharded-bin", "sharded-legacy")


def write_vocabulary(folder):
    """`vocab.txt` of the tiny vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


def bert_tokenizer(**settings):
    """A BERT tokenizer, `[CLS] a [SEP] b [SEP]`, of the tiny vocabulary."""
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(VOCABULARY)}, **settings)


def roberta_like_tokenizer():
    """A tokenizer that frames pairs as RoBERTa does: `<s> a </s></s> b </s>`, all types 0, padding 1."""
    specials = ("<s>", "<pad>", "</s>", "<unk>")
    words = [*specials, *VOCABULARY[len(SPECIALS) :]]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:0 </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
    )


def small_config(n_labels=2, **changes):
    """A configuration as BERT's authors wrote it, as a plain dict, with `model_type`."""
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "intermediate_size": D_MLP,
        "max_position_embeddings": N_CTX,
        "vocab_size": D_VOCAB,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "id2label": {str(i): f"LABEL_{i}" for i in range(n_labels)},
        "label2id": {f"LABEL_{i}": i for i in range(n_labels)},
        **changes,
    }


def monobert_config(n_labels=2, **changes):
    """The same without `model_type`, and without labels, as configurations of 2020 are."""
    config = small_config(n_labels, **changes)
    for key in ("model_type", "id2label", "label2id"):
        del config[key]
    return config if n_labels == 2 else {**config, "num_labels": n_labels}


def weight_shapes(config, n_labels=2):
    """(key, shape) of every weight of a BERT sequence classifier, in the order of the modules."""
    d, m = config["hidden_size"], config["intermediate_size"]
    rows = {
        "word_embeddings": config["vocab_size"],
        "position_embeddings": config["max_position_embeddings"],
        "token_type_embeddings": config["type_vocab_size"],
    }
    for name, n in rows.items():
        yield f"bert.embeddings.{name}.weight", (n, d)
    yield from _affine("bert.embeddings.LayerNorm", (d,))
    for layer in range(config["num_hidden_layers"]):
        at = f"bert.encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            yield from _affine(f"{at}attention.self.{name}", (d, d))
        yield from _affine(f"{at}attention.output.dense", (d, d))
        yield from _affine(f"{at}attention.output.LayerNorm", (d,))
        yield from _affine(f"{at}intermediate.dense", (m, d))
        yield from _affine(f"{at}output.dense", (d, m))
        yield from _affine(f"{at}output.LayerNorm", (d,))
    yield from _affine("bert.pooler.dense", (d, d))
    yield from _affine("classifier", (n_labels, d))


def _affine(name, shape):
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def random_weights(config, n_labels=2, *, seed=0, scale=0.3):
    """A seeded state dict; each weight's values depend on its key and the seed only."""
    state = {}
    for key, shape in weight_shapes(config, n_labels):
        generator = torch.Generator().manual_seed(seed + zlib.crc32(key.encode()))
        noise = torch.empty(shape).normal_(0, scale, generator=generator)
        state[key] = noise.add_(1) if key.endswith("LayerNorm.weight") else noise
    return state


def write_checkpoint(folder, config, state, layout="safetensors"):
    """`config.json` and the weights in one of `LAYOUTS`; a sharded one has three shards. Gives the weight files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    kind = layout.removeprefix("sharded-")
    stem, suffix = ("model", ".safetensors") if kind == "safetensors" else ("pytorch_model", ".bin")
    if kind == layout:
        return [_write_weights(folder / f"{stem}{suffix}", state, kind)]
    keys = list(state)
    files = {f"{stem}-0000{i + 1}-of-00003{suffix}": keys[i::3] for i in range(3)}
    weight_map = {key: name for name, held in files.items() for key in held}
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index), encoding="utf-8")
    return [_write_weights(folder / name, {key: state[key] for key in held}, kind) for name, held in files.items()]


def _write_weights(path, state, kind):
    if kind == "safetensors":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata={"format": "pt"})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "bin")
    return path


def hf_model(config, state, dtype=torch.float32):
    """Hugging Face's model with these weights, built from a configuration dict and filled strictly."""
    settings = BertConfig.from_dict(config)
    settings._attn_implementation = "eager"
    model = BertForSequenceClassification(settings)
    model.load_state_dict(state)
    return model.to(dtype).eval()


def one_sentence(message):
    """Whether an error's text is one clear sentence: one line, of a readable length, saying what was expected."""
    text = str(message)
    return "\n" not in text and 20 < len(text) < 700 and ("expected" in text or "cannot" in text)
