"""Direct attribution: the score as a sum of what every component writes to CLS, and the score that each layer would give.

**Formula.** With x the CLS position after the last layer, P and p the pooler, w and c the classifier (of two logits, the
difference of their rows):

    u = P x + p,    score = w . tanh(u) + c

A BERT layer is post-LN: x_mid = LN1(x + heads + b_O), x' = LN2(x_mid + MLP(x_mid)), LN(y) = weight * (y - mean y) / scale + bias.
With every scale held at the value that it has in this run, each LN is linear in y but for its bias, so x is a sum of the
writes of all heads, MLPs and the embeddings to CLS, each carried through the LNs after it, and of the biases. The tanh is made
linear elementwise, tanh(u) = s * u + r:

- `secant` (the default): s = tanh(u) / u, the slope of the line through 0, so r = 0 and the contributions sum to the score.
- `tangent`: s = 1 - tanh(u)^2, the slope at the point, which is what the gradient sees. A saturated unit has slope 0 and
  all of its w . r goes to the remainder.

A write of vector y at CLS is worth g . y, g being w * s carried back through the pooler and the later LNs. After Elhage et al.
2021 (A Mathematical Framework for Transformer Circuits), for a post-LN encoder; the lens after nostalgebraist 2020.

**Notation.** head: z W_O of one head, its values' bias included; attn_bias: b_O; mlp: the MLP's output, its bias included; embed:
the sum of the three embeddings; ln_bias: the LN biases, the embeddings' at layer -1 and both of a layer at that layer; readout:
pooler and classifier bias; remainder: score minus all of these (rounding, and the tanh's r under `tangent`).

**Limits.** Direct only: what a head writes to DOC, which a later head brings to CLS, is counted as the later head's. A scale
depends on all writes; holding it, as here, shares its effect among them in proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.pairs import EncodedPairs, PairBatch

Tanh = Literal["secant", "tangent"]
TANH: tuple[Tanh, ...] = get_args(Tanh)
COMPONENTS = ("head", "attn_bias", "mlp", "embed", "ln_bias", "readout", "remainder")
_EMBEDDINGS = ("embed.hook_embed", "embed.hook_pos_embed", "embed.hook_token_type_embed")


@dataclass(frozen=True)
class DirectAttribution:
    """What every component adds to the score of every pair, in score units.

    Attributes:
        head: `[pair, layer, head]`.
        attn_bias: `[pair, layer]`.
        mlp: `[pair, layer]`.
        embed: `[pair]`.
        ln_bias: `[pair, layer + 1]`, the embeddings' LayerNorm first.
        readout: `[pair]`, pooler and classifier bias.
        remainder: `[pair]`, the score minus all of the above.
        scores: `[pair]`, the model's own.
        tanh: how the tanh was made linear.
    """

    head: Float[np.ndarray, "pair layer head"]
    attn_bias: Float[np.ndarray, "pair layer"]
    mlp: Float[np.ndarray, "pair layer"]
    embed: Float[np.ndarray, "pair"]
    ln_bias: Float[np.ndarray, "pair layers_and_embed"]
    readout: Float[np.ndarray, "pair"]
    remainder: Float[np.ndarray, "pair"]
    scores: Float[np.ndarray, "pair"]
    tanh: str

    @property
    def explained(self) -> Float[np.ndarray, "pair"]:
        """The sum of all components but the remainder."""
        layers = self.head.sum((1, 2)) + self.attn_bias.sum(1) + self.mlp.sum(1) + self.ln_bias.sum(1)
        return layers + self.embed + self.readout

    def to_frame(self) -> pd.DataFrame:
        """A row a (pair, component): `pair`, `component`, `layer`, `head`, `contribution`; a pair's rows sum to its score.

        `layer` and `head` are missing where a component has none; the embeddings' LayerNorm has layer -1.
        """
        tables = []
        for name in COMPONENTS:
            values = getattr(self, name)
            index = np.indices(values.shape).reshape(values.ndim, -1)
            table = pd.DataFrame({"pair": index[0], "component": name})
            table["layer"] = pd.array(
                [pd.NA] * values.size if values.ndim == 1 else index[1] - int(name == "ln_bias"), dtype="Int64"
            )
            table["head"] = pd.array([pd.NA] * values.size if values.ndim < 3 else index[2], dtype="Int64")
            table["contribution"] = values.ravel()
            tables.append(table)
        return pd.concat(tables, ignore_index=True).sort_values("pair", kind="stable", ignore_index=True)

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


def direct_attribution(
    model: HookedCrossEncoder,
    pairs: EncodedPairs | PairBatch,
    *,
    tanh: Tanh | str = "secant",
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int], object] | None = None,
) -> DirectAttribution:
    """Split the score of every pair into what each component writes to CLS, whatever `model.ablating` removes at the moment.

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
    if tanh not in TANH:
        raise ValueError(f"expected a tanh among {', '.join(TANH)}, got {tanh!r}")
    L, H, n = model.cfg.n_layers, model.cfg.n_heads, len(pairs)
    shapes = {"head": (n, L, H), "attn_bias": (n, L), "mlp": (n, L), "ln_bias": (n, L + 1)}
    shapes |= dict.fromkeys(("embed", "readout", "remainder"), (n,))
    values = {name: np.zeros(shape) for name, shape in shapes.items()}
    scores = np.zeros(n)
    for indices, batch in _batches(model, pairs, token_budget):
        rows, found = _cls_rows(model, batch, _writes(L))
        parts = _contributions(model, rows, tanh)
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
    names = [f"blocks.{layer}.hook_normalized_resid_post" for layer in range(model.cfg.n_layers)]
    lens = np.zeros((len(pairs), len(names)))
    for indices, batch in _batches(model, pairs, token_budget):
        rows, _ = _cls_rows(model, batch, names)
        with torch.no_grad():
            by_layer = [model.score_of(model.run_head(rows[name][:, None])) for name in names]
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


