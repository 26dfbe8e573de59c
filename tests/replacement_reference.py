"""A slow encoder for one pair whose every z, MLP output and attention output can be edited; nothing of the package is used."""

import math

import torch


def run(hf, row, edit=lambda kind, layer, value, pattern, v: value):
    """The score of one pair (tokens, types, parts), in float64.

    `edit(kind, layer, value, pattern, v)` is called for the kinds "z" `[pos, head, d_head]` (with the pattern
    `[head, pos, pos]` and the values `[pos, head, d_head]`), "attn" and "mlp" `[pos, d_model]`, and gives the value to go on with.
    """
    tokens, types, _ = row
    config, weights = hf.config, {name: weight.detach().double() for name, weight in hf.state_dict().items()}
    n, heads = len(tokens), config.num_attention_heads
    d_head = config.hidden_size // heads

    def dense(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        scale = ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True) + config.layer_norm_eps
        return (x - x.mean(-1, keepdim=True)) / scale.sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    names = ("word", "position", "token_type")
    tables = [weights[f"bert.embeddings.{name}_embeddings.weight"] for name in names]
    x = torch.stack(
        [tables[0][t] + tables[1][i] + tables[2][s] for i, (t, s) in enumerate(zip(tokens, types, strict=True))]
    )
    x = norm("bert.embeddings.LayerNorm", x)
    for layer in range(config.num_hidden_layers):
        base = f"bert.encoder.layer.{layer}"
        q, k, v = (
            dense(f"{base}.attention.self.{name}", x).view(n, heads, d_head) for name in ("query", "key", "value")
        )
        pattern = torch.zeros(heads, n, n, dtype=torch.float64)
        z = torch.zeros(n, heads, d_head, dtype=torch.float64)
        for head in range(heads):
            pattern[head] = torch.softmax(q[:, head] @ k[:, head].T / math.sqrt(d_head), -1)
            z[:, head] = pattern[head] @ v[:, head]
        z = edit("z", layer, z, pattern, v)
        attn = edit("attn", layer, dense(f"{base}.attention.output.dense", z.reshape(n, -1)), pattern, v)
        middle = norm(f"{base}.attention.output.LayerNorm", x + attn)
        pre = dense(f"{base}.intermediate.dense", middle)
        mlp = dense(f"{base}.output.dense", 0.5 * pre * (1 + torch.erf(pre / math.sqrt(2))))
        x = norm(f"{base}.output.LayerNorm", middle + edit("mlp", layer, mlp, pattern, v))
    logits = dense("classifier", torch.tanh(dense("bert.pooler.dense", x[0])))
    return float(logits[0] if len(logits) == 1 else logits[1] - logits[0])


PARTS = {"CLS": 0, "QUERY": 1, "SEP1": 2, "DOC": 3, "SEP2": 4}


class Site:
    """A target's activation in the slow encoder, read or written: kind, layer, head, (attender, attended) names or None."""

    def __init__(self, kind, layer, head=None, attender=None, attended=None):
        self.kind, self.layer, self.head = kind, layer, head
        self.attender, self.attended = attender, attended
        self.point = kind if kind in ("mlp", "attn") else "z"

    def rows(self, parts):
        """The positions whose activation is replaced."""
        return [p for p, part in enumerate(parts) if self.attender in (None, "ALL") or part == PARTS[self.attender]]

    def get(self, value, pattern, v, parts):
        """`[pos, d]`."""
        if self.kind in ("mlp", "attn"):
            return value.clone()
        if self.kind == "head":
            return value[:, self.head].clone()
        read = torch.zeros_like(value[:, 0])
        for row in range(len(parts)):
            for column, part in enumerate(parts):
                if self.attended == "ALL" or part == PARTS[self.attended]:
                    read[row] += pattern[self.head, row, column] * v[column, self.head]
        return read

    def put(self, value, new, pattern, v, parts):
        """The value with `new` `[pos, d]` at the rows in place of the activation."""
        old, after = self.get(value, pattern, v, parts), value.clone()
        for row in self.rows(parts):
            if self.kind in ("mlp", "attn"):
                after[row] = new[row]
            else:
                after[row, self.head] = after[row, self.head] - old[row] + new[row]
        return after


def activation(hf, row, site):
    """The site's activation of one pair, unedited."""
    found = []

    def edit(kind, layer, value, pattern, v):
        if kind == site.point and layer == site.layer:
            found.append(site.get(value, pattern, v, row[2]))
        return value

    run(hf, row, edit)
    return found[0]


def replaced_score(hf, row, site, new):
    """The score of one pair with `new` `[pos, d]` in place of the site's activation."""

    def edit(kind, layer, value, pattern, v):
        if kind == site.point and layer == site.layer:
            return site.put(value, new, pattern, v, row[2])
        return value

    return run(hf, row, edit)


def part_means(hf, rows, site):
    """part -> the mean activation over all positions of that part in all rows."""
    held = {}
    for row in rows:
        found = activation(hf, row, site)
        for position, part in enumerate(row[2]):
            held.setdefault(part, []).append(found[position])
    return {part: torch.stack(vectors).mean(0) for part, vectors in held.items()}


def resampled(hf, row, donor, site):
    """`[pos, d]`: at the j-th position of a part the donor's j-th of that part, from the first again where it has fewer."""
    theirs, new, seen = activation(hf, donor, site), [], {}
    for part in row[2]:
        places = [i for i, other in enumerate(donor[2]) if other == part]
        new.append(theirs[places[seen.get(part, 0) % len(places)]])
        seen[part] = seen.get(part, 0) + 1
    return torch.stack(new)
