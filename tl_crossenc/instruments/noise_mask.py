"""A mask that lets through some of a stream and noise in place of the rest, and how much information passes it.

With R a token's stream after a layer, mu and sigma the layer's mean and standard deviation of each feature, one alpha an element:

    lambda = sigmoid(alpha)        Z = lambda R + (1 - lambda) eps,   eps ~ N(mu, sigma^2)        r = (R - mu) / sigma
    KL = KL[ N(lambda r, (1 - lambda)^2) || N(0, 1) ] = 1/2 ((lambda r)^2 + (1 - lambda)^2 - 1) - log(1 - lambda)      nats

Given R, Z has variance (1 - lambda)^2 sigma^2. KL is at least what Z tells of R in the mean, since the layer's distribution stands
for the one of Z (Schulz et al. 2020, section 3.2). It is 0 at lambda = 0 and grows without a bound towards 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def information(alpha: Float[Tensor, "*shape"], r: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """KL in nats of every element. `logsigmoid(-alpha)` is log(1 - lambda) wherever sigmoid(alpha) rounds to 1.

    >>> information(torch.tensor([-torch.inf, 0.0, 5.0]), torch.tensor([3.0, 0.0, 1.0])).round(decimals=3)
    tensor([0.0000, 0.3180, 5.0000])
    """
    through, noise = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    return 0.5 * ((through * r) ** 2 + noise**2 - 1 - 2 * F.logsigmoid(-alpha))


def masked(
    alpha: Float[Tensor, "pair pos d_model"],
    stream: Float[Tensor, "pair pos d_model"],
    mean: Float[Tensor, "*pair_pos d_model"],
    sigma: Float[Tensor, "*pair_pos d_model"],
    noise: Float[Tensor, "pair copy pos d_model"],
) -> Float[Tensor, "pair copy pos d_model"]:
    """Z for each copy of standard normal noise: the stream itself, bit for bit, where alpha is +inf, and none of it where -inf."""
    through, left = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    kept, spread = through * stream + left * mean, left * sigma
    return torch.addcmul(kept[:, None], spread[:, None], noise)


class PairNoise:
    """Standard normal noise of some pairs at a layer, drawn by each pair's tokens, the layer and a seed: the same in any batch.

    It is drawn in float32 on the CPU whatever the model is, so that precision and device change nothing either.

    Args:
        digests: what tells each pair.
        lengths: its tokens; beyond these noise is 0.
        d_model: features.
        copies: drawn together.
        layer, seed: of the draws.
    """

    def __init__(
        self, digests: Sequence[bytes], lengths: Sequence[int], d_model: int, copies: int, layer: int, seed: int
    ) -> None:
        self.lengths = tuple(lengths)
        self.held = torch.zeros(len(self.lengths), copies, max(self.lengths), d_model)
        self.generators = [torch.Generator().manual_seed(_seed(digest, layer, seed)) for digest in digests]

    def draw(self) -> Float[Tensor, "pair copy pos d_model"]:
        """The next copies; what was given before is overwritten."""
        for i, (generator, length) in enumerate(zip(self.generators, self.lengths, strict=True)):
            shape = (self.held.shape[1], length, self.held.shape[3])
            self.held[i, :, :length] = torch.randn(shape, generator=generator)
        return self.held


def _seed(digest: bytes, layer: int, seed: int) -> int:
    """Of a pair's generator: the first 63 bits of SHA-256 over seed and layer, 8 bytes each, and the pair's digest."""
    material = seed.to_bytes(8, "little", signed=True) + layer.to_bytes(8, "little") + digest
    return int.from_bytes(hashlib.sha256(material).digest()[:8], "little") >> 1
