"""The probe of Zhan et al. 2020 for the relevance of a pair, on the states of single tokens.

    logits of a token    dropout .1 → Linear(d, d) → tanh → dropout .1 → Linear(d, 2)
    logits of a pair     their elementwise maximum over the pair's tokens
    trained by           cross-entropy of the softmax; AdamW, learning rate 1e-4 falling linearly to 0, weight decay 1e-5,
                         batches of 32 pairs, 5 epochs, gradients clipped to the norm 1

Two things differ from their code (jingtaozhan/bert-ranking-analysis, probing/), where batches are padded with zero vectors that
take part in the maximum, so that a result depends on the batch, and where a pair without a token is scored from padding. Here a
pair's logits are those of its own tokens, and a pair without a token cannot be given.

They train on two passages of each of many thousands of queries. On a pool of some hundred pairs five epochs are few: more may be
asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class TokenProbeSettings:
    """How the probe is trained; the defaults are the paper's.

    Raises:
        ValueError: a number that allows no training.
    """

    dropout: float = 0.1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    batch: int = 32
    epochs: int = 5
    clip: float = 1.0

    def __post_init__(self) -> None:
        if min(self.batch, self.epochs) < 1 or not 0 <= self.dropout < 1 or min(self.learning_rate, self.clip) <= 0:
            raise ValueError(f"expected positive numbers and a dropout below 1 to train a probe with, got {self}")


class TokenProbe(nn.Module):
    """The probe; see the module.

    Args:
        width: of the states.
        dropout: share of entries dropped in training.
    """

    def __init__(self, width: int, dropout: float = 0.1):
        super().__init__()
        self.inner, self.last = nn.Linear(width, width), nn.Linear(width, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Float[Tensor, "token width"], lengths: Int[Tensor, "pair"]) -> Float[Tensor, "pair 2"]:
        """Logits (other, relevant) of pairs whose tokens lie end to end, `lengths` of each and none 0."""
        of_tokens = self.last(self.dropout(torch.tanh(self.inner(self.dropout(states)))))
        pair = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        lowest = of_tokens.new_full((len(lengths), 2), -torch.inf)
        return lowest.scatter_reduce(0, pair[:, None].expand(-1, 2), of_tokens, "amax")


def fit_token_probe(
    states: Float[np.ndarray, "token width"],
    offsets: Int[np.ndarray, "pairs_and_one"],
    labels: Int[np.ndarray, "pair"],
    settings: TokenProbeSettings | None = None,
    *,
    seed: int = 0,
) -> TokenProbe:
    """A probe trained on the CPU on pairs whose tokens lie end to end (`layer_tokens`).

    Args:
        states: of the tokens.
        offsets: pair i has the tokens `offsets[i]:offsets[i + 1]`.
        labels: 1 of relevant pairs, 0 of others.
        settings: how; the paper's by default.
        seed: of weights, order and dropout. The random state outside is left as it is.

    Raises:
        ValueError: no pairs, lengths that differ, labels other than 0 and 1, or a pair without tokens.
    """
    chosen, lengths = settings or TokenProbeSettings(), np.diff(offsets)
    _check(states, offsets)
    if len(labels) != len(lengths) or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"expected a label 0 or 1 of each of {len(lengths)} pairs, got {np.asarray(labels).tolist()}")
    given, target = torch.from_numpy(np.asarray(states, np.float32)), torch.from_numpy(np.asarray(labels, np.int64))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        probe = TokenProbe(given.shape[1], chosen.dropout).train()
        steps = chosen.epochs * -(-len(lengths) // chosen.batch)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay)
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (steps - step) / steps)
        for _ in range(chosen.epochs):
            for pairs in torch.randperm(len(lengths)).split(chosen.batch):
                own, own_lengths = _tokens(given, offsets, pairs.numpy())
                loss = nn.functional.cross_entropy(probe(own, own_lengths), target[pairs])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(probe.parameters(), chosen.clip)
                optimizer.step()
                falling.step()
    return probe.eval()


def token_probe_scores(
    probe: TokenProbe, states: Float[np.ndarray, "token width"], offsets: Int[np.ndarray, "pairs_and_one"]
) -> Float[np.ndarray, "pair"]:
    """Relevant minus other, which ranks as the probability of relevance does and does not saturate.

    Raises:
        ValueError: a pair without tokens.
    """
    _check(states, offsets)
    with torch.no_grad():
        lengths = torch.from_numpy(np.diff(offsets).astype(np.int64))
        logits = probe(torch.from_numpy(np.asarray(states, np.float32)), lengths)
    return (logits[:, 1] - logits[:, 0]).double().numpy()


def _tokens(states: Tensor, offsets: np.ndarray, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
    """The states of some pairs, end to end, and their lengths."""
    rows = np.concatenate([np.arange(offsets[pair], offsets[pair + 1]) for pair in pairs])
    return states[torch.from_numpy(rows)], torch.from_numpy(np.diff(offsets)[pairs].astype(np.int64))


def _check(states: np.ndarray, offsets: np.ndarray) -> None:
    lengths = np.diff(offsets)
    if not len(lengths) or lengths.min() < 1 or offsets[0] != 0 or offsets[-1] != len(states):
        raise ValueError(
            f"expected states of one token or more of each pair, got {len(states)} tokens of lengths {lengths.tolist()}: leave out "
            "pairs whose set is empty"
        )
