"""What the pieces of a vocabulary stand for, and where the words of a sequence of pieces begin, as the tokenizer itself says.

Three ways of writing pieces are known, told apart by the tokenizer's own parts and not by how a piece looks:

    WordPiece           a piece that goes on with a word has a prefix, `##`
    Unigram, BPE        a piece that follows a space begins with a mark for it, `▁` (Metaspace, or a normalizer's replacement)
    byte-level BPE      pieces are bytes, each written as a character of an alphabet of 256; a space is `Ġ`. A character's bytes may
                        lie in several pieces (an emoji's in three or four), which mean something only together

WordPiece has set punctuation and Chinese characters apart before. The others have not, or not always, so there a word also begins
and ends at those (`words.stands_alone`), and marks that a piece has beside a word are no part of it: `host;` has the word `host`,
be it one piece or two. Thai, which has no spaces, is a word a run in
all of them. Of any other kind of vocabulary every piece is a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tl_crossenc.inputs.words import is_ideograph, stands_alone

CONTINUES = "##"
"""How a piece that goes on with a word is shown."""
PART_OF_CHARACTER = "·"
"""How a piece is shown that has only bytes of a character that began in a piece before it."""


class Word(NamedTuple):
    """Pieces `start:stop` of a sequence, and the text that they make."""

    start: int
    stop: int
    text: str


class Pieces:
    """The pieces of a tokenizer's vocabulary.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        backend = tokenizer.backend_tokenizer
        self.prefix: str = getattr(backend.model, "continuing_subword_prefix", None) or ""
        self.suffix: str = getattr(backend.model, "end_of_word_suffix", None) or ""
        parts = list(_parts(backend.pre_tokenizer)) + list(_parts(backend.normalizer)) + list(_parts(backend.decoder))
        self.space = next((mark for part in parts if (mark := _mark_of_space(part))), "")
        self._bytes = _byte_alphabet() if any(part["type"] == "ByteLevel" for part in parts) else {}
        self._fallback = bool(getattr(backend.model, "byte_fallback", False))
        self._special = set(tokenizer.all_special_ids)
        self._texts: dict[int, tuple[str, bytes]] = {}

    @property
    def spaced(self) -> bool:
        """Whether the pieces say where spaces are, and so are text: of all kinds but WordPiece."""
        return bool(self.space or self._bytes)

    def name(self, piece: int) -> str:
        """The piece as the vocabulary writes it."""
        return self._known(piece)[0]

    def words(self, ids: Sequence[int]) -> Iterator[Word]:
        """The words of some pieces of one text, in order; their texts without marks, spaces and prefix.

        The first piece begins a word whatever it is; where it is marked as going on with one, its text keeps the mark.
        """
        starts = self._starts(ids)
        for start, stop in pairwise([*starts, len(ids)]):
            yield Word(start, stop, self._text(ids[start:stop]))

    def shown(self, ids: Sequence[int]) -> list[str]:
        """Pieces of one text as a reader wants them: their text, with `##` before those that go on with a word.

        WordPiece's are as they are. A character of several pieces is shown at the first of them.
        """
        if not self.spaced:
            return [self.name(piece) for piece in ids]
        starts, names = set(self._starts(ids)), []
        joined, ends = self._joined(ids)
        for at, (begin, end) in enumerate(pairwise([0, *ends])):
            if ids[at] in self._special:
                names.append(self.name(ids[at]))
                continue
            while begin < end and _goes_on(joined[begin]):
                begin += 1
            whole = end
            while begin < end and whole < len(joined) and _goes_on(joined[whole]):
                whole += 1
            text = joined[begin:whole].decode("utf-8", "replace").strip()
            if begin == end and end > (ends[at - 1] if at else 0):
                text = PART_OF_CHARACTER
            names.append((text or self.name(ids[at])) if at in starts else CONTINUES + (text or self.name(ids[at])))
        return names

    def whole_words(self) -> dict[str, int]:
        """word -> the piece that is all of it where it follows a space."""
        found = {}
        for name, piece in self._tokenizer.get_vocab().items():
            if piece in self._special:
                continue
            if self.spaced:
                text = self._of(name).decode("utf-8", "ignore")
                if text.startswith(" ") and len(text.split()) == 1:
                    found[text.strip()] = piece
            elif not (self.prefix and name.startswith(self.prefix)):
                found[name] = piece
        return found

    # Where words begin.

    def _starts(self, ids: Sequence[int]) -> list[int]:
        if not ids:
            return []
        if self.spaced:
            return [0, *self._spaced_starts(ids)]
        if self.prefix:
            return [0, *(i for i in range(1, len(ids)) if not self.name(ids[i]).startswith(self.prefix))]
        if self.suffix:
            return [0, *(i for i in range(1, len(ids)) if self.name(ids[i - 1]).endswith(self.suffix))]
        return list(range(len(ids)))

    def _spaced_starts(self, ids: Sequence[int]) -> Iterator[int]:
        joined, ends = self._joined(ids)
        for i in range(1, len(ids)):
            at = ends[i - 1]
            if ids[i] in self._special or ids[i - 1] in self._special:
                yield i
            elif at < len(joined) and not _goes_on(joined[at]):
                before, after = _last(joined[max(at - 4, 0) : at]), _first(joined[at : at + 4])
                if after.isspace() or any(c and stands_alone(c) for c in (before, after)):
                    yield i

    def _joined(self, ids: Sequence[int]) -> tuple[bytes, list[int]]:
        """The bytes of all pieces, and where each piece ends in them."""
        joined, ends = b"", []
        for piece in ids:
            joined += self._known(piece)[1]
            ends.append(len(joined))
        return joined, ends

    def _text(self, ids: Sequence[int]) -> str:
        names = [self.name(piece) for piece in ids]
        if self.spaced and ids[0] not in self._special:
            text = b"".join(self._known(piece)[1] for piece in ids).decode("utf-8", "surrogateescape").strip()
            return _without_marks(text) or text or "".join(names)
        return "".join([names[0], *(name.removeprefix(self.prefix) for name in names[1:])]).removesuffix(self.suffix)

    def _known(self, piece: int) -> tuple[str, bytes]:
        """(name, bytes) of a piece, spaces being spaces."""
        if piece not in self._texts:
            name = self._tokenizer.convert_ids_to_tokens(piece) or ""
            self._texts[piece] = (
                name,
                name.encode("utf-8", "surrogatepass") if piece in self._special else self._of(name),
            )
        return self._texts[piece]

    def _of(self, name: str) -> bytes:
        if self._bytes and all(c in self._bytes for c in name):
            return bytes(self._bytes[c] for c in name)
        if self._fallback and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes([int(name[3:5], 16)])
        return (name.replace(self.space, " ") if self.space else name).encode("utf-8", "surrogatepass")


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """A pre-tokenizer, normalizer or decoder as it is written down, one after the other where it is a sequence of them."""
    if part is None:
        return
    waiting = [json.loads(part.__getstate__())]
    while waiting:
        state = waiting.pop(0)
        inner = next((v for k, v in state.items() if k in ("pretokenizers", "normalizers", "decoders")), None)
        if inner is None:
            yield state
        else:
            waiting = [*inner, *waiting]


