"""Shakespeare by speaker, the text of federated learning (McMahan et al. 2017), and an excerpt."""

import gzip
import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from fedalign.data import Dataset, Part
from fedalign.data.leaf import LEAF_FOLDERS, read_leaf
from fedalign.data.places import Folder, MaxExamples, find
from fedalign.data.text import Cut, MinCharacters, Stride, TestShare, Window, by_speaker
from fedalign.errors import InputError

EXCERPT = Path(__file__).with_name("excerpt.json")
PLAYS = ("shakespeare.txt", "tinyshakespeare.txt")


@dataclass(frozen=True)
class Shakespeare:
    """Shakespeare's plays by speaker: which character follows 80 others (LEAF, Caldas et al. 2018).

    Read from a text of speeches, blank lines between them and the speaker with a colon above each
    (`shakespeare.txt`, `tinyshakespeare.txt`, packed with gzip or not), or from the folders `train`
    and `test` that LEAF writes. Those are cut already: only `max_examples` holds for them.
    """

    dir: Folder = None
    max_examples: MaxExamples = None
    window: Window = 80
    stride: Stride = 1
    test_share: TestShare = 0.2
    min_characters: MinCharacters = 1000

    def load(self, part: Part) -> Dataset:
        """Return one part, from the first place that has it (see `places.find`)."""
        layouts = [(file,) for play in PLAYS for file in (play, f"{play}.gz")]
        found = find("shakespeare", [*layouts, LEAF_FOLDERS], self.dir, None, has_download=False)
        if len(found.files) > 1:
            dataset = read_leaf(found, part, None)
        else:
            texts, digest = read_plays(found.files[0])
            cut = Cut(self.window, self.stride, self.test_share, self.min_characters)
            source = f"Shakespeare by speaker, from {found}, SHA-256 {digest}"
            dataset = by_speaker(texts, part, cut, source)
        return dataset.subset(self.max_examples) if part == "train" else dataset


@dataclass(frozen=True)
class Excerpt:
    """Hamlet, acts I and II, by speaker: 64,000 characters, 12 who say enough; no download."""

    max_examples: MaxExamples = None
    window: Window = 80
    stride: Stride = 4
    test_share: TestShare = 0.2
    min_characters: MinCharacters = 1000

    def load(self, part: Part) -> Dataset:
        """Return one part; as of `Shakespeare`."""
        stored = json.loads(EXCERPT.read_text(encoding="utf-8"))
        texts = {speaker: "\n".join(lines) for speaker, lines in stored["speakers"].items()}
        cut = Cut(self.window, self.stride, self.test_share, self.min_characters)
        dataset = by_speaker(texts, part, cut, "Hamlet, acts I and II, that come with fedalign")
        return dataset.subset(self.max_examples) if part == "train" else dataset


def read_plays(path: Path) -> tuple[dict[str, str], str]:
    """Return what each speaker says, speech after speech, and the SHA-256 of the unpacked text.

    Speakers stand in the order in which they first speak. What stands between blank lines without
    a speaker above it belongs to the speech before.

    Raises:
        InputError: The file is damaged, not UTF-8, or begins without a speaker.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: not a readable text in UTF-8: {error}") from error
    said: dict[str, list[str]] = {}
    speaker = None
    for block in re.split(r"\n\s*\n", text.strip()):
        head, _, speech = block.partition("\n")
        if head.endswith(":"):
            speaker = head.removesuffix(":").strip()
        else:
            speech = block
        if speaker is None:
            raise InputError(f"{path}: begins with {head[:40]!r}, not with a speaker and a colon")
        said.setdefault(speaker, []).extend([speech] if speech else [])
    joined = {speaker: "\n".join(speeches) for speaker, speeches in said.items()}
    return joined, hashlib.sha256(raw).hexdigest()
