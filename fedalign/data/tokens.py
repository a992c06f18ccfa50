"""From texts to the numbers of tokens, by a tokenizer that belongs to a model, or by words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fedalign.data.packaged import find_model, needed
from fedalign.data.spec import PAD
from fedalign.errors import InputError

PLACE = "data.tokenizer"
FILE = "tokenizer.json"  # of a fast tokenizer, complete
PAD_NAMES = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")
WORD = re.compile(r"\w+|[^\w\s]")
UNKNOWN = 1  # the number of a word that is not in the vocabulary

Numbers = npt.NDArray[np.int32]


class Encoded(NamedTuple):
    """Texts as tokens.

    Attributes:
        tokens: `(N, L)`, filled up with `PAD`.
        cut: how many of the texts were longer.
    """

    tokens: Numbers
    cut: int


class Encoder(Protocol):
    """Turns texts into tokens; equal ones do it alike."""

    def __hash__(self) -> int: ...

    @property
    def vocabulary(self) -> int:
        """The number of tokens, `PAD` included."""
        ...

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the tokens of texts."""
        ...


@lru_cache(maxsize=64)
def encoded(encoder: Encoder, texts: tuple[str, ...]) -> Encoded:
    """Return the tokens of texts; a process encodes the same texts once."""
    return encoder.encode(texts)


@dataclass(frozen=True)
class Words:
    """Words and signs in lower case; 0 fills up and 1 is any word that is not in the vocabulary.

    >>> words = Words.of(["A film, a good film"], most=3, length=6)
    >>> words.words
    ('a', 'film', ',')
    >>> words.encode(["A bad film"]).tokens.tolist()
    [[2, 1, 3, 0, 0, 0]]
    """

    words: tuple[str, ...]
    length: int

    @classmethod
    def of(cls, texts: Iterable[str], most: int, length: int) -> Words:
        """Return the encoder that knows the most frequent words of texts."""
        counts = Counter(word for text in texts for word in _words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ranked[:most]), length)

    @property
    def vocabulary(self) -> int:
        """The number of words, and two."""
        return len(self.words) + 2

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, UNKNOWN + 1)}

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the tokens of texts."""
        rows = [[self._numbers.get(word, UNKNOWN) for word in _words(text)] for text in texts]
        tokens = np.full((len(rows), self.length), PAD, np.int32)
        for place, row in zip(tokens, rows, strict=True):
            place[: len(row)] = row[: self.length]
        return Encoded(tokens, sum(len(row) > self.length for row in rows))


@dataclass(frozen=True)
class Pretrained:
    """The fast tokenizer of a pretrained model.

    Where its own number of the token that fills up is not `PAD`, the two are exchanged, and the
    model exchanges them back.

    Attributes:
        file: `tokenizer.json`, or the name of a model on the hub.
        length: tokens of each text, with those that begin and end it.
    """

    file: str
    length: int

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = _read(self.file)
        known = tokenizer.get_vocab(with_added_tokens=True)
        own = (tokenizer.padding or {}).get("pad_token")
        name = next((name for name in (own, *PAD_NAMES) if name in known), None)
        if name is None:
            raise InputError(f"{PLACE}: {self.file} has no token that fills up, such as [PAD]")
        if self.length <= tokenizer.num_special_tokens_to_add(is_pair=False):
            raise InputError(f"data.length: {self.length} leaves no token for the text itself")
        tokenizer.enable_truncation(self.length)
        tokenizer.enable_padding(length=self.length, pad_id=known[name], pad_token=name)
        return tokenizer

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the tokens of texts."""
        found, pad = self._tokenizer.encode_batch(list(texts)), self._tokenizer.padding["pad_id"]
        tokens = np.array([own.ids for own in found], np.int32).reshape(-1, self.length)
        cut = sum(bool(own.overflowing) for own in found)
        return Encoded(np.select([tokens == pad, tokens == PAD], [PAD, pad], tokens), cut)


def encoder_of(name: str | None, length: int) -> Pretrained:
    """Return the tokenizer of a pretrained model, see `packaged.find_model`, or of a file."""
    if name is not None and Path(name).expanduser().is_file():
        return Pretrained(str(Path(name).expanduser()), length)
    found = find_model(name, FILE, PLACE)
    return Pretrained(str(found / FILE) if isinstance(found, Path) else found, length)


def _read(file: str) -> Any:
    tokenizer = needed("tokenizers", PLACE).Tokenizer
    is_file = Path(file).is_file()
    try:
        return tokenizer.from_file(file) if is_file else tokenizer.from_pretrained(file)
    except Exception as error:  # the library raises plain ones
        where = "" if is_file else " of that name on the hub, and no such folder"
        raise InputError(f"{PLACE}: {file!r}: no tokenizer{where}: {error}") from None


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
