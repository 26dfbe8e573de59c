"""Somebody else's system: Hugging Face's model and tokenizer in a loop over pairs, which shares nothing with the package."""

import json
import random

import helpers
import torch
import transformers
from family_worlds import build

TOPICS = ("flea", "fleas", "egg", "bread", "rise", "lay", "how", "the", "do")
MIXED = (
    ("How do FLEAS lay eggs", "The flea lays her Eggs on the host"),
    ("crème brûlée", "Is the café's crème brûlée naïve? Über-cool, señor"),
    ("why does bread rise", "Yeast eats sugar and gives off gas, which makes the dough rise"),
    ("Why does Bread rise", "wash the quilt cold, and dry the sponge in the sun!"),
    ("déjà vu", "señor: déjà vu at 7:45"),
    ("how do FLEAS lay eggs", "跳蚤把卵产在宿主身上"),
    ("sponge", "Quilt"),
    ("how long do the eggs live", ""),
    ("how long do the eggs live", "the eggs fall off and hatch in two to twelve days."),
    ("Is the café cool", "Yeast eats sugar"),
)


def words(n, seed):
    """A text of n one-piece words."""
    rng = random.Random(seed)
    return " ".join(rng.choice(TOPICS) for _ in range(n))


def long_pairs(
    sizes=((3, 20), (5, 140), (2, 260), (4, 400), (7, 520), (90, 600), (200, 90), (300, 310), (6, 7), (1, 1)),
):
    """Pairs of so many words; several are longer than 512 tokens, and some queries are longer than their passages."""
    return [(words(q, 2 * i), words(p, 2 * i + 1)) for i, (q, p) in enumerate(sizes)]


def long_folder(folder, n_labels=2, limit=512, seed=0, positions=601, **changes):
    """A BERT of 601 positions whose tokenizer says `limit` tokens."""
    config = helpers.small_config(n_labels, max_position_embeddings=positions, **changes)
    helpers.write_checkpoint(folder, config, helpers.random_weights(config, n_labels, seed=seed))
    helpers.write_vocabulary(folder)
    told = {"tokenizer_class": "BertTokenizer", "model_max_length": limit, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def family_folder(name, folder, n_labels=1):
    """A family's tiny checkpoint on disk."""
    build(name, n_labels).write(folder)
    return folder


class Foreign:
    """Hugging Face's sequence classifier and tokenizer of a folder."""

    def __init__(self, folder, dtype=torch.float32):
        kind = transformers.AutoModelForSequenceClassification
        self.model = kind.from_pretrained(str(folder), dtype=dtype).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))

    def logits(self, pairs, edit=None, joint=None, **settings):
        """[pair, label], each pair run alone; `edit` may change what is fed."""
        found = []
        for first, second in pairs:
            texts = ([first], [second]) if joint is None else ([first + joint + second],)
            fed = dict(self.tokenizer(*texts, return_tensors="pt", **{"truncation": True, **settings}))
            if edit is not None:
                edit(fed)
            with torch.no_grad():
                found.append(self.model(**fed).logits[0].float())
        return torch.stack(found)

    def unmasked(self, pairs, size, length=None):
        """[pair, label] of batches of `size` in their order, padded to `length` or else to the longest, under a mask of ones."""
        padding = {"padding": True} if length is None else {"padding": "max_length", "max_length": length}
        found = []
        for start in range(0, len(pairs), size):
            texts = map(list, zip(*pairs[start : start + size], strict=True))
            fed = dict(self.tokenizer(*texts, return_tensors="pt", truncation=True, **padding))
            fed["attention_mask"] = torch.ones_like(fed["input_ids"])
            with torch.no_grad():
                found.append(self.model(**fed).logits.float())
        return torch.cat(found)
