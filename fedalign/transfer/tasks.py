"""The data of evaluation tasks, loaded once; and what cannot be judged by them."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace

from fedalign.data import Dataset, Spec
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.federation.loading import loaded
from fedalign.network.features import last_linear
from fedalign.rng import rng
from fedalign.settings.contracts import HasParts, HasTasks, Source
from fedalign.settings.registry import Part
from fedalign.settings.tasks import PLACE
from fedalign.transfer.probe import LEAST

ANY = {"classes", "names", "mean", "std", "label_sets"}  # in which tasks may differ from the run
TOLD_BY = {"max_examples"}  # options of data sets that do not make other data of them
MAX_SHARED = 0.05  # of an unseen task's examples, among those that clients train on

log = logging.getLogger("fedalign")


@dataclass(frozen=True, eq=False)
class Task:
    """One task.

    Attributes:
        name: as the configuration calls it.
        seen: whether clients train on it.
        train: the examples to probe or fine-tune with, on the device.
        test: those to test on.
        spec: of its examples, which are normalised as the run's are.
    """

    name: str
    seen: bool
    train: Dataset
    test: Dataset
    spec: Spec


def tasks_of(federation: Federation) -> list[Task]:
    """Return the tasks of `evaluation.tasks`, in their order.

    Raises:
        InputError: there is no such task; its examples have another form than the run's; one that
            clients train on is called unseen; or the model has no last linear layer.
    """
    settings = federation.config.evaluation.tasks
    check_model(federation)
    seen = {name: _is_own(federation, name, part) for name, part in settings.on.items()}
    if settings.unseen is not None:
        for name in settings.unseen:
            if seen[name]:
                data = federation.config.data.name
                reason = f"clients train on {name!r}, a part of the data {data!r}"
                raise InputError(f"{PLACE}.unseen: {reason}")
        seen = {name: name not in settings.unseen for name in seen}
    tasks = [_task(federation, name, part, seen[name]) for name, part in settings.on.items()]
    _check_unseen(federation, tasks)
    return tasks


def check_model(federation: Federation) -> str:
    """Return the name of the layer that a task replaces; `InputError` if there is none."""
    network, name = federation.network, federation.config.model.name
    head = last_linear(network.module)
    if head is None:
        raise InputError(f"{PLACE}: model {name!r} has no linear layer, whose inputs are features")
    layer = network.module.get_submodule(head)
    if layer.out_features != federation.spec.classes:
        reason = f"has {layer.out_features} outputs, not {federation.spec.classes} of the classes"
        raise InputError(f"{PLACE}: the last linear layer {head!r} of model {name!r} {reason}")
    return head


def _is_own(federation: Federation, name: str, part: Part | None) -> bool:
    """Return whether a task is a part of the run's own data."""
    source, data = federation.source, federation.config.data
    if part is None:
        return isinstance(source, HasTasks) and name in source.tasks
    both = [{k: v for k, v in own.options.items() if k not in TOLD_BY} for own in (part, data)]
    return part.name == data.name and both[0] == both[1]


def _task(federation: Federation, name: str, part: Part | None, seen: bool) -> Task:
    config, run, place = federation.config, federation.spec, f"{PLACE}.on.{name}"
    source, settings = _source(federation, name, part), config.evaluation.tasks
    if isinstance(source, HasParts) and not source.has("test"):
        raise InputError(f"{place}: has no test part")
    classes = None if part is None else part.options.get("classes")
    try:
        train, test = (loaded(source, of, name, classes) for of in ("train", "test"))
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    if found := _difference(train.spec, run) or _difference(test.spec, run):
        raise InputError(f"{place}: {found}; a body takes examples of one form")
    if len(train) < LEAST:
        raise InputError(f"{place}: {len(train)} training examples are too few; {LEAST} will do")
    rows = rng(config.seed, "task", name).permutation(len(train))[: settings.examples]
    device = federation.network.device
    spec = replace(train.spec, mean=run.mean, std=run.std, names=())
    chosen = train.at(rows).to(device), test.subset(settings.test_examples).to(device)
    return Task(name, seen, *chosen, spec)


def _source(federation: Federation, name: str, part: Part | None) -> Source:
    if part is not None:
        built: Source = part.build()
        return built
    source, data = federation.source, federation.config.data.name
    if not isinstance(source, HasTasks):
        raise InputError(
            f"{PLACE}.on: data set {data!r} knows no tasks by name; give a table, such as "
            f"{{{name}: {{name: mnist}}}}"
        )
    return source.task(name)


def _difference(task: Spec, run: Spec) -> str:
    """Return in what the examples of a task have another form than the run's; "" if in nothing."""
    if (task.shape, task.is_text) != (run.shape, run.is_text):
        return f"its examples are {task.kind}, and the run's {run.kind}"
    ours, theirs = asdict(task), asdict(run)
    other = [key for key in ours.keys() - ANY if ours[key] != theirs[key]]
    return ", ".join(f"its {key} is {ours[key]}, and the run's {theirs[key]}" for key in other)


def _check_unseen(federation: Federation, tasks: list[Task]) -> None:
    """Refuse an unseen task many of whose examples clients train on; warn of a few."""
    unseen = [task for task in tasks if not task.seen]
    known = _keys(federation.train) if unseen and federation.reference is not None else set()
    for task in unseen if known else ():
        keys = _keys(task.train), _keys(task.test)
        shared = max(len(own & known) / len(own) for own in keys)
        said = f"{PLACE}: {shared:.1%} of the examples of {task.name!r}, which is to be unseen, "
        said += "are among those that clients train on"
        if shared > MAX_SHARED:
            raise InputError(f"{said}; leave it out, or let evaluation.tasks.unseen be without it")
        if shared:
            log.warning("%s", said)


def _keys(data: Dataset) -> set[int]:
    """Return a number for each different example."""
    rows = data.images.flatten(1).cpu().contiguous()
    return {hash(row.tobytes()) for row in rows.numpy()}
