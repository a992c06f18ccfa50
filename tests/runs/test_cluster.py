"""Runs on the nodes of a Ray cluster, both of them on this machine, end as they do here."""

import re
import time
from pathlib import Path

import pytest
import ray

from fedalign.errors import InputError
from fedalign.runs import nodes
from fedalign.runs.cluster import RemoteWorker, cluster
from fedalign.runs.nodes import ground_of
from fedalign.runs.room import room_for
from fedalign.settings.config import read


def runs(count=20, **settings):
    return [read("quickstart", {key.replace("__", "."): v for key, v in settings.items()})] * count


def node(cpus, gpus=0):
    return {"CPU": float(cpus), "GPU": float(gpus)}


@pytest.mark.parametrize(
    ("there", "jobs", "settings", "expected"),
    [  # jobs, threads, CPUs, GPUs, places of nodes with room
        ([node(8), node(3)], None, {}, (5, 2, 2, 0, [0, 1])),
        ([node(1), node(1)], None, {}, (2, 1, 1, 0, [0, 1])),
        ([node(8), node(8)], 4, {}, (4, 4, 4, 0, [0, 1])),
        ([node(8), node(8)], 1, {}, (1, 8, 8, 0, [0, 1])),
        ([node(4)], 50, {}, (4, 1, 1, 0, [0])),
        ([node(8), node(3)], None, {"evaluation__threads": 4}, (2, 2, 4, 0, [0])),
        ([node(8)], None, {"simulation__client_cpus": 3}, (2, 2, 3, 0, [0])),
        ([node(8), node(8, 2)], None, {}, (2, 2, 2, 1, [1])),
        ([node(8), node(8, 2)], None, {"device": "cpu"}, (8, 2, 2, 0, [0, 1])),
        ([node(8, 1), node(8, 1)], 6, {"device": "cuda"}, (6, 2, 2, 1 / 3, [0, 1])),
        ([node(8, 1), node(8, 1)], 3, {}, (3, 4, 4, 1 / 2, [0, 1])),
    ],
)
def test_room(there, jobs, settings, expected):
    found = room_for(runs(**settings), there, jobs)
    want_jobs, threads, cpus, gpus, places = expected
    assert (found.jobs, found.threads, found.cpus) == (want_jobs, threads, cpus)
    assert found.gpus == pytest.approx(gpus)
    assert found.nodes == places


def test_no_more_jobs_than_runs():
    assert room_for(runs(3), [node(64)], None).jobs == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"evaluation__threads": 9}, r"a run takes 9 CPUs, .*\(8 CPUs, 0 GPUs; 0 CPUs, 0 GPUs\)"),
        ({"device": "cuda"}, "a run takes 2 CPUs and 1 GPUs"),
    ],
)
def test_runs_that_no_node_has_room_for_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        room_for(runs(1, **settings), [node(8), node(0)], None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda:1"}, "device: 'cuda:1' is not allowed with --address"),
        ({"simulation__backend": "ray"}, "simulation.backend: 'ray' spreads the clients"),
        ({"simulation__backend": "flower"}, "simulation.backend: 'flower' spreads"),
        ({"simulation__address": "head:1"}, "no simulation.address"),
        ({"simulation__client_gpus": 0.5}, "simulation.client_gpus: 0.5 is not allowed"),
    ],
)
def test_runs_that_would_leave_their_job_are_refused_before_ray_is_asked(settings, words):
    with pytest.raises(InputError, match=words), cluster("127.0.0.1:9", runs(**settings), None):
        pass


def test_a_node_needs_the_folders_and_the_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_node_rule.py").write_text("A = 1\n")
    out, tops = tmp_path / "deep" / "runs", frozenset({"my_node_rule"})
    with ground_of(str(tmp_path), [out, out], tops) as ground:
        assert ground.fault() is None
        (tmp_path / "my_node_rule.py").write_text("A = 2\n")
        assert re.search(r"has other code .*: my_node_rule.py \(\w+, here \w+\)$", ground.fault())
        monkeypatch.setattr(nodes, "code_of", lambda _: {**ground.code, "torch": "1.0"})
        assert re.search(r"here: torch \(1\.0, here [\d.]+\)$", ground.fault())
        Path(ground.marks[str(out)]).unlink()
        told = ground.unseen()
        assert told.startswith(f"does not see {out} as it is here")
        Path(ground.marks[str(out)]).touch()
        assert ground.unseen() is None
        gone = nodes.Ground(str(tmp_path / "gone"), ground.marks, tops, ground.code)
        assert "has no folder" in gone.fault()
    assert list(out.iterdir()) == []


class Call:
    """What Ray returns for a call: done at once, or never, with a value or an error."""

    def __init__(self, value=None, done=True):
        self.value, self.done = value, done

    def future(self):
        return self

    def add_done_callback(self, tell):
        if self.done:
            tell(self)


class Job:
    """An actor whose calls are noted."""

    def __init__(self, **answers):
        self.calls, self.answers = [], answers

    def __getattr__(self, name):
        def remote(*words):
            self.calls.append((name, *words))
            return self.answers.get(name, Call())

        return type("Method", (), {"remote": staticmethod(remote)})


@pytest.fixture
def rays(monkeypatch):
    """Let calls of a fake job be got, waited for and killed."""

    def get(call, timeout=None):  # noqa: ARG001
        if isinstance(call.value, Exception):
            raise call.value
        return call.value

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda job: job.calls.append(("kill",)))
    monkeypatch.setattr(ray, "wait", lambda calls, timeout: ([c for c in calls if c.done], []))  # noqa: ARG005


@pytest.mark.usefixtures("rays")
def test_a_job_gets_its_threads_and_answers():
    job = Job(node=Call("b (10.0.0.2)"), run=Call(("no luck", True)))
    worker = RemoteWorker(job, 3)
    own, given = runs(1, out="~/x")[0], runs(1, evaluation__threads=5)[0]
    for config, threads in ((own, 3), (given, 5)):
        worker.give(config)
        told = read(job.calls[-1][1], {})
        assert told.evaluation.threads == threads
        assert told.digest() == config.digest()
        assert worker.take() == ("no luck", True)
    assert read(job.calls[1][1], {}).folder == own.folder
    worker.stop()
    worker.join(0.0)
    worker.end()
    assert [call[0] for call in job.calls[-3:]] == ["stop", "end", "kill"]


DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: Job
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes \
include: (1) the process was killed by the OOM killer"""


@pytest.mark.usefixtures("rays")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ray.exceptions.RayError(DIED), "Worker unexpectedly exits with a connection error code"),
        (ray.exceptions.ActorUnavailableError("a", b"0" * 16), "there is no connection to it"),
    ],
)
def test_a_job_that_dies_is_named_with_its_node(error, told):
    worker = RemoteWorker(Job(node=Call("b (10.0.0.2)"), run=Call(error)), 1)
    worker.give(runs(1)[0])
    why, warm = worker.take()
    assert why.startswith(f"its job on node b (10.0.0.2) died: {told}")
    assert not why.endswith("killer")
    assert not warm


@pytest.mark.usefixtures("rays")
def test_a_job_without_a_place_is_not_waited_for():
    job = Job(node=Call(done=False), run=Call(done=False))
    worker = RemoteWorker(job, 1)
    worker.give(runs(1)[0])
    assert not worker.begun
    began = time.monotonic()
    worker.stop()
    worker.join(30.0)
    worker.end()
    assert time.monotonic() - began < 10
    assert [call[0] for call in job.calls] == ["node", "run", "kill"]
