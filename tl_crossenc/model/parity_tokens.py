"""What Hugging Face's own tokenizer makes of texts, held against what the port reads: the tokens' half of parity."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.inputs.encoder import TYPES, token_limit
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.transformers_config import quiet

logger = logging.getLogger(__name__)

TEXTS = (
    "How do Fleas reproduce? FLEAS LAY EGGS",
    "Émile Zola's cafe\u0301 déjà vu, naïve façade, Straße, ﬁn, ½",
    "日本の首都 東京 한국어 中文",
    "don't e-mail U.S.A. $3.50 (a/b) #1 ##s «quoted» “so”",
    "😀 👩‍👩‍👧 \u200b\u200d\u00ad\ttab\nline  two spaces ",
    "שלום العربية Привет Ελλάδα हिन्दी ไทย",
    "[SEP] [CLS] [MASK] [unused1] <s> </s>",
    "flea " * 600,
)
"""What tokenizers differ on: case, accents, writing systems, marks, special tokens in the text, and a passage that is cut."""


def reference_tokenizer(checkpoint: Checkpoint, choice: Any = None) -> Any:
    """Hugging Face's own tokenizer of the checkpoint: `AutoTokenizer`'s, or `BertTokenizer`'s where that cannot tell which.

    A hub model's is asked for by name and commit, so that files that were not fetched for the port are missed here. None where the
    checkpoint has none.
    """
    from transformers import AutoTokenizer, BertTokenizer

    if choice is not None and not isinstance(choice, str | Path):
        return choice
    places: list[tuple[str, str | None]] = []
    if choice is not None:
        places.append((str(Path(choice).expanduser()) if Path(choice).expanduser().is_dir() else str(choice), None))
    elif checkpoint.tokenizer_folder is not None:
        if checkpoint.folder is not None and not Path(checkpoint.name).expanduser().is_dir():
            places.append((checkpoint.name, checkpoint.revision))
        places.append((str(checkpoint.tokenizer_folder), None))
    loaders: tuple[Any, Any] = AutoTokenizer, BertTokenizer
    for loader in loaders:
        for place, revision in places:
            try:
                with quiet():
                    return loader.from_pretrained(place, revision=revision, trust_remote_code=False)
            except Exception as error:  # a layout that it cannot tell the class of, or a hub that is out of reach
                logger.info("%s cannot load the tokenizer of %s: %s", loader.__name__, place, error)
    return None


class Tokenized(NamedTuple):
    """Pairs as Hugging Face reads them, held against the port's.

    Attributes:
        tensors: what its model is to be fed.
        compared: its tokens.
        wrong: positions that differ in token or type.
    """

    tensors: dict[str, Tensor]
    compared: int
    wrong: int


def tokenized(model: HookedCrossEncoder, reference: Any, queries: Sequence[str], passages: Sequence[str]) -> Tokenized:
    """The pairs by Hugging Face's own call of its tokenizer, and by the model's."""
    ours = model.to_pairs(queries, passages)
    fed = reference(
        list(queries),
        list(passages),
        truncation="only_second",
        max_length=min(model.cfg.n_ctx, token_limit(model.tokenizer)),
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    theirs = {key: fed[key].to(model.device) for key in ("input_ids", "attention_mask", TYPES) if key in fed}
    if model.cfg.d_vocab_types <= 1:
        theirs.pop(TYPES, None)
    mask = theirs["attention_mask"].bool()
    types = theirs.get(TYPES, torch.zeros_like(theirs["input_ids"]))
    wrong = 0
    for i in range(len(ours)):
        mine = torch.stack([ours.tokens[i], ours.token_type_ids[i]], 1)[ours.attention_mask[i]]
        other = torch.stack([theirs["input_ids"][i], types[i]], 1)[mask[i]]
        shared = min(len(mine), len(other))
        wrong += int((mine[:shared] != other[:shared]).any(1).sum()) + abs(len(mine) - len(other))
    return Tokenized(theirs, int(mask.sum()), wrong)
