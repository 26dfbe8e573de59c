"""The reference of parity: Hugging Face's own model of a checkpoint, or where it has none of its layout, its encoder and the head.

Its class is the sequence classifier that transformers has for the family; code that comes with a checkpoint is never run. Where
the files are of a layout that it reads, it reads them. What it does not read (a model put together while loading, as the demo; one
saved inside of a wrapper; key layouts of other libraries) is brought to its modules' names and filled in through `load_state_dict`,
which wants every key exactly. Which names mean the same is told by the family's layouts, as in porting.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.families import family_of
from tl_crossenc.checkpoints.families.family import Family, Part
from tl_crossenc.checkpoints.head_modules import HeadModules
from tl_crossenc.checkpoints.weight_names import WeightNames
from tl_crossenc.model.porting import stored_tensors
from tl_crossenc.model.transformers_config import quiet, transformers_config


class LinearReranker(nn.Module):
    """Hugging Face's encoder and one linear layer on the first position.

    Args:
        encoder: the encoder.
        linear: the layer.
    """

    def __init__(self, encoder: nn.Module, linear: nn.Linear):
        super().__init__()
        self.encoder, self.linear = encoder, linear

    def forward(self, **fed: Any) -> Any:
        """What a sequence classifier of transformers gives."""
        found = self.encoder(**fed)
        found.logits = self.linear(found.last_hidden_state[:, 0])
        return found


def reference_model(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> Any:
    """Hugging Face's model of the checkpoint, with attention in the open, in eval mode.

    Raises:
        ValueError: the family is not covered.
        RuntimeError: keys are missing or left over.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

    family = family_of(checkpoint.config, checkpoint.name)
    config = transformers_config(family.todays(checkpoint.config, checkpoint.name), family)
    config._attn_implementation = "eager"
    model: Any
    if family.encoder_of is not None:
        encoder_class: Any = MODEL_MAPPING[type(config)]
        encoder = encoder_class(config)
        state = _in_its_names(encoder, checkpoint, family)
        weight, bias = state.pop("linear.weight"), state.pop("linear.bias", None)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        encoder.load_state_dict(state)
        model = LinearReranker(encoder, linear)
    else:
        kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        model = None if checkpoint.head is not None else _from_files(kind, config, checkpoint, family, dtype)
        if model is None:
            model = kind(config)
            if checkpoint.head is not None:
                _take_head(model, checkpoint.head)
            model.load_state_dict(_in_its_names(model, checkpoint, family))
    return model.to(device=device, dtype=dtype).eval()


def _from_files(kind: Any, config: Any, checkpoint: Checkpoint, family: Family, dtype: torch.dtype) -> Any:
    """What it makes of the files by itself; None where there are none, or where it does not find all of its weights in them."""
    names = WeightNames(family)
    if checkpoint.folder is None or any(names.wrapped for key, _ in checkpoint.read_tensors() if names(key)):
        return None
    with quiet():
        model, found = kind.from_pretrained(
            str(checkpoint.folder),
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            trust_remote_code=False,
            output_loading_info=True,
        )
    return None if found["missing_keys"] or found["mismatched_keys"] else model


def _take_head(model: Any, head: HeadModules) -> None:
    """Let a sequence classifier of transformers compute what a head in modules does: torch's own classes in its place."""
    from transformers.activations import ACT2FN

    d_model = model.config.hidden_size
    model.config.classifier_pooling = head.pooling
    model.head.dense = nn.Linear(d_model, d_model, bias="dense" not in head.unbiased)
    model.head.act = ACT2FN[head.activation]
    model.head.norm = nn.LayerNorm(d_model)
    model.classifier = nn.Linear(d_model, head.n_labels, bias="scores" not in head.unbiased)


def _in_its_names(model: Any, checkpoint: Checkpoint, family: Family) -> dict[str, Tensor]:
    """The checkpoint's weights by the names of the model's modules, cut and laid together as those have them."""
    wanted = model.state_dict().keys()
    layouts = list(family.places(model.config.num_hidden_layers))
    places = {name: place for layout in reversed(layouts) for name, place in layout.items()}
    own = max(layouts, key=lambda layout: len(layout.keys() & wanted))
    names = WeightNames(family)
    pieces: dict[Part, Tensor] = {}
    state: dict[str, Tensor] = {}
    for key, tensor in stored_tensors(checkpoint, family):
        name = names(key) or key
        if name.startswith(family.ignored) and name not in wanted:
            continue
        if name in wanted or name not in places:
            state[name] = tensor
            continue
        parts = places[name].parts
        pieces |= dict(zip(parts, tensor.chunk(len(parts)), strict=True))
    for name, place in own.items():
        if name not in state and all(part in pieces for part in place.parts):
            state[name] = torch.cat([pieces.pop(part) for part in place.parts])
    return state
