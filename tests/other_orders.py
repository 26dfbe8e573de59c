"""An encoder of another order than BERT's, in the tests alone: pre-LN layers, a final norm, a head over the mean of all rows.

`PlainModel` has the weights of a BERT checkpoint; `plain_score` computes the same for one unpadded pair, row by row.
"""

import math

import torch
from tiny_models import tiny_hf
from torch import nn

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.model.activations import GELU
from tl_crossenc.model.attention_layer import Attention
from tl_crossenc.model.block import Block
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.head import BertPooler, Head
from tl_crossenc.model.held_run import HeadWorth, LayerWorth
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint
from tl_crossenc.model.mlp import MLP
from tl_crossenc.model.norms import LayerNorm
from tl_crossenc.model.porting import config_from_checkpoint, port_weights


class PreLN(Block):
    """`mid = x + heads(LN1(x))`, `after = post = mid + MLP(LN2(mid))`."""

    STREAM = {"pre": "hook_resid_pre", "mid": "hook_resid_mid", "post": "hook_resid_post", "after": "hook_resid_post"}  # noqa: RUF012
    HELD = ()
    EDITABLE = ("hook_resid_mid", "hook_resid_post")
    WRITES_ADD_UP = True

    def __init__(self, cfg, stack, layer):
        super().__init__(stack, layer)
        self.cfg = cfg
        self.hook_resid_pre = SharedHookPoint()
        self.ln1, self.ln2 = LayerNorm(cfg.eps), LayerNorm(cfg.eps)
        self.attn, self.mlp = Attention(cfg, stack, layer), MLP(cfg, stack, layer)
        for name in ("hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post"):
            setattr(self, name, HookPoint())

    def read(self, resid):
        return self.ln1(resid, self.stack.ln1_weight[self.layer], self.stack.ln1_bias[self.layer])

    def resume(self, stage, resid, mlp_out=None):
        if stage == "post":
            return resid
        normalized = self.ln2(resid, self.stack.ln2_weight[self.layer], self.stack.ln2_bias[self.layer])
        return self.hook_resid_post(resid + (self.hook_mlp_out(self.mlp(normalized)) if mlp_out is None else mlp_out))

    def carry_back(self, held, g):
        edit = held.edit(g, self.name_of("hook_resid_post")) + held.edit(g, self.name_of("hook_resid_mid"))
        return LayerWorth(g, g, g, torch.zeros_like(edit), edit)


class GeluPooler(BertPooler):
    activation = GELU


def share_of(mask, dtype):
    """The weight of each position in the mean of a pair's real ones."""
    return mask.to(dtype) / mask.sum(1, keepdim=True)


class MeanHead(Head):
    """Final norm, mean of the real rows, dense, GELU, norm, linear."""

    reads_only_first_row = False

    def __init__(self, model):
        super().__init__(model.pooler, model.classifier, model.cfg.score, (model.norm_weight, model.norm_bias))
        self.norms = model.final, model.last, model.norm_weight, model.norm_bias
        self.stream = model.block(model.cfg.n_layers - 1).stream_name("after")
        self.HELD = ("pooler.hook_pre", "pooler.hook_pooler_out", self.stream)

    def logits(self, resid, attention_mask=None):
        final, last, weight, bias = self.norms
        share = share_of(attention_mask, resid.dtype)
        mean = (final(resid, weight, bias) * share[..., None]).sum(1, keepdim=True)
        return self.classifier(last(self.pooler(mean), weight, bias))

    def pooled_sizes(self):
        return torch.hypot(*self.norm)

    def carry_back(self, held, way, attention_mask=None):
        final, last, weight, bias = self.norms
        w = self._score(self.classifier.weight.detach().double().T)
        pre, out = held["pooler.hook_pre"], held["pooler.hook_pooler_out"]
        g, _ = last.carry_back(held, "last", w.expand_as(out), out, weight)
        bent = g * self.pooler.activation.slope(pre, way)
        share = share_of(attention_mask, torch.float64)
        rows = (bent @ self.pooler.weight.detach().double())[:, None] * share[..., None]
        constant = self._score(self.classifier.bias.detach().double()[None]) + w @ bias.double()
        constant = constant + bent @ self.pooler.bias.detach().double() + rows.sum(1) @ bias.double()
        g, _ = final.carry_back(held, "final", rows.flatten(0, 1), held[self.stream], weight)
        return HeadWorth(g.unflatten(0, share.shape), constant)


