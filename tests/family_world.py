"""What a tiny random checkpoint of a family is: its model, tokenizer and frame, and how it lies on disk."""

import copy
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from family_texts import N_CTX, Frame
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

LAYOUTS = ("safetensors", "bin")
BERT_PATHS = {"attn": "attention.output.dense", "mlp": "output.dense"}
SIZES = {
    "hidden_size": 21,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 53,
    "max_position_embeddings": N_CTX,
}


@dataclass(frozen=True, eq=False)
class World:
    """One checkpoint.

    Attributes:
        name: the key in `family_worlds.FAMILIES`.
        model: Hugging Face's own classes, float32 in eval mode; gives `logits`.
        tokenizer: the fast tokenizer; encode lists of texts, since a single empty passage is taken for none.
        frame: the special tokens of a pair.
        config: `config.json`.
        state: the weights as they lie on disk: keys, fused matrices, number type.
        encoder: path of the list of layers in `model`; of a layer, `attn` and `mlp` are the paths of the modules whose outputs are
            what attention and MLP write, before any norm.
        last: path of the last linear map, whose input is the head's own output.
        half_windows: one entry a layer, |i - j| at most that, or None for a layer that sees all.
        writer: writes a layout of its own, or None.
    """

    name: str
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    frame: Frame
    config: dict
    state: dict
    encoder: str
    attn: str
    mlp: str
    last: str
    half_windows: tuple[int | None, ...]
    writer: Callable | None = field(default=None, repr=False)

    @property
    def layers(self):
        """The modules of the layers, in order."""
        return list(self.model.get_submodule(self.encoder))

    @property
    def n_heads(self):
        """Heads a layer."""
        return backbone(self.model).config.num_attention_heads

    @property
    def last_linear(self):
        """The last linear map."""
        return self.model.get_submodule(self.last)

    @property
    def n_labels(self):
        """Logits a pair."""
        return self.last_linear.out_features

    def in_dtype(self, dtype):
        """The same world with a copy of the model in `dtype`."""
        return replace(self, model=copy.deepcopy(self.model).to(dtype))

    def write(self, folder, layout="safetensors"):
        """The checkpoint as a user has it: configuration, tokenizer and weights in one of `LAYOUTS`. Gives the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.writer is not None:
            self.writer(self, folder)
        else:
            self.tokenizer.save_pretrained(folder)
            (folder / "config.json").write_text(json.dumps(self.config, indent=2), encoding="utf-8")
            save_file(self.state, folder / "model.safetensors", metadata={"format": "pt"})
        if layout == "bin":
            for path in folder.rglob("model.safetensors"):
                torch.save(load_file(path), path.with_name("pytorch_model.bin"))
                path.unlink()
        return folder


def backbone(model):
    """The first of Hugging Face's own models inside `model`, or itself."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def next_prime(n):
    """The first prime that is not below `n`."""
    while any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
        n += 1
    return n


def fill(model, seed, through=torch.float32):
    """Every weight and bias random, LayerNorms around 1, rounded to what `through` can hold; gives the model in eval mode.

    A parameter's values depend on its name and the seed only.
    """
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            noise = torch.randn(weight.shape, generator=generator) * 0.3
            weight.copy_((1 + noise if name in norms else noise).to(through))
    return model.eval()


def stored(model, dtype=torch.float32):
    """The model's weights as they lie on disk."""
    return {key: weight.detach().to(dtype).contiguous().clone() for key, weight in model.state_dict().items()}


def renamed(state, *rules):
    """Keys with each (old, new) of `rules` replaced, in order."""
    result = {}
    for key, weight in state.items():
        for old, new in rules:
            key = key.replace(old, new)
        result[key] = weight
    return result


def fused(state, parts, whole):
    """The weights named by `parts` laid one below the other as `whole`, wherever they are."""
    result = dict(state)
    for key in state:
        if parts[0] in key:
            result[key.replace(parts[0], whole)] = torch.cat(
                [result.pop(key.replace(parts[0], part)) for part in parts]
            )
    return result


def config_of(model, **changes):
    """`config.json` as Hugging Face writes it, with changes; None takes a field out."""
    config = json.loads(model.config.to_json_string(use_diff=True))
    changes = {"architectures": [type(model).__name__], "dtype": "float32", **changes}
    return {key: value for key, value in {**config, **changes}.items() if value is not None or key not in changes}


def plain_world(name, model, tokenizer, frame, encoder, last, **rest):
    """A world whose disk holds what the model holds."""
    rest = {**BERT_PATHS, "half_windows": (None,) * len(model.get_submodule(encoder)), **rest}
    return World(
        name=name,
        model=model,
        tokenizer=tokenizer,
        frame=frame,
        encoder=encoder,
        last=last,
        **{
            "config": rest.pop("config", None) or config_of(model),
            "state": rest.pop("state", None) or stored(model),
            **rest,
        },
    )


def special_tokens(tokenizer):
    """What a configuration says of its tokenizer."""
    return {
        "vocab_size": next_prime(len(tokenizer)),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
