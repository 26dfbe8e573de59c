"""Direct attribution: the score as a sum of what every component writes to CLS, and the score that each layer would give.

**Formula.** With x the CLS position after the last layer, P and p the pooler, f its activation (tanh in BERT; GELU, ReLU), w and c
the classifier (of two logits, the difference of their rows):

    u = P x + p,    score = w . f(u) + c

A BERT layer is post-LN: x_mid = LN1(x + heads + b_O), x' = LN2(x_mid + MLP(x_mid)), LN(y) = weight * (y - mean y) / scale + bias.
With every scale held at the value that it has in this run, each LN is linear in y but for its bias, so x is a sum of the
writes of all heads, MLPs and the embeddings to CLS, each carried through the LNs after it, and of the biases. f is made linear
elementwise, f(u) = s * u + r:

- `secant` (the default): s = f(u) / u, the slope of the line through 0, so r = 0 and the contributions sum to the score.
- `tangent`: s = f'(u), the slope at the point, which is what the gradient sees. A saturated unit of a tanh has slope 0 and all of
  its w . r goes to the remainder; of a ReLU r is 0, and both ways are one.

A write of vector y at CLS is worth g . y, g being w * s carried back through the pooler and the later LNs: the head and each layer
do that in their own order (`carry_back`). Without a pooler g begins as w. Where a head reads all rows, a write is worth the sum
over them. After Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits); the lens after nostalgebraist 2020.

**Notation.** head: z W_O of one head, its values' bias included; attn_bias: b_O; mlp: the MLP's output, its bias included; embed:
the sum of the embeddings that there are; ln_bias: the LN biases and that of a projection of the embeddings, the embeddings' at
layer -1 and both of a layer at that layer; readout: pooler and classifier bias, and those of the head's norms; remainder: score
minus all of these (rounding, and r under `tangent`).

**Hooks.** What ran is what is split: z, MLP outputs, embeddings and scales are those past their hooks. Where a hook changed
`hook_attn_out` of a pair, its heads and b_O are 0, since they do not write any more, and `edit` of the layer has what stands
there. A hook on the stream itself (`hook_resid_pre`, `hook_resid_mid`, ..., `hook_normalized`) adds to `edit` of the layer what it
left minus what it got; so do hooks on pooler and classifier to `readout`.

**Limits.** Direct only: what a head writes to DOC, which a later head brings to CLS, is counted as the later head's. A scale
depends on all writes; holding it, as here, shares its effect among them in proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from tl_crossenc.console.framed import Made
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.instruments.row_writes import contributions, edited_points, held_points, rows_read
from tl_crossenc.model.activations import WAYS, Way
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded

COMPONENTS = ("head", "attn_bias", "mlp", "embed", "ln_bias", "readout", "remainder")
EDIT = "edit"


@dataclass(frozen=True)
class DirectAttribution(Made):
    """What every component adds to the score of every pair, in score units.

    Attributes:
        head: `[pair, layer, head]`.
        attn_bias: `[pair, layer]`.
        mlp: `[pair, layer]`.
        embed: `[pair]`.
        ln_bias: `[pair, layer + 1]`, the embeddings' LayerNorm first.
        edit: `[pair, layer + 1]`, what hooks put in between, that of the embeddings first; 0 without hooks.
        readout: `[pair]`, pooler and classifier bias, and what hooks change past the layers.
        remainder: `[pair]`, the score minus all of the above.
        scores: `[pair]`, the model's own.
        tanh: how the head's activation was made linear.
    """

    head: Float[np.ndarray, "pair layer head"]
    attn_bias: Float[np.ndarray, "pair layer"]
    mlp: Float[np.ndarray, "pair layer"]
    embed: Float[np.ndarray, "pair"]
    ln_bias: Float[np.ndarray, "pair layers_and_embed"]
    edit: Float[np.ndarray, "pair layers_and_embed"]
    readout: Float[np.ndarray, "pair"]
    remainder: Float[np.ndarray, "pair"]
    scores: Float[np.ndarray, "pair"]
    tanh: str

    @property
    def explained(self) -> Float[np.ndarray, "pair"]:
        """The sum of all components but the remainder."""
        layers = self.head.sum((1, 2)) + self.attn_bias.sum(1) + self.mlp.sum(1) + self.ln_bias.sum(1)
        layers = layers + self.edit.sum(1)
        return layers + self.embed + self.readout

    def to_frame(self) -> pd.DataFrame:
        """A row a (pair, component): `pair`, `component`, `layer`, `head`, `contribution`; a pair's rows sum to its score.

        `layer` and `head` are missing where a component has none; the embeddings' LayerNorm has layer -1. There are rows of `edit`
        only where a hook edited something.
        """
        tables = []
        for name in (*COMPONENTS, EDIT) if self.edit.any() else COMPONENTS:
            values = getattr(self, name)
            index = np.indices(values.shape).reshape(values.ndim, -1)
            table = pd.DataFrame({"pair": index[0], "component": name})
            table["layer"] = pd.array(
                [pd.NA] * values.size if values.ndim == 1 else index[1] - int(name in ("ln_bias", EDIT)), dtype="Int64"
            )
            table["head"] = pd.array([pd.NA] * values.size if values.ndim < 3 else index[2], dtype="Int64")
            table["contribution"] = values.ravel()
            tables.append(table)
        return self.told(pd.concat(tables, ignore_index=True).sort_values("pair", kind="stable", ignore_index=True))

    def top(self, pair: int, k: int = 10) -> pd.DataFrame:
        """The `k` rows of one pair's frame whose contributions are largest in absolute value, largest first.

        Raises:
            ValueError: there is no such pair.
        """
        if not 0 <= pair < len(self.scores):
            raise ValueError(f"expected a pair in 0..{len(self.scores) - 1}, got {pair}")
        frame = self.to_frame()
        own = frame[frame["pair"] == pair]
        return (
            own.sort_values("contribution", key=np.abs, ascending=False, kind="stable").head(k).reset_index(drop=True)
        )


@recorded
def direct_attribution(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    *,
    tanh: Way | str = "secant",
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int], object] | None = None,
) -> DirectAttribution:
    """Split the score of every pair into what each component writes to CLS, in the run as it is.

    That is with what `model.ablating` removes, with what `replacing` puts in its place, and with hooks of your own.

    Sums are made in float64, whatever the model's dtype.

    Args:
        model: the model.
        pairs: from `model.encode_pairs` or `model.to_pairs`.
        tanh: "secant" or "tangent", see the module.
        token_budget: padded tokens a batch.
        progress: called with the number of pairs done after each batch.

    Raises:
        ValueError: no pairs, or another `tanh`.
    """
    if tanh not in WAYS:
        raise ValueError(f"expected a tanh among {', '.join(WAYS)}, got {tanh!r}")
    L, H, n = model.cfg.n_layers, model.cfg.n_heads, len(pairs)
    shapes = {"head": (n, L, H), "attn_bias": (n, L), "mlp": (n, L), "ln_bias": (n, L + 1), EDIT: (n, L + 1)}
    shapes |= dict.fromkeys(("embed", "readout", "remainder"), (n,))
    values: dict[str, Any] = {name: np.zeros(shape) for name, shape in shapes.items()}
    scores = np.zeros(n)
    for indices, batch in _batches(model, pairs, token_budget):
        rows, found = rows_read(model, batch, held_points(model), edited_points(model))
        parts = contributions(model, rows, tanh, batch.attention_mask)
        scores[indices] = found.double().cpu().numpy()
        for name, part in parts.items():
            values[name][indices] = part.cpu().numpy()
        if progress is not None:
            progress(len(indices))
    split = DirectAttribution(**values, scores=scores, tanh=tanh)
    return DirectAttribution(**{**values, "remainder": scores - split.explained}, scores=scores, tanh=tanh)


def score_lens(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int], object] | None = None,
) -> Float[np.ndarray, "pair layer"]:
    """The score that pooler and classifier would give to CLS after each layer; the last layer's is the score.

    Raises:
        ValueError: no pairs.
    """
    names = [model.block(layer).stream_name("after") for layer in range(model.cfg.n_layers)]
    lens = np.zeros((len(pairs), len(names)))
    for indices, batch in _batches(model, pairs, token_budget):
        rows, _ = rows_read(model, batch, names)
        streams = [rows[name].unflatten(0, (len(batch), -1)) for name in names]
        with torch.no_grad():
            by_layer = [model.score_of(model.read_out(resid, batch.attention_mask)) for resid in streams]
        lens[indices] = torch.stack(by_layer, 1).double().cpu().numpy()
        if progress is not None:
            progress(len(indices))
    return lens


def _batches(
    model: HookedCrossEncoder, pairs: EncodedPairs | PairBatch, token_budget: int
) -> Iterator[tuple[np.ndarray, PairBatch]]:
    if len(pairs) == 0:
        raise ValueError("expected at least one pair to attribute, got none")
    if isinstance(pairs, PairBatch):
        yield np.arange(len(pairs)), pairs
        return
    for indices in length_batches(pairs.lengths, token_budget, in_order=model.hooked):
        yield indices, pairs.batch(indices)
