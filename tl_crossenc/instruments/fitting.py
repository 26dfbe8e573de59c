"""How the masks of a bottleneck are fitted (`bottleneck.py` has the formulas)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Literal, get_args

from tl_crossenc.instruments.layer_statistics import MIN_SIGMA, By

Objective = Literal["keep", "relevant"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True)
class Fitting:
    """How masks are fitted.

    Attributes:
        objective: "keep" or "relevant".
        beta: what a nat an element costs.
        steps: of Adam.
        lr: its learning rate.
        alpha0: where every alpha begins; 5 lets .993 through.
        copies: of the noise, in every step and for the score under the final mask.
        by: whose tokens share mean and standard deviation, "all" or those of a "part".
        min_sigma: the smallest standard deviation, see `LayerStatistics.spread`.
        seed: of the noise.

    Raises:
        ValueError: a value that there is not.
        TypeError: no number, or no whole one where one is counted.
    """

    objective: Objective = "keep"
    beta: float = 10.0
    steps: int = 10
    lr: float = 1.0
    alpha0: float = 5.0
    copies: int = 10
    by: By = "all"
    min_sigma: float = MIN_SIGMA
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES or self.by not in get_args(By):
            raise ValueError(
                f"expected the objective {' or '.join(OBJECTIVES)} by 'all' or 'part', got {self.objective!r} by {self.by!r}"
            )
        real = {name: getattr(self, name) for name in ("beta", "lr", "alpha0", "min_sigma")}
        whole = {name: getattr(self, name) for name in ("steps", "copies", "seed")}
        for kind, of, given in (("a number", Real, real), ("a whole number", Integral, whole)):
            for name, value in given.items():
                if isinstance(value, bool) or not isinstance(value, of):
                    raise TypeError(f"expected {kind} as {name}, got {value!r:.60}")
        for name, value in whole.items():
            object.__setattr__(self, name, int(value))
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"expected a seed of 64 bits, got {self.seed}")
        numbers = (self.beta, self.lr, self.alpha0, self.min_sigma)
        if not all(map(math.isfinite, numbers)) or self.beta < 0 or self.lr <= 0 or self.min_sigma <= 0:
            raise ValueError(
                f"expected beta of at least 0, lr and min_sigma above 0 and a finite alpha0, got {self.beta}, {self.lr}, "
                f"{self.min_sigma} and {self.alpha0}"
            )
        if self.steps < 0 or self.copies < 1:
            raise ValueError(
                f"expected steps of at least 0 and copies of at least 1, got {self.steps} and {self.copies}"
            )

    @property
    def fields(self) -> dict[str, str | int | float]:
        """All of it by name, as a stored result's key has it."""
        return asdict(self) | {name: float(getattr(self, name)) for name in ("beta", "lr", "alpha0", "min_sigma")}

    def layer_runs(self, n_layers: int, layers: Sequence[int]) -> int:
        """Layers run for one pair: once to the end, and from each layer on forth and back each step; a step's mask counts one."""
        above = sum((2 * self.steps + 1) * self.copies * (n_layers - 1 - layer) for layer in layers)
        return n_layers + above + (self.steps + 1) * len(layers)
