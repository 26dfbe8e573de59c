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
    from tl_crossenc.inputs.pairs import PairBatch
    from tl_crossenc.inputs.parts import Part, PartMasks
    from tl_crossenc.instruments.direct_attribution import score_lens
    from tl_crossenc.interventions.conditions import UNABLATED, Condition
    from tl_crossenc.interventions.directions import Direction, direction_grid
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder
    from tl_crossenc.model.execution import run_conditions
    from tl_crossenc.model.hooked_encoder import HookedEncoder
    from tl_crossenc.model.parity import check_parity
    from tl_crossenc.patching.activation import activation_patch
    from tl_crossenc.patching.attribution import attribution_patch
    from tl_crossenc.patching.counterfactuals import align_pairs, align_passages
    from tl_crossenc.patching.diagnostics import diagnose
    from tl_crossenc.patching.path import path_patch
    from tl_crossenc.patching.replacement import replacing
    from tl_crossenc.patching.replacement_values import ReplacementMeans, ReplacementSamples
    from tl_crossenc.pools.collections import Collection, load_collection
    from tl_crossenc.pools.pool import Pool, PoolSpec, build_pool
    from tl_crossenc.store.cells import Store

_HOME = {
    "Collection": "pools.collections",
    "load_collection": "pools.collections",
    "Condition": "interventions.conditions",
    "UNABLATED": "interventions.conditions",
    "HookedCrossEncoder": "model.cross_encoder",
    "Direction": "interventions.directions",
    "direction_grid": "interventions.directions",
    "run_conditions": "model.execution",
    "HookedEncoder": "model.hooked_encoder",
    "PairBatch": "inputs.pairs",
    "check_parity": "model.parity",
    "Part": "inputs.parts",
    "PartMasks": "inputs.parts",
    "Pool": "pools.pool",
    "PoolSpec": "pools.pool",
    "build_pool": "pools.pool",
    "Store": "store.cells",
    "attribution_patch": "patching.attribution",
    "align_pairs": "patching.counterfactuals",
    "align_passages": "patching.counterfactuals",
    "diagnose": "patching.diagnostics",
    "score_lens": "instruments.direct_attribution",
    "activation_patch": "patching.activation",
    "path_patch": "patching.path",
    "replacing": "patching.replacement",
    "ReplacementMeans": "patching.replacement_values",
    "ReplacementSamples": "patching.replacement_values",
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
    if name == "__version__":
        return _installed_version()
    raise AttributeError(f"module 'tl_crossenc' has no attribute {name!r}")


def _installed_version() -> str:
    """The version that pyproject.toml gave the installed package; "unknown" of a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tl-crossenc")
    except PackageNotFoundError:
        return "unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
