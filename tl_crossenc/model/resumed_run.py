"""Runs that begin in the middle: a stream that was changed at a stage of a layer, taken to its score; nothing below is run."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.block import Stage
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.hook_points import is_hooked


def select_pairs(given: AttentionInput, pairs: Int[Tensor, "item"]) -> AttentionInput:
    """The same of chosen pairs, one of them as often as wanted."""
    parts = PartMasks(given.known_parts().codes[pairs])
    return AttentionInput(given.attention_mask[pairs], parts, given.dtype, window=given.window)


def finish(
    model: HookedCrossEncoder,
    layer: int,
    stage: Stage,
    resid: Float[Tensor, "item row d_model"],
    given: AttentionInput,
    edits: tuple[LayerEdits | None, ...],
) -> Float[Tensor, "item"]:
    """The scores of residual streams that were changed at `stage` of `layer`; no layer below is run.

    In the last layer, past its attention, `row` may be the CLS position alone where the head reads no other.
    """
    return model.score_of(finish_logits(model, layer, stage, resid, given, edits))


def finish_logits(
    model: HookedCrossEncoder,
    layer: int,
    stage: Stage,
    resid: Float[Tensor, "item row d_model"],
    given: AttentionInput,
    edits: tuple[LayerEdits | None, ...],
) -> Float[Tensor, "item label"]:
    """The logits that the scores of `finish` are made of; at "pre" of the layer after the last one, the head alone is run."""
    last = model.cfg.n_layers - 1
    if stage != "pre":
        resid = model.block(layer).resume(stage, resid)
        layer += 1
    for above in range(layer, model.cfg.n_layers):
        resid = model.run_layer(above, resid, given, edits[above], only_cls=above == last)
    return model.read_out(resid, given.attention_mask)


def layers_above(n_layers: int, layer: int, stage: Stage) -> float:
    """The layers that `finish` runs: a layer entered past its attention is half a layer, past its MLP none."""
    return n_layers - layer - {"pre": 0.0, "mid": 0.5, "post": 1.0}[stage]


def check_unhooked(model: HookedCrossEncoder) -> None:
    """Whether nobody's hooks are on the model: they would see, or edit, only some of the runs that are shared.

    Raises:
        ValueError: there is a hook.
    """
    hooked = [name for name, point in model.hook_dict.items() if is_hooked(point)]
    if hooked:
        raise ValueError(f"expected a model without hooks, got one on {hooked[0]}: call model.reset_hooks() first")
