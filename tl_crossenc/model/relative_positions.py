"""DeBERTa's relative attention: what content and distance add to a score, a cell at a time.

He et al. 2021 (https://arxiv.org/abs/2006.03654), equation 4, with the buckets of DeBERTa-v2. The offset row - column falls into a
bucket b: offsets up to half of the buckets are each their own, those beyond share buckets that grow with the logarithm. With E the
embeddings of the buckets, K_E and Q_E their projections as keys and as queries,

    S[r,c] = (q_r . k_c + q_r . K_E[b] + k_c . Q_E[b]) / sqrt(d_head (1 + number of position terms))

whose second and third term are `c2p` (content to position) and `p2c`; a model may have either, both or none.

A term depends on the offset alone besides its row (or column), so it is computed for every offset, `[row, offset]`, and read off
askew: cell (r, c) is column c - r of row r, a view with no gathering.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_crossenc.model.config import CrossEncoderConfig

KINDS = ("c2p", "p2c")


@dataclass(frozen=True)
class RelativePositions:
    """How a model tells distances apart, and which terms of the score do.

    Attributes:
        n_buckets: `position_buckets`; 0 or below for a bucket an offset.
        max_position: `max_relative_positions` (`max_position_embeddings` where that is below 1): with buckets, the distance that
            the last one is for; without, the largest told apart.
        kinds: `pos_att_type`, some of "c2p" and "p2c".
    """

    n_buckets: int
    max_position: int
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(
                f"expected terms among {', '.join(KINDS)} in pos_att_type, got {', '.join(sorted(unknown))}"
            )

    @classmethod
    def of(cls, setting: tuple[int, int, bool, bool] | None) -> RelativePositions:
        """Those of `cfg.relative`; without a term and a bucket where that is None."""
        n_buckets, max_position, *has = setting or (0, 0, False, False)
        return cls(n_buckets, max_position, tuple(kind for kind, there in zip(KINDS, has, strict=True) if there))

    @property
    def span(self) -> int:
        """Buckets to either side; there are embeddings of twice as many."""
        return self.n_buckets if self.n_buckets > 0 else self.max_position

    def scale(self, d_head: int) -> float:
        """What each term of the score is multiplied by: the `scale` of attention."""
        return (d_head * (1 + len(set(self.kinds)))) ** -0.5

    def buckets(self, offsets: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The row of the embeddings for each offset, row - column."""
        distances = offsets.abs()
        if self.n_buckets > 0 and self.max_position > 0:
            mid = self.n_buckets // 2
            # in float32 and on the CPU, whatever the model's: the steps between buckets are where that rounding puts them
            steps = torch.log(distances.clamp(min=1) / mid) / torch.log(torch.tensor((self.max_position - 1) / mid))
            beyond = torch.ceil(steps * (mid - 1)) + mid
            distances = torch.where(distances <= mid, distances, beyond.long())
        return (offsets.sign() * distances + self.span).clamp(0, 2 * self.span - 1)

    def relative(
        self,
        q: Float[Tensor, "pair row head d_head"],
        k: Float[Tensor, "pair pos head d_head"],
        keys: Float[Tensor, "bucket head d_head"] | None,
        queries: Float[Tensor, "bucket head d_head"] | None,
        first_row: int = 0,
    ) -> Float[Tensor, "pair head row pos"] | None:
        """What the distances add to the scores, scaled: the `relative` of attention. None where the model has no such term.

        Args:
            q: queries of the rows from `first_row` on.
            k: keys of all positions.
            keys: the embeddings of the buckets, `2 * span` of them, projected as keys; needed for c2p.
            queries: the same projected as queries; needed for p2c.
            first_row: the position of the first row.

        Raises:
            ValueError: projections that are missing, or of another number of buckets.
        """
        if not self.kinds:
            return None
        (n_pairs, n_rows, n_heads, d_head), n = q.shape, k.shape[1]
        bucket = _buckets(self, first_row, n_rows, n, q.device)  # of the n_rows + n - 1 offsets column - row that occur
        of_keys = self._of_offsets(keys, bucket, d_head, "keys") if "c2p" in self.kinds else None
        of_queries = self._of_offsets(queries, bucket.flip(0), d_head, "queries") if "p2c" in self.kinds else None
        found = q.new_empty(n_pairs, n_heads, n_rows, n)
        step = 1 if q.device.type == "cpu" else max(n_pairs, 1)  # a pair's terms stay in the CPU's cache
        for i in range(0, n_pairs, step):
            some = slice(i, i + step)
            for which, term in enumerate(self._terms(q[some], k[some], of_keys, of_queries)):
                found[some] = found[some] + term if which else term
                del term  # one at a time: what it is read off is twice as large as what is found
        return found

    def _terms(self, q: Tensor, k: Tensor, of_keys: Tensor | None, of_queries: Tensor | None) -> Iterator[Tensor]:
        """c2p and p2c of some pairs, as far as there are."""
        n_rows, n = q.shape[1], k.shape[1]
        if of_keys is not None:
            yield _askew(q.transpose(1, 2) @ of_keys, n_rows, n, n_rows - 1)
        if of_queries is not None and n_rows == 1:  # each key meets one offset
            yield torch.einsum("pchd,hdc->phc", k, of_queries.flip(2)).unsqueeze(2)
        elif of_queries is not None:
            yield _askew(k.transpose(1, 2) @ of_queries, n, n_rows, n - 1).transpose(2, 3)

    def _of_offsets(
        self, projected: Tensor | None, bucket: Tensor, d_head: int, name: str
    ) -> Float[Tensor, "head d_head offset"]:
        """The projection of each offset's bucket, scaled."""
        got = None if projected is None else projected.shape[0]
        if projected is None or got != 2 * self.span:
            raise ValueError(f"expected the {name} of {2 * self.span} buckets for {'/'.join(self.kinds)}, got {got}")
        return (projected * self.scale(d_head))[bucket].permute(1, 2, 0)


