"""Which of the tiny checkpoints of `family_worlds` this package opens, and opening them as they lie on disk."""

from family_worlds import build

from tl_crossenc import HookedCrossEncoder

COVERED = (
    *("bert", "xlm-roberta", "roberta", "camembert", "jina-v2"),
    *("electra", "electra-projected", "electra-untyped", "distilbert"),
    *("lightning-mono", "lightning-cross-encoder"),
    *("modernbert-cls", "modernbert-mean", "modernbert-old", "modernbert-modular"),
    *("gte", "gte-split", "gte-old", "gte-ntk", "gte-ntk-old"),
    *("deberta-v2", "ernie-without-tasks"),
)


def opened(name, folder, n_labels=1, dtype="float64", kind="safetensors"):
    """(world, model) of a family's checkpoint as it lies on disk."""
    world = build(name, n_labels)
    world.write(folder, kind)
    return world, HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype=dtype)


def labels_of(name):
    """How many logits its heads have: lightning-ir's older model type has one alone."""
    return (1,) if name == "lightning-cross-encoder" else (1, 2)
