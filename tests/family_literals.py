"""Single layers written out in numpy, one head and one row at a time, from the weights as they lie on disk.

They share nothing with `family_oracle`: they are what it is checked by. A removal is its `Removal`; `parts` are names.
"""

import math

import numpy as np


def _gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _layer_norm(x, weight, bias=0.0, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def _turned(x, theta):
    """Rows of one head, each turned by its position: entries j and j + d/2 are the two coordinates of plane j."""
    half = x.shape[1] // 2
    result = np.zeros_like(x)
    for pos in range(len(x)):
        for j in range(half):
            angle = pos * theta ** (-2 * j / x.shape[1])
            a, b = x[pos, j], x[pos, j + half]
            result[pos, j] = a * math.cos(angle) - b * math.sin(angle)
            result[pos, j + half] = b * math.cos(angle) + a * math.sin(angle)
    return result


def _row_weights(scores, exists, parts, row, head, removals):
    """One row's weights: `scores` and `exists` of every column."""
    masked, zeroed = set(), set()
    for removal in removals:
        if parts[row] in removal.attenders and (removal.heads is None or head in removal.heads):
            (masked if removal.mode == "mask" else zeroed).update(removal.attended)
    columns = [c for c in range(len(scores)) if exists[c] and parts[c] not in masked]
    weights = np.zeros(len(scores))
    for c in columns:
        weights[c] = math.exp(scores[c]) / sum(math.exp(scores[other]) for other in columns)
    for c in range(len(scores)):
        if parts[c] in zeroed:
            weights[c] = 0.0
    return weights


def modernbert_layer(state, layer, x, parts, removals, *, n_heads, theta, half_window):
    """What leaves one ModernBERT layer, and its patterns `[head, pos, pos]`, from what enters it, `[pos, d_model]`."""
    at = f"model.layers.{layer}."
    d, n = x.shape[1], len(x)
    d_head = d // n_heads
    normed = x if layer == 0 else _layer_norm(x, state[f"{at}attn_norm.weight"])
    q, k, v = np.split(normed @ state[f"{at}attn.Wqkv.weight"].T, 3, axis=1)
    patterns, z = np.zeros((n_heads, n, n)), np.zeros((n, d))
    for head in range(n_heads):
        own = slice(head * d_head, (head + 1) * d_head)
        turned_q, turned_k = _turned(q[:, own], theta), _turned(k[:, own], theta)
        for row in range(n):
            scores = [float(turned_q[row] @ turned_k[c]) / math.sqrt(d_head) for c in range(n)]
            exists = [half_window is None or abs(row - c) <= half_window for c in range(n)]
            patterns[head, row] = _row_weights(scores, exists, parts, row, head, removals)
            z[row, own] = patterns[head, row] @ v[:, own]
    middle = x + z @ state[f"{at}attn.Wo.weight"].T
    inner, gate = np.split(
        _layer_norm(middle, state[f"{at}mlp_norm.weight"]) @ state[f"{at}mlp.Wi.weight"].T, 2, axis=1
    )
    return middle + (_gelu(inner) * gate) @ state[f"{at}mlp.Wo.weight"].T, patterns


def deberta_bucket(distance, n_buckets, n_positions):
    """The bucket of `attender position - attended position`: itself up to half, logarithmic beyond."""
    middle = n_buckets // 2
    if abs(distance) <= middle:
        return distance
    steps = math.log(abs(distance) / middle) / math.log((n_positions - 1) / middle) * (middle - 1)
    return int(math.copysign(math.ceil(steps) + middle, distance))


def deberta_layer(state, layer, x, parts, removals, *, n_heads, n_buckets, n_positions, eps=1e-7):
    """What leaves one DeBERTa-v2 layer with shared keys, and its patterns, as in `modernbert_layer`."""
    at = f"deberta.encoder.layer.{layer}."
    d, n = x.shape[1], len(x)
    d_head = d // n_heads

    def dense(name, rows):
        return rows @ state[f"{at}{name}.weight"].T + state[f"{at}{name}.bias"]

    def norm(name, rows):
        return _layer_norm(rows, state[f"{name}.weight"], state[f"{name}.bias"], eps)

    relative = norm("deberta.encoder.LayerNorm", state["deberta.encoder.rel_embeddings.weight"])
    q, k, v = (dense(f"attention.self.{kind}_proj", x) for kind in ("query", "key", "value"))
    relative_q, relative_k = (dense(f"attention.self.{kind}_proj", relative) for kind in ("query", "key"))
    patterns, z = np.zeros((n_heads, n, n)), np.zeros((n, d))
    for head in range(n_heads):
        own = slice(head * d_head, (head + 1) * d_head)
        for row in range(n):
            scores = []
            for c in range(n):
                at_distance = deberta_bucket(row - c, n_buckets, n_positions) + n_buckets
                at_distance = min(max(at_distance, 0), 2 * n_buckets - 1)
                content = q[row, own] @ k[c, own]
                to_position = q[row, own] @ relative_k[at_distance, own]
                from_position = relative_q[at_distance, own] @ k[c, own]
                scores.append(float(content + to_position + from_position) / math.sqrt(3 * d_head))
            patterns[head, row] = _row_weights(scores, [True] * n, parts, row, head, removals)
            z[row, own] = patterns[head, row] @ v[:, own]
    middle = norm(f"{at}attention.output.LayerNorm", x + dense("attention.output.dense", z))
    written = dense("output.dense", _gelu(dense("intermediate.dense", middle)))
    return norm(f"{at}output.LayerNorm", middle + written), patterns