class PlainModel(HookedCrossEncoder):
    """BERT's embeddings, pre-LN layers, and `MeanHead`."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.blocks = nn.ModuleList(PreLN(cfg, self.stack, layer) for layer in range(cfg.n_layers))
        self.pooler = GeluPooler(cfg)
        self.final, self.last = LayerNorm(cfg.eps), LayerNorm(cfg.eps)
        self.norm_weight = torch.linspace(0.5, 1.7, cfg.d_model, dtype=cfg.dtype)
        self.norm_bias = torch.linspace(-0.4, 0.3, cfg.d_model, dtype=cfg.dtype)
        self.setup()

    @property
    def head(self):
        return MeanHead(self)


def plain_model(n_labels=2, seed=0, dtype=torch.float64):
    """A tiny `PlainModel` with random weights."""
    hf = tiny_hf(n_labels, seed)
    checkpoint = Checkpoint("tiny", "sha256:0", hf.config.to_dict(), lambda: iter(hf.state_dict().items()), None, None)
    model = PlainModel(config_from_checkpoint(checkpoint, dtype))
    port_weights(model, checkpoint)
    return model.eval()


def norm(x, weight, bias, eps):
    """LayerNorm of one vector, written out."""
    centred = x - x.sum() / len(x)
    return centred / torch.sqrt((centred**2).sum() / len(x) + eps) * weight + bias


def plain_score(model, tokens, types, removed=lambda layer, head, row, column: False):
    """The score of one unpadded pair, with the attention weights at `removed` set to 0."""
    s, embed, eps, pooler = model.stack, model.embed, model.cfg.eps, model.pooler
    xs = [
        norm(embed.W_E[t] + embed.W_pos[i] + embed.W_token_type[k], embed.ln_weight, embed.ln_bias, eps)
        for i, (t, k) in enumerate(zip(tokens, types, strict=True))
    ]
    for layer in range(model.cfg.n_layers):
        read = [norm(x, s.ln1_weight[layer], s.ln1_bias[layer], eps) for x in xs]
        mids = [x + s.out_bias[layer] for x in xs]
        for head in range(model.cfg.n_heads):
            q, k, v = (
                [r @ W[layer, head] + b[layer, head] for r in read]
                for W, b in ((model.W_Q, model.b_Q), (model.W_K, model.b_K), (model.W_V, model.b_V))
            )
            for row in range(len(xs)):
                exps = [math.exp(float(q[row] @ key) / model.cfg.d_head**0.5) for key in k]
                for column, value in enumerate(v):
                    if not removed(layer, head, row, column):
                        mids[row] = mids[row] + exps[column] / sum(exps) * value @ model.W_O[layer, head]
        xs = []
        for mid in mids:
            pre = norm(mid, s.ln2_weight[layer], s.ln2_bias[layer], eps) @ model.W_in[layer] + model.b_in[layer]
            post = 0.5 * pre * (1 + torch.erf(pre / 2**0.5))
            xs.append(mid + post @ model.W_out[layer] + model.b_out[layer])
    mean = sum(norm(x, model.norm_weight, model.norm_bias, eps) for x in xs) / len(xs)
    pre = pooler.weight @ mean + pooler.bias
    out = norm(0.5 * pre * (1 + torch.erf(pre / 2**0.5)), model.norm_weight, model.norm_bias, eps)
    logits = model.classifier.weight @ out + model.classifier.bias
    return float(logits[0] if len(logits) == 1 else logits[1] - logits[0])
