"""A checkpoint's keys → one name a weight, as its family's classifier has it, whatever wrapped the model when it was saved.

Hugging Face loads a classifier's checkpoint with and without the base (`bert.`) before the names of its encoder. A model saved
inside of `DataParallel` has `module.` before every key, inside of a Lightning module `model.`, and compiled `_orig_mod.`.
One checkpoint has one prefix: a key under another one than the first is not taken, so that no weight is read by a guess.
"""

from __future__ import annotations

from tl_crossenc.checkpoints.families.bert import BERT
from tl_crossenc.checkpoints.families.family import Family

WRAPPERS = ("module.", "model.", "_orig_mod.")
_OLD_LEAVES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""TensorFlow conversions call the LayerNorm's weight and bias gamma and beta."""


class WeightNames:
    """Call it with each key of one checkpoint in turn: the weight's name, or None for a key under another prefix than the first.

    Args:
        family: whose names they are.

    Attributes:
        prefixes: what came before the names, as `module.` or `bert.`, in the order met.
    """

    def __init__(self, family: Family = BERT) -> None:
        self._bases = family.bases
        self._encoder, self._heads = family.begins()
        self._wrapper: str | None = None  # None until a key shows it
        self._base: str | None = None
        self.prefixes: list[str] = []

    def __call__(self, key: str) -> str | None:
        """The name of the weight that has this key; None under a second prefix; the key itself where the family has none of it."""
        inner = key
        while inner.startswith(WRAPPERS) and not self._without_base(inner)[0]:
            inner = inner.partition(".")[2]
        wrapper = key.removesuffix(inner)
        base, name = self._without_base(inner)
        if base is None and not name.startswith(self._encoder):
            if not inner.startswith(self._heads):
                return key  # no weight of a classifier under any prefix
        else:
            base = base or ""
        self._note(wrapper, base)
        if self._wrapper not in (None, wrapper) or (base is not None and self._base not in (None, base)):
            return None
        self._wrapper = wrapper
        self._base = self._base if base is None else base
        for old, new in _OLD_LEAVES.items():
            name = name.replace(old, new)
        return name if base is None else f"{self._bases[0]}{name}"

    def _without_base(self, inner: str) -> tuple[str | None, str]:
        """The base of an encoder's weight and its name; None and the key where it has none."""
        for base in self._bases:
            name = inner.removeprefix(base)
            if name != inner and name.startswith(self._encoder):
                return base, name
        return None, inner

    def _note(self, wrapper: str, base: str | None) -> None:
        """Add a prefix; that of a head, which has no base, where it shows another wrapper."""
        told = {_without(prefix, self._bases) for prefix in self.prefixes} | {self._wrapper}
        prefix = wrapper + (base or "")
        if prefix not in self.prefixes and (base is not None or (told - {None, wrapper} and wrapper not in told)):
            self.prefixes.append(prefix)

    @property
    def wrapped(self) -> bool:
        """Whether the names have a prefix that Hugging Face does not read."""
        return bool(self._wrapper)


def _without(prefix: str, bases: tuple[str, ...]) -> str:
    """A prefix without the base at its end."""
    return next((prefix.removesuffix(base) for base in bases if prefix.endswith(base)), prefix)
