"""Slow, obvious references. Nothing here imports the package or torch.

`cross_encoder` is a BERT sequence classifier in float64, one pair at a time without padding, one head and one row at a time,
straight from a Hugging Face state dict as numpy arrays. A direction ablation is plain data,

    (mode, attender parts, attended parts, layers, heads)

with mode "zero" or "mask", parts as codes (CLS 0, QUERY 1, SEP1 2, DOC 3, SEP2 4), and None for all layers or all heads:

- "mask" takes the attended columns out of the softmax of the attender's row; a row with no column left is all zeros;
- "zero" sets weights to 0 after the softmax and leaves the others as they are.
"""

import math
from dataclasses import dataclass

import numpy as np

N_PARTS = 5


@dataclass
class Trace:
    """One pair's forward pass; `pos` counts real tokens only."""

    logits: np.ndarray  # [label]
    hidden: list[np.ndarray]  # layers + 1 arrays [pos, d_model]
    patterns: list[np.ndarray]  # a layer: [head, attender pos, attended pos]
    z: list[np.ndarray]  # a layer: [pos, head, d_head]

    @property
    def score(self):
        return self.logits[0] if len(self.logits) == 1 else self.logits[1] - self.logits[0]

    def masses(self, parts):
        """A layer: [pos, head, part], the sum of a row's weights over the columns of each part."""
        totals = []
        for pattern in self.patterns:
            total = np.zeros((pattern.shape[1], pattern.shape[0], N_PARTS))
            for head in range(pattern.shape[0]):
                for row in range(pattern.shape[1]):
                    for column in range(pattern.shape[2]):
                        total[row, head, parts[column]] += pattern[head, row, column]
            totals.append(total)
        return totals


def _activation(name):
    if name == "relu":
        return lambda x: x * (x > 0)
    if name == "gelu_new":
        return lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    erf = np.vectorize(math.erf)
    return lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))


def _layer_norm(x, weight, bias, eps):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def _dense(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _concerns(ablation, layer, head, attender_part):
    _, attenders, _, layers, heads = ablation
    return (layers is None or layer in layers) and (heads is None or head in heads) and attender_part in attenders


def attention_row(scores, parts, attender_part, ablations, layer, head):
    """The weights of one row from its scores, `[attended pos]`."""
    masked, zeroed = set(), set()
    for ablation in ablations:
        if _concerns(ablation, layer, head, attender_part):
            (masked if ablation[0] == "mask" else zeroed).update(ablation[2])
    open_columns = [c for c in range(len(scores)) if parts[c] not in masked]
    weights = np.zeros(len(scores))
    if open_columns:
        largest = max(scores[c] for c in open_columns)
        total = sum(math.exp(scores[c] - largest) for c in open_columns)
        for c in open_columns:
            weights[c] = math.exp(scores[c] - largest) / total
    for c in range(len(scores)):
        if parts[c] in zeroed:
            weights[c] = 0.0
    return weights


def cross_encoder(state, config, tokens, types, parts, ablations=()):
    """The forward pass of one pair, given as three lists of equal length.

    Args:
        state: Hugging Face names -> float64 arrays.
        config: a dict with Hugging Face's names of the sizes.
        tokens, types, parts: one entry a real token.
        ablations: see the module's docstring.
    """
    n, heads = len(tokens), config["num_attention_heads"]
    d_head = config["hidden_size"] // heads
    eps = config["layer_norm_eps"]
    activation = _activation(config["hidden_act"])

    x = np.stack(
        [
            state["bert.embeddings.word_embeddings.weight"][tokens[pos]]
            + state["bert.embeddings.position_embeddings.weight"][pos]
            + state["bert.embeddings.token_type_embeddings.weight"][types[pos]]
            for pos in range(n)
        ]
    )
    norm = "bert.embeddings.LayerNorm"
    x = _layer_norm(x, state[f"{norm}.weight"], state[f"{norm}.bias"], eps)
    hidden, patterns, all_z = [x], [], []

    for layer in range(config["num_hidden_layers"]):
        base = f"bert.encoder.layer.{layer}"
        q, k, v = (_dense(state, f"{base}.attention.self.{kind}", x) for kind in ("query", "key", "value"))
        pattern, z = np.zeros((heads, n, n)), np.zeros((n, heads, d_head))
        for head in range(heads):
            own = slice(head * d_head, (head + 1) * d_head)
            for row in range(n):
                scores = [float(q[row, own] @ k[column, own]) / math.sqrt(d_head) for column in range(n)]
                pattern[head, row] = attention_row(scores, parts, parts[row], ablations, layer, head)
                for column in range(n):
                    z[row, head] += pattern[head, row, column] * v[column, own]
        attended = _dense(state, f"{base}.attention.output.dense", z.reshape(n, heads * d_head))
        norm = f"{base}.attention.output.LayerNorm"
        middle = _layer_norm(x + attended, state[f"{norm}.weight"], state[f"{norm}.bias"], eps)
        written = _dense(state, f"{base}.output.dense", activation(_dense(state, f"{base}.intermediate.dense", middle)))
        norm = f"{base}.output.LayerNorm"
        x = _layer_norm(middle + written, state[f"{norm}.weight"], state[f"{norm}.bias"], eps)
        hidden.append(x)
        patterns.append(pattern)
        all_z.append(z)

    pooled = np.tanh(_dense(state, "bert.pooler.dense", x[0]))
    return Trace(_dense(state, "classifier", pooled), hidden, patterns, all_z)
