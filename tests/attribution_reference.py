"""The slow reference of direct attribution: one write, carried forward to the score."""

import torch


def replay(cache, model, write, at_layer, kind):
    """The score's part of one write at CLS: the vector is carried forward, LayerNorm by LayerNorm, to the pooler.

    Forward, where the code under test goes backward: centre, divide by the cached scale, multiply by the weight. The pooler's
    activation is the line through 0 and what it gave. `kind` is "embed" before the embeddings' norm, "project" after it.
    """

    def carry(vector, before, weight):
        scale = torch.sqrt(((before - before.mean()) ** 2).mean() + model.cfg.eps)
        return (vector - vector.mean()) / scale * weight

    stack, vector = model.stack, write
    if kind == "embed":
        names = ("embed.hook_embed", "embed.hook_pos_embed", "embed.hook_token_type_embed")
        before = sum(cache[name] for name in names if name in cache)
        vector, kind = carry(vector, before, model.embed.ln_weight), "project"
    if kind == "project":
        vector, kind = vector if model.embed.project is None else model.embed.project.weight @ vector, "attention"
    for layer in range(at_layer, model.cfg.n_layers):
        if kind == "attention":
            vector = carry(vector, cache[f"blocks.{layer}.hook_resid_mid"], stack.ln1_weight[layer])
        if kind in ("attention", "mlp"):
            vector = carry(vector, cache[f"blocks.{layer}.hook_resid_post"], stack.ln2_weight[layer])
        kind = "attention"
    if model.pooler is not None:
        vector = model.pooler.weight @ vector * (cache["pooler.hook_pooler_out"] / cache["pooler.hook_pre"])
    logits = model.classifier.weight @ vector
    return float(logits[0] if len(logits) == 1 else logits[1] - logits[0])
