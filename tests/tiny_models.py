"""Tiny seeded BERT classifiers and padded batches of pairs, whose sizes are distinct so that a swapped axis cannot pass."""

import numpy as np
import oracles
import torch
from transformers import BertConfig, BertForSequenceClassification

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.porting import config_from_checkpoint, port_weights

N_LAYERS, N_HEADS, D_HEAD, D_MODEL, D_MLP, D_VOCAB, N_CTX = 3, 3, 7, 21, 53, 97, 31
SIDES = {"CLS": (0,), "QUERY": (1,), "SEP1": (2,), "DOC": (3,), "SEP2": (4,), "ALL": (0, 1, 2, 3, 4)}
SIZES = ((3, 5), (2, 8), (1, 1), (4, 0))  # query and passage tokens of each pair: 11, 13, 5 and 7 positions
PAD = 5


def tiny_hf(n_labels=2, seed=0, **changes):
    """A Hugging Face BERT classifier in float32, in eval mode, with every weight and bias random."""
    sizes = {
        "vocab_size": D_VOCAB,
        "hidden_size": D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "intermediate_size": D_MLP,
        "max_position_embeddings": N_CTX,
        "num_labels": n_labels,
    }
    config = BertConfig(**{**sizes, **changes}, attn_implementation="eager")
    model = BertForSequenceClassification(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator) * 0.3
            weight.copy_(1 + noise if "LayerNorm.weight" in name else noise)
    return model


def port(hf, dtype=torch.float64, score=None):
    """The hooked cross-encoder with the weights of `hf`."""
    checkpoint = Checkpoint("tiny", "sha256:0", hf.config.to_dict(), lambda: iter(hf.state_dict().items()), None, None)
    model = HookedCrossEncoder(config_from_checkpoint(checkpoint, dtype, score))
    port_weights(model, checkpoint)
    return model.eval()


def tiny_rows(sizes=SIZES, seed=0, vocabulary=D_VOCAB):
    """Unpadded pairs as (tokens, types, parts), plain lists."""
    rng = np.random.default_rng(seed)
    rows = []
    for query, passage in sizes:
        tokens = rng.integers(5, vocabulary, size=query + passage + 3).tolist()
        tokens[0], tokens[query + 1], tokens[-1] = 2, 3, 3
        types = [0] * (query + 2) + [1] * (passage + 1)
        parts = [0] + [1] * query + [2] + [3] * passage + [4]
        rows.append((tokens, types, parts))
    return rows


def to_batch(rows):
    """One padded batch of the rows; the padding's tokens and types are not 0, since nothing may read them."""
    width = max(len(tokens) for tokens, _, _ in rows)
    columns = ([], [], [], [])
    for tokens, types, parts in rows:
        gap = width - len(tokens)
        filled = (tokens + [7] * gap, types + [1] * gap, [1] * len(tokens) + [0] * gap, parts + [PAD] * gap)
        for column, values in zip(columns, filled, strict=True):
            column.append(values)
    tokens, types, mask, parts = (torch.tensor(column) for column in columns)
    return PairBatch(tokens, types, mask.bool(), PartMasks(parts.to(torch.int8)))


def run_oracle(hf, rows, ablations=()):
    """One `oracles.Trace` a pair."""
    state = {name: weight.detach().double().numpy() for name, weight in hf.state_dict().items()}
    config = hf.config.to_dict()
    return [oracles.cross_encoder(state, config, *row, ablations) for row in rows]


def run_hf(hf, batch):
    """Hugging Face's own logits, hidden states and patterns of a padded batch."""
    with torch.no_grad():
        return hf(
            batch.tokens,
            token_type_ids=batch.token_type_ids,
            attention_mask=batch.attention_mask.long(),
            output_hidden_states=True,
            output_attentions=True,
        )


def no_op(activation, hook):
    """A hook that changes nothing, and by being there has the activation computed in the open."""
    return None


def explicit(layers=range(N_LAYERS)):
    """Hooks that force patterns to be built in `layers`."""
    return [(f"blocks.{layer}.attn.hook_pattern", no_op) for layer in layers]


def encoded(rows):
    """Rows as unpadded pairs."""
    columns = [np.concatenate([row[i] for row in rows]) for i in range(3)]
    offsets = np.cumsum([0, *(len(row[0]) for row in rows)])
    return EncodedPairs(*columns, offsets, np.zeros(len(rows), dtype=bool), 7)
