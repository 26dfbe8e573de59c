"""A checkpoint's keys → Hugging Face's names of a BERT sequence classifier, whatever wrapped the model when it was saved.

Hugging Face loads a classifier's checkpoint with and without `bert.` before the names of its encoder. A model saved inside of
`DataParallel` has `module.` before every key, inside of a Lightning module `model.`, and compiled `_orig_mod.`.
One checkpoint has one prefix: a key under another one than the first is not taken, so that no weight is read by a guess.
"""

from __future__ import annotations

WRAPPERS = ("module.", "model.", "_orig_mod.")
_ENCODER = ("embeddings.", "encoder.", "pooler.")
_HEADS = ("classifier.", "cls.")
_OLD_LEAVES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""TensorFlow conversions call the LayerNorm's weight and bias gamma and beta."""


class WeightNames:
    """Call it with each key of one checkpoint in turn: the weight's name, or None for a key under another prefix than the first.

    Attributes:
        prefixes: what came before the names, as `module.` or `bert.`, in the order met.
    """

    def __init__(self) -> None:
        self._wrapper: str | None = None  # None until a key shows it
        self._base: str | None = None
        self.prefixes: list[str] = []

    def __call__(self, key: str) -> str | None:
        """The name of the weight that has this key; None under a second prefix; the key itself where it is no BERT's."""
        inner = key
        while inner.startswith(WRAPPERS):
            inner = inner.partition(".")[2]
        wrapper = key.removesuffix(inner)
        name = inner.removeprefix("bert.")
        if name.startswith(_ENCODER):
            base = inner.removesuffix(name)
        elif inner.startswith(_HEADS):
            base, name = None, inner
        else:
            return key  # no weight of a classifier under any prefix
        self._note(wrapper, base)
        if self._wrapper not in (None, wrapper) or (base is not None and self._base not in (None, base)):
            return None
        self._wrapper = wrapper
        self._base = self._base if base is None else base
        for old, new in _OLD_LEAVES.items():
            name = name.replace(old, new)
        return name if base is None else f"bert.{name}"

    def _note(self, wrapper: str, base: str | None) -> None:
        """Add a prefix; that of a head, which has no `bert.`, where it shows another wrapper."""
        told = {prefix.removesuffix("bert.") for prefix in self.prefixes} | {self._wrapper}
        prefix = wrapper + (base or "")
        if prefix not in self.prefixes and (base is not None or (told - {None, wrapper} and wrapper not in told)):
            self.prefixes.append(prefix)

    @property
    def wrapped(self) -> bool:
        """Whether the names have a prefix that Hugging Face does not read."""
        return bool(self._wrapper)
