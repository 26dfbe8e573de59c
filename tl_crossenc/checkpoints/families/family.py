"""What a family is: which configurations it takes, the model's shape by them, and where each of its weights goes.

The model's weights are named by where they lie: `embed.W_E`, `pooler`, or a kind of `LayerStack`: `qkv` (indices 0, 1, 2 for
queries, keys, values), `out`, `ln1`, `ln2`, `mlp_in` (of a gated MLP index 0 for what goes through the activation, 1 for what it is
multiplied with), `mlp_out`. Everything is stored as (out, in).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Config = dict[str, Any]

ACTIVATIONS = ("gelu", "gelu_new", "relu")
"""What MLPs may apply, by the names that configurations have for it."""
HEAD_ACTIVATIONS = (*ACTIVATIONS, "tanh")
"""What heads may apply."""


class Target(NamedTuple):
    """Where a weight, or a part of one, goes.

    Attributes:
        path: in the model, without the leaf `weight` or `bias` where it has one; of a layer its kind in the stack.
        which: which of the matrices that lie side by side there; None where there is one.
        skips: whether the first rows, which no position reads (`cfg.position_offset`), are left.
    """

    path: str
    which: int | None = None
    skips: bool = False


Targets = tuple[Target, ...]
"""Of one weight in the checkpoint, whose rows are split evenly among them."""


@dataclass(frozen=True)
class Layout:
    """One way in which a family's checkpoints name their weights; names of modules have the leaves `weight` and `bias`.

    Attributes:
        tables: names of single weights under the base, such as `embeddings.word_embeddings.weight`.
        modules: names of modules under the base, outside of the layers.
        layers: what comes before a layer's number under the base.
        layer: names of modules inside of a layer.
        heads: names of modules beside the base.
    """

    tables: Mapping[str, Target]
    modules: Mapping[str, Targets]
    layers: str
    layer: Mapping[str, Targets]
    heads: Mapping[str, Targets]


class Part(NamedTuple):
    """What tells a part of a weight from all others, by whatever name and in whatever company a checkpoint stores it."""

    path: str
    which: int | None
    layer: int | None
    leaf: str


class Place(NamedTuple):
    """A weight of a checkpoint: where it goes, in which layer, and which leaf of a module it is ("" of a table)."""

    targets: Targets
    layer: int | None
    leaf: str

    @property
    def parts(self) -> list[Part]:
        """The parts whose rows the weight has, in their order."""
        return [Part(target.path, target.which, self.layer, self.leaf) for target in self.targets]


def _as_it_is(config: Config, name: str) -> Config:
    return config


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    Attributes:
        name: what people call it.
        model_types: what its configurations call it.
        classes: how the names of its classes in `architectures` begin.
        bases: what may come before the encoder's names, `bert.`; the first is the one that errors name.
        shape: configuration, name of the model -> fields of the model's configuration; raises a ValueError for a setting that is
            not computed.
        layouts: its ways to name weights; a checkpoint has one of them.
        ignored: names, or how they begin, that a classifier does not use.
        head_modules: the names of the dense layer, the norm and the classifier of the head, where that may lie in modules beside
            the encoder (`head_modules`); None where it may not.
        encoder_of: what transformers calls its encoder, where the head is not its own: one linear layer on the first position.
        todays: configuration, name of the model -> the configuration in words that transformers reads today.
    """

    name: str
    model_types: tuple[str, ...]
    classes: tuple[str, ...]
    bases: tuple[str, ...]
    shape: Callable[[Config, str], dict[str, Any]] = field(repr=False)
    layouts: tuple[Layout, ...] = field(repr=False)
    ignored: tuple[str, ...] = ()
    head_modules: tuple[str, str, str] | None = None
    encoder_of: str | None = None
    todays: Callable[[Config, str], dict[str, Any]] = field(default=_as_it_is, repr=False)

    def is_class(self, architecture: str) -> bool:
        """Whether a class of that name is one of this family's."""
        return architecture.startswith(self.classes)

    def places(self, n_layers: int) -> Iterator[dict[str, Place]]:
        """Of each layout: the full name of every weight that it can have -> where it goes."""
        for layout in self.layouts:
            base = self.bases[0]
            found = {f"{base}{name}": Place((target,), None, "") for name, target in layout.tables.items()}
            for prefix, modules in ((base, layout.modules), ("", layout.heads)):
                for name, targets in modules.items():
                    found |= {f"{prefix}{name}.{leaf}": Place(targets, None, leaf) for leaf in ("weight", "bias")}
            for layer in range(n_layers):
                for name, targets in layout.layer.items():
                    at = f"{base}{layout.layers}.{layer}.{name}"
                    found |= {f"{at}.{leaf}": Place(targets, layer, leaf) for leaf in ("weight", "bias")}
            yield found

    def begins(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """How the names of the encoder's weights begin after the base, and those of the weights beside it."""
        encoder: list[str] = []
        heads = [name.removeprefix(self.bases[0]) for name in self.ignored if not name.startswith(self.bases[0])]
        for layout in self.layouts:
            encoder += [*layout.tables, *layout.modules, layout.layers]
            heads += layout.heads
        first = [tuple(dict.fromkeys(name.partition(".")[0] + "." for name in names)) for names in (encoder, heads)]
        return first[0], first[1]
