"""What a forward pass may be given: tensors that fit the model and each other, layers that are there."""

from __future__ import annotations

from torch import Tensor

from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.model.config import CrossEncoderConfig


def apart(
    given: PairBatch | Tensor, token_type_ids: Tensor | None, attention_mask: Tensor | None, parts: PartMasks | None
) -> tuple[Tensor, Tensor | None, Tensor | None, PartMasks | None]:
    """Tokens (or a residual stream), types, mask and parts: of pairs their own, of a raw tensor those given beside it.

    Raises:
        ValueError: something was given beside pairs.
    """
    if not isinstance(given, PairBatch):
        return given, token_type_ids, attention_mask, parts
    if token_type_ids is not None or attention_mask is not None or parts is not None:
        raise ValueError("expected nothing beside pairs, which carry their own types, mask and parts; got more")
    return given.tokens, given.token_type_ids, given.attention_mask, given.parts


def layer_range(start: int | None, stop: int | None, n_layers: int) -> tuple[int, int]:
    """The first layer that runs and the one that no longer does; None is the whole model, negative ones count from the end.

    Raises:
        ValueError: a layer that is not there, or a start after the stop.
    """
    bounds = []
    for name, value, default in (("start_at_layer", start, 0), ("stop_at_layer", stop, n_layers)):
        layer = default if value is None else value + n_layers if value < 0 else value
        if not 0 <= layer <= n_layers:
            raise ValueError(f"expected {name} in {-n_layers}..{n_layers}, got {value}")
        bounds.append(layer)
    if bounds[0] > bounds[1]:
        raise ValueError(f"expected start_at_layer <= stop_at_layer, got {start} and {stop}")
    return bounds[0], bounds[1]


def check_input(
    cfg: CrossEncoderConfig,
    tokens: Tensor,
    token_type_ids: Tensor | None,
    attention_mask: Tensor,
    parts: PartMasks | None,
    *,
    from_resid: bool,
) -> None:
    """Raise ValueError unless the tensors of a batch fit a model of these sizes and each other.

    With `from_resid`, `tokens` is a residual stream.
    """
    wants = f"residual stream of floats [pair, pos, {cfg.d_model}]" if from_resid else "token ids [pair, pos]"
    fits = tokens.ndim == 3 and tokens.shape[2] == cfg.d_model if from_resid else tokens.ndim == 2
    if tokens.is_floating_point() != from_resid or not fits:
        raise ValueError(f"expected a {wants}, got {tokens.dtype} of shape {tuple(tokens.shape)}")
    beside = {
        "an attention mask": attention_mask,
        "token_type_ids": None if from_resid else token_type_ids,
        "parts": None if parts is None else parts.codes,
    }
    for what, tensor in beside.items():
        if tensor is not None and tensor.shape != tokens.shape[:2]:
            raise ValueError(
                f"expected {what} of the input's shape {tuple(tokens.shape[:2])} [pair, pos], got {tuple(tensor.shape)}"
            )
    if tokens.shape[1] > cfg.n_ctx:
        raise ValueError(f"expected at most {cfg.n_ctx} positions, got {tokens.shape[1]}: truncate the passage")

    if from_resid or tokens.device.type != "cpu" or not tokens.numel():
        return  # looking at the ids would wait for the device
    for what, ids, size in (
        ("token ids", tokens, cfg.d_vocab),
        ("token_type_ids", token_type_ids, max(cfg.d_vocab_types, 1)),  # without a table, type 0 alone
    ):
        low, high = (0, 0) if ids is None or ids.device.type != "cpu" else map(int, ids.aminmax())
        if low < 0 or high >= size:
            raise ValueError(
                f"expected {what} 0..{size - 1}, got {low if low < 0 else high}: use the model's tokenizer"
            )
