"""Targets: the places whose activations are replaced.

A target's text form round-trips (`Target.parse(str(t)) == t`) and labels the rows of results:

    3.7                  head 7 of layer 3: what it reads, `hook_z`
    mlp.2                what the MLP of layer 2 writes, `hook_mlp_out`, its bias included
    mlp.2:5,17-19        neurons 5, 17, 18 and 19 of that MLP, `mlp.hook_post`
    attn.2               what all heads of layer 2 write, `hook_attn_out`, its bias included
    DOC->QUERY@3.7       the part of head 3.7's `hook_z` at DOC positions that is read from QUERY positions

Targets that are replaced together are joined by `+`: `3.7+3.8+mlp.2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tl_crossenc.inputs.parts import REAL_PARTS, Part
from tl_crossenc.interventions.directions import Direction, parse_directions
from tl_crossenc.interventions.indices import format_indices, parse_indices

Kind = Literal["head", "mlp", "attn", "direction", "neurons"]
_TARGET = re.compile(r"\s*(?:([^@]+)@)?\s*(\d+|mlp|attn)\.(\d+)\s*(?::([\d\s,-]+))?")


@dataclass(frozen=True)
class Target:
    """One place.

    Attributes:
        kind: "head", "mlp", "attn", "direction" or "neurons".
        layer: from 0.
        head: of a head or a direction, from 0; else None.
        direction: of a direction, else None.
        neurons: of neurons, which of the layer's, from 0, ascending; else empty.
    """

    kind: Kind
    layer: int
    head: int | None = None
    direction: Direction | None = None
    neurons: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        has_head, has_direction = self.kind in ("head", "direction"), self.kind == "direction"
        if (self.head is not None) != has_head or (self.direction is not None) != has_direction:
            raise ValueError(
                f"expected a head for a head or a direction, and a direction for a direction alone; got {self.kind} with "
                f"head {self.head} and direction {self.direction}"
            )
        chosen = tuple(sorted(set(self.neurons)))
        if (self.kind == "neurons") != bool(chosen) or chosen != self.neurons or min(chosen, default=0) < 0:
            raise ValueError(
                f"expected neurons for neurons alone, from 0, ascending and each once; got {self.kind} with "
                f"{', '.join(map(str, self.neurons[:5])) or 'none'}"
            )

    def __str__(self) -> str:
        if self.kind == "neurons":
            return f"mlp.{self.layer}:{format_indices(self.neurons)}"
        if self.kind in ("mlp", "attn"):
            return f"{self.kind}.{self.layer}"
        place = f"{self.layer}.{self.head}"
        return place if self.direction is None else f"{self.direction}@{place}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target written `3.7`, `mlp.2`, `mlp.2:5,17`, `attn.2` or `DOC->QUERY@3.7`.

        Raises:
            ValueError: the text is none of these.
        """
        found = parse_targets(text)
        if len(found) != 1:
            raise ValueError(f"expected one target, got {text!r}, which names {len(found)}")
        return found[0]

    @property
    def hook_name(self) -> str:
        """The hook point where it is replaced."""
        points = {"mlp": "hook_mlp_out", "attn": "hook_attn_out", "neurons": "mlp.hook_post"}
        point = points.get(self.kind, "attn.hook_z")
        return f"blocks.{self.layer}.{point}"

    @property
    def rows(self) -> tuple[Part, ...]:
        """The parts whose positions are replaced: a direction's attenders, else all."""
        return REAL_PARTS if self.direction is None else self.direction.attenders

    def overlaps(self, other: Target) -> bool:
        """Whether replacing both at once would replace something twice."""
        if self.layer != other.layer:
            return False
        if "neurons" in (self.kind, other.kind):
            kinds = {self.kind, other.kind}
            return "mlp" in kinds or (kinds == {"neurons"} and not set(self.neurons).isdisjoint(other.neurons))
        if "mlp" in (self.kind, other.kind) or "attn" in (self.kind, other.kind):
            return (self.kind == "mlp") == (other.kind == "mlp")
        if self.head != other.head or self.direction is None or other.direction is None:
            return self.head == other.head
        return bool((self.direction.grid & other.direction.grid).any())


