"""A slow literal information bottleneck: a pair at a time, without padding, a hook on the whole model, Adam by its formula."""

import hashlib
import math

import numpy as np
import torch
from torch.distributions import Normal, kl_divergence

LN2 = math.log(2)


def rows_of(pairs):
    """Each pair alone, as a batch of one without padding."""
    return [pairs.batch([i]) for i in range(len(pairs))]


def after(model, layer):
    """The hook point of the stream after a layer."""
    return model.block(layer).stream_name("after")


def streams(model, pairs, layer):
    """`[pos, d_model]` of each pair after a layer, float64."""
    found = []
    for row in rows_of(pairs):
        with torch.no_grad():
            _, cache = model.run_with_cache(row, names_filter=after(model, layer))
        found.append(cache[after(model, layer)][0].double())
    return found


def moments(model, pairs, layer, part=None):
    """(mean, sd) `[d_model]` over all tokens of the pairs, or over those of a part."""
    kept = [
        stream if part is None else stream[row.parts.codes[0] == part]
        for stream, row in zip(streams(model, pairs, layer), rows_of(pairs), strict=True)
    ]
    return torch.cat(kept).mean(0), torch.cat(kept).std(0)


def scores_of(model, pairs):
    """The model's own scores, `[pair]`."""
    with torch.no_grad():
        return np.array([float(model(row)[0]) for row in rows_of(pairs)])


def generator(tokens, layer, seed):
    """The noise of a pair at a layer."""
    digest = hashlib.sha256(np.asarray(tokens, np.int64).tobytes()).digest()
    material = seed.to_bytes(8, "little", signed=True) + layer.to_bytes(8, "little") + digest
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(material).digest()[:8], "little") // 2)


def fit(model, row, layer, mean, sd, score_sd, *, objective, beta, steps, lr, alpha0, copies, seed, label=None):
    """(bits `[pos]`, scores under the last mask `[copy]`) of one pair; `mean` and `sd` are `[pos, d_model]`.

    `label`: the one logit that is the score, of several; None where it is their difference, or the only one.
    """
    tokens = row.tokens[0].numpy()
    stream, noise = None, generator(tokens, layer, seed)
    many = row[[0] * copies]

    def keep_stream(value, hook):
        nonlocal stream
        stream = value[0].detach()

    with torch.no_grad():
        own = float(model.run_with_hooks(row, fwd_hooks=[(after(model, layer), keep_stream)])[0])

    def run(alpha):
        share = 1 / (1 + torch.exp(-alpha))
        eps = mean + sd * torch.randn(copies, *stream.shape, generator=noise).to(stream.dtype)
        z = share * stream + (1 - share) * eps
        with model.hooks(fwd_hooks=[(after(model, layer), lambda value, hook: z)]):
            return model(many, return_type="logits")

    def score(logits):
        if logits.shape[1] == 1 or label is not None:
            return logits[:, label or 0]
        return logits[:, 1] - logits[:, 0]

    def information(alpha):
        share = 1 / (1 + torch.exp(-alpha))
        return kl_divergence(
            Normal(share * (stream - mean) / sd, 1 - share), Normal(torch.zeros_like(sd), torch.ones_like(sd))
        )

    alpha = torch.full_like(stream, alpha0)
    m, v = torch.zeros_like(alpha), torch.zeros_like(alpha)
    for step in range(1, steps + 1):
        alpha = alpha.detach().requires_grad_()
        logits = run(alpha)
        if objective == "keep":
            task = (((score(logits) - own) / score_sd) ** 2).mean()
        else:
            both = torch.stack([torch.zeros_like(logits[:, 0]), logits[:, 0]], 1) if logits.shape[1] == 1 else logits
            task = -torch.log(torch.softmax(both, 1)[:, 1 if label is None else label]).mean()
        (task + beta * information(alpha).mean()).backward()
        g = alpha.grad
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        alpha = alpha.detach() - lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    with torch.no_grad():
        return information(alpha).sum(1) / LN2, score(run(alpha))