def _mark_of_space(part: dict[str, Any]) -> str:
    """What stands for a space in the pieces, where this is the part that says so; else nothing."""
    if part["type"] == "Metaspace":
        return str(part["replacement"])
    if part["type"] == "Replace" and part.get("pattern") == {"String": " "}:
        return str(part["content"])
    return ""


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level pieces."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}


def _without_marks(text: str) -> str:
    """A word without the punctuation that a piece has beside it."""
    start, stop = 0, len(text)
    while start < stop and stands_alone(text[start]) and not is_ideograph(text[start]):
        start += 1
    while start < stop and stands_alone(text[stop - 1]) and not is_ideograph(text[stop - 1]):
        stop -= 1
    return text[start:stop]


def _goes_on(byte: int) -> bool:
    """Whether a byte of UTF-8 is not a character's first."""
    return byte & 0xC0 == 0x80


def _first(text: bytes) -> str:
    """The first character, "" where there is none that is whole."""
    stop = 1
    while stop < min(len(text), 4) and _goes_on(text[stop]):
        stop += 1
    return text[:stop].decode("utf-8", "ignore")


def _last(text: bytes) -> str:
    """The last character, "" where there is none that is whole."""
    start = len(text) - 1
    while start > 0 and _goes_on(text[start]):
        start -= 1
    return text[max(start, 0) :].decode("utf-8", "ignore")