TargetLike = Target | str


def neuron_targets(neurons: Iterable[tuple[int, int]]) -> tuple[Target, ...]:
    """The targets, one a layer, of neurons given as (layer, neuron)."""
    by_layer: dict[int, set[int]] = {}
    for layer, neuron in neurons:
        by_layer.setdefault(int(layer), set()).add(int(neuron))
    return tuple(Target("neurons", layer, neurons=tuple(sorted(by_layer[layer]))) for layer in sorted(by_layer))


def parse_targets(text: str) -> tuple[Target, ...]:
    """The targets of a text such as `3.7+mlp.2+DOC->QUERY@3.8`; `X<->Y@3.8` is two.

    Raises:
        ValueError: the text is not of that form.
    """
    targets: list[Target] = []
    for item in text.split("+"):
        match = _TARGET.fullmatch(item)
        if (
            match is None
            or (match[1] is not None and not match[2].isdigit())
            or (match[4] is not None and match[2] != "mlp")
        ):
            raise ValueError(
                f"expected a target such as 3.7 (layer.head), mlp.2, mlp.2:5,17 (neurons), attn.2 or DOC->QUERY@3.7, got "
                f"{item.strip()!r}"
            )
        if match[1] is not None:
            targets += [
                Target("direction", int(match[2]), int(match[3]), direction) for direction in parse_directions(match[1])
            ]
        elif match[4] is not None:
            targets.append(Target("neurons", int(match[3]), neurons=parse_indices(match[4], "neurons") or ()))
        elif match[2] == "mlp":
            targets.append(Target("mlp", int(match[3])))
        elif match[2] == "attn":
            targets.append(Target("attn", int(match[3])))
        else:
            targets.append(Target("head", int(match[2]), int(match[3])))
    return tuple(targets)


def as_targets(targets: TargetLike | Iterable[TargetLike]) -> tuple[Target, ...]:
    """Targets from targets and their texts, alone or in lists.

    Raises:
        ValueError: none, or a text that names none.
    """
    given = [targets] if isinstance(targets, Target | str) else list(targets)
    found: list[Target] = []
    for target in given:
        found += [target] if isinstance(target, Target) else parse_targets(target)
    if not found:
        raise ValueError("expected at least one target to replace, such as 3.7 or mlp.2; got none")
    return tuple(dict.fromkeys(found))


def format_targets(targets: Iterable[Target]) -> str:
    """`3.7+mlp.2`."""
    return "+".join(str(target) for target in targets)


def check_targets(targets: Sequence[Target], n_layers: int, n_heads: int, n_neurons: int | None = None) -> None:
    """Whether the model has all of these targets; `n_neurons` is how many an MLP has, where that is known.

    Raises:
        ValueError: a layer, head or neuron that it does not have.
    """
    for target in targets:
        if n_neurons is not None and target.neurons and target.neurons[-1] >= n_neurons:
            raise ValueError(
                f"expected neurons 0..{n_neurons - 1}, got neuron {target.neurons[-1]} of layer {target.layer}"
            )
        if not (0 <= target.layer < n_layers and 0 <= (target.head or 0) < n_heads):
            raise ValueError(f"expected a target in a model of {n_layers} layers x {n_heads} heads, got {target}")


def check_apart(targets: Sequence[Target]) -> None:
    """Whether the targets can be replaced together.

    Raises:
        ValueError: two of them share something.
    """
    for i, first in enumerate(targets):
        for second in targets[i + 1 :]:
            if first.overlaps(second):
                raise ValueError(
                    f"expected targets that share nothing, got {first} and {second}, which would be replaced twice: leave one out"
                )