def _askew(by_offset: Tensor, n_rows: int, n_columns: int, zero: int) -> Float[Tensor, "pair head row column"]:
    """Cell (r, c) from column c - r + zero of row r, a view."""
    by_offset = by_offset.contiguous()
    pairs, heads, _, width = by_offset.shape
    strides = (by_offset.stride(0), by_offset.stride(1), width - 1, 1)
    return by_offset.as_strided((pairs, heads, n_rows, n_columns), strides, by_offset.storage_offset() + zero)


@lru_cache(maxsize=256)
def _buckets(
    positions: RelativePositions, first_row: int, n_rows: int, n_columns: int, device: torch.device
) -> Int[Tensor, "offset"]:
    """The buckets of the offsets that occur, column - row from the lowest on, kept."""
    with torch.inference_mode(False):
        column_minus_row = torch.arange(1 - n_rows - first_row, n_columns - first_row, device="cpu")
        return positions.buckets(-column_minus_row).to(device)


class RelativeTable(nn.Module):
    """The embeddings of the buckets, `table`, and the norm that they may be read through: weights that all layers share.

    Attributes:
        positions: which buckets there are and which terms they give.
    """

    def __init__(self, cfg: CrossEncoderConfig):
        super().__init__()
        self.positions = RelativePositions.of(cfg.relative)
        self.eps = cfg.eps
        self.table = nn.Parameter(torch.empty(2 * self.positions.span, cfg.d_model, dtype=cfg.dtype))
        norm = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype)) if cfg.relative_norm else None
        self.ln_weight = norm
        self.ln_bias = None if norm is None else nn.Parameter(torch.empty_like(norm))

    def embeddings(self) -> Float[Tensor, "bucket d_model"]:
        """The embeddings as layers read them."""
        if self.ln_weight is None:
            return self.table
        return F.layer_norm(self.table, self.ln_weight.shape, self.ln_weight, self.ln_bias, self.eps)