def _writes(n_layers: int) -> list[str]:
    points = ("attn.hook_z", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")
    by_layer = [f"blocks.{layer}.{point}" for layer in range(n_layers) for point in points]
    return [*_EMBEDDINGS, *by_layer, "pooler.hook_pre"]


def _cls_rows(model: HookedCrossEncoder, batch: PairBatch, names: list[str]) -> tuple[dict[str, Tensor], Tensor]:
    """What the named hook points hold at CLS, `[pair, ...]`, and the scores `[pair]`."""
    rows: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: object) -> None:
        name = str(getattr(hook, "name", ""))
        rows[name] = (activation if name == "pooler.hook_pre" else activation[:, 0]).detach().clone()

    with torch.no_grad():
        scores = model.run_with_hooks(batch, fwd_hooks=[(name, keep) for name in names])
    return rows, scores


def _contributions(model: HookedCrossEncoder, rows: dict[str, Tensor], tanh: str) -> dict[str, Tensor]:
    """Every component's contributions of one batch; from the score back to the embeddings."""
    stack, embed = model.stack, model.embed
    kept = {name: row.double() for name, row in rows.items()}
    u = kept["pooler.hook_pre"]
    readout = model.classifier.weight.detach().double()
    w = model.score_of(readout.T)
    slope = _slope(u, tanh)
    g = (w * slope) @ model.pooler.weight.detach().double()
    bias = model.score_of(model.classifier.bias.detach().double()[None])
    parts: dict[str, list[Tensor]] = {"head": [], "attn_bias": [], "mlp": [], "ln_bias": []}
    W_O, b_O = model.W_O.double(), model.b_O.double()
    for layer in reversed(range(model.cfg.n_layers)):
        at = f"blocks.{layer}."
        ln_bias = g @ stack.ln2_bias[layer].detach().double()
        g = _back(g, kept[f"{at}hook_resid_post"], stack.ln2_weight[layer], model.cfg.eps)
        parts["mlp"].append((g * kept[f"{at}hook_mlp_out"]).sum(-1))
        ln_bias = ln_bias + g @ stack.ln1_bias[layer].detach().double()
        g = _back(g, kept[f"{at}hook_resid_mid"], stack.ln1_weight[layer], model.cfg.eps)
        parts["head"].append(torch.einsum("bhe,hed,bd->bh", kept[f"{at}attn.hook_z"], W_O[layer], g))
        parts["attn_bias"].append(g @ b_O[layer])
        parts["ln_bias"].append(ln_bias)
    parts["ln_bias"].append(g @ embed.ln_bias.detach().double())
    embeddings = sum((kept[name] for name in _EMBEDDINGS), torch.zeros((), dtype=torch.float64, device=g.device))
    g = _back(g, embeddings, embed.ln_weight, model.cfg.eps)
    return {
        **{name: torch.stack(values[::-1], 1) for name, values in parts.items()},
        "embed": (g * embeddings).sum(-1),
        "readout": (w * slope) @ model.pooler.bias.detach().double() + bias,
    }


def _slope(u: Tensor, tanh: str) -> Tensor:
    """s of tanh(u) = s u + r."""
    if tanh == "tangent":
        return 1 - u.tanh().square()
    tiny = u.abs() < 1e-9
    return torch.where(tiny, torch.ones_like(u), u.tanh() / u.masked_fill(tiny, 1.0))


def _back(g: Tensor, before: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What is worth g after a LayerNorm, before it: centring is its own transpose, the scale is that of `before`."""
    scale = (before.var(-1, correction=0, keepdim=True) + eps).sqrt()
    weighted = g * weight.detach().double()
    return (weighted - weighted.mean(-1, keepdim=True)) / scale
