"""TransformerLens for cross-encoders.

Axes of tensors and tables, by these names everywhere:

- `pair`: one query and one passage, `[CLS] query [SEP] passage [SEP]`.
- `pos`: a position of a pair's input; `row`, one whose output is computed.
- `part`: CLS, QUERY, SEP1, DOC or SEP2, the role of a position; padding is PAD and takes no part in anything.
- `layer`, `head`, `d_model`, `d_head`, `d_mlp`: as in TransformerLens.
- attender, attended: the row and the column of an attention pattern.
- direction: (attender part, attended part), written `DOC->QUERY`: what DOC positions read from QUERY positions.
- condition: a set of edits run as one, such as `zero(DOC->QUERY; layers=0-3)`.
- grade: relevance 0..3; -1 for an easy negative, a random passage not judged for the query.
- pool: the passages reranked for a query.
- score: one logit, that logit; two, relevant minus not relevant.

Nothing is imported before it is used: `import tl_crossenc` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tl_crossenc.attribution import attribution_patch
    from tl_crossenc.collections import Collection, load_collection
    from tl_crossenc.conditions import UNABLATED, Condition
    from tl_crossenc.counterfactuals import align_pairs, align_passages
    from tl_crossenc.cross_encoder import HookedCrossEncoder
    from tl_crossenc.diagnostics import diagnose
    from tl_crossenc.direct_attribution import score_lens
    from tl_crossenc.directions import Direction, direction_grid
    from tl_crossenc.execution import run_conditions
    from tl_crossenc.hooked_encoder import HookedEncoder
    from tl_crossenc.pairs import PairBatch
    from tl_crossenc.parity import check_parity
    from tl_crossenc.parts import Part, PartMasks
    from tl_crossenc.patching import activation_patch
    from tl_crossenc.path_patching import path_patch
    from tl_crossenc.pools import Pool, PoolSpec, build_pool
    from tl_crossenc.replacement import ReplacementMeans, ReplacementSamples, replacing
    from tl_crossenc.store import Store

_HOME = {
    "Collection": "collections",
    "load_collection": "collections",
    "Condition": "conditions",
    "UNABLATED": "conditions",
    "HookedCrossEncoder": "cross_encoder",
    "Direction": "directions",
    "direction_grid": "directions",
    "run_conditions": "execution",
    "HookedEncoder": "hooked_encoder",
    "PairBatch": "pairs",
    "check_parity": "parity",
    "Part": "parts",
    "PartMasks": "parts",
    "Pool": "pools",
    "PoolSpec": "pools",
    "build_pool": "pools",
    "Store": "store",
    "attribution_patch": "attribution",
    "align_pairs": "counterfactuals",
    "align_passages": "counterfactuals",
    "diagnose": "diagnostics",
    "score_lens": "direct_attribution",
    "activation_patch": "patching",
    "path_patch": "path_patching",
    "replacing": "replacement",
    "ReplacementMeans": "replacement",
    "ReplacementSamples": "replacement",
}

__all__ = [
    "UNABLATED",
    "Collection",
    "Condition",
    "Direction",
    "HookedCrossEncoder",
    "HookedEncoder",
    "PairBatch",
    "Part",
    "PartMasks",
    "Pool",
    "PoolSpec",
    "ReplacementMeans",
    "ReplacementSamples",
    "Store",
    "activation_patch",
    "align_pairs",
    "align_passages",
    "attribution_patch",
    "build_pool",
    "check_parity",
    "diagnose",
    "direction_grid",
    "load_collection",
    "path_patch",
    "replacing",
    "run_conditions",
    "score_lens",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"tl_crossenc.{_HOME[name]}"), name)
    raise AttributeError(f"module 'tl_crossenc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
