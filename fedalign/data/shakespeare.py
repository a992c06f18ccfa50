"""Shakespeare by speaker, the usual text of federated learning (McMahan et al. 2017)."""

import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from fedalign.data import Dataset, Part
from fedalign.data.formats import unpacked
from fedalign.data.leaf import LEAF_FOLDERS, read_leaf
from fedalign.data.places import Folder, MaxExamples, find
from fedalign.data.text import Cut, Stride, by_speaker
from fedalign.errors import InputError

EXCERPT = Path(__file__).with_name("excerpt.json")
PLAYS = ("shakespeare.txt", "tinyshakespeare.txt")


@dataclass(frozen=True)
class Shakespeare(Cut):
    """Shakespeare's plays by speaker: predict the next character after 80 (Caldas et al. 2018).

    The source is a text file (`shakespeare.txt` or `tinyshakespeare.txt`, compressed with gzip or
    not) in which blank lines separate speeches and a line with the speaker and a colon precedes
    each; or the folders `train` and `test` that LEAF writes. LEAF's examples are cut already, so
    only `max_examples` applies to them.
    """

    dir: Folder = None
    max_examples: MaxExamples = None

    def load(self, part: Part) -> Dataset:
        """Return one part, from the first place that has it; see `places.find`."""
        layouts = [(file,) for play in PLAYS for file in (play, f"{play}.gz")]
        found = find("shakespeare", [*layouts, LEAF_FOLDERS], self.dir, None, has_download=False)
        if len(found.files) > 1:
            dataset = read_leaf(found, part, None)
        else:
            texts, digest = read_plays(found.files[0])
            source = f"Shakespeare by speaker, from {found}, SHA-256 {digest}"
            dataset = by_speaker(texts, part, self, source)
        return dataset.subset(self.max_examples) if part == "train" else dataset


@dataclass(frozen=True)
class Excerpt(Cut):
    """Hamlet, acts I and II, by speaker: 64,000 characters, 12 speakers; included in fedalign."""

    stride: Stride = 4
    max_examples: MaxExamples = None

    def load(self, part: Part) -> Dataset:
        """Return one part, cut as `Shakespeare` is."""
        stored = json.loads(EXCERPT.read_text(encoding="utf-8"))
        texts = {speaker: "\n".join(lines) for speaker, lines in stored["speakers"].items()}
        dataset = by_speaker(texts, part, self, "Hamlet, acts I and II, that come with fedalign")
        return dataset.subset(self.max_examples) if part == "train" else dataset


def read_plays(path: Path) -> tuple[dict[str, str], str]:
    """Return the speeches of each speaker, joined, and the SHA-256 of the uncompressed text.

    Speakers are in the order in which they first speak. A block of lines without a speaker above it
    continues the previous speech.

    Raises:
        InputError: The file is damaged, not UTF-8, or does not begin with a speaker.
    """
    try:
        raw = unpacked(path)
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: not a readable text in UTF-8: {error}") from error
    speeches: dict[str, list[str]] = {}
    speaker = None
    for block in re.split(r"\n\s*\n", text.strip()):
        head, _, speech = block.partition("\n")
        if head.endswith(":"):
            speaker = head.removesuffix(":").strip()
        else:
            speech = block
        if speaker is None:
            raise InputError(f"{path}: begins with {head[:40]!r}, not with a speaker and a colon")
        speeches.setdefault(speaker, []).extend([speech] if speech else [])
    joined = {speaker: "\n".join(own) for speaker, own in speeches.items()}
    return joined, hashlib.sha256(raw).hexdigest()
