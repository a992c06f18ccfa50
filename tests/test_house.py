"""The rules of CONTRIBUTING.md that a machine can check: imports, private names, random numbers."""

import ast
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.metadata import version

import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from packaging.requirements import Requirement

from fedalign.settings.registry import FOLDERS, HOME
from fedalign.simulation.inline import InlineGrid

# Rooms import downwards; those in one row may import each other, but not in a circle.
ORDER = (
    "cli",
    "commands api",
    "studies server_app deploy",
    "report",
    "trackers",
    "runs",
    "server strategies client_app",
    "fusions",
    "transfer",
    "landscape training",
    "clients simulation federation",
    "algorithm messages",
    "masks",
    "network",
    "console",
    "models settings data partitions",
    "partitioning testing",
    "seeding files usage",
    "errors rng __version__",
)
RANKS = {room: rank for rank, row in enumerate(ORDER) for room in row.split()}

# What Flower documents for authors of apps.
PUBLIC = {
    "flwr",
    "flwr.app",
    "flwr.clientapp",
    "flwr.clientapp.mod",
    "flwr.clientapp.typing",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
    "flwr.simulation",
}
# All that is used beyond that, and where.
PRIVATE_IMPORTS = {
    "fedalign/client_app.py": {"flwr.supercore.differential_privacy.KEY_CLIPPING_NORM"},
    "fedalign/messages/records.py": {"flwr.supercore.differential_privacy.KEY_CLIPPING_NORM"},
    "fedalign/messages/partial_sums.py": {
        "flwr.serverapp.strategy.strategy_utils.aggregate_metricrecords"
    },
    "fedalign/server/metered.py": {"flwr.proto.message_pb2.ConfirmMessageReceivedRequest"},
    "fedalign/server/strategies.py": {"flwr.supercore.differential_privacy.KEY_NORM_BIT"},
    "fedalign/simulation/app.py": {"flwr.common.config.flatten_dict"},
    "fedalign/simulation/grid.py": {
        "flwr.common.constant.NUM_PARTITIONS_KEY",
        "flwr.common.constant.PARTITION_ID_KEY",
        "flwr.common.constant.SUPERLINK_NODE_ID",
        "flwr.supercore.run.Run",
        "flwr.supercore.task_identity.TaskIdentity",
    },
    "fedalign/simulation/serving.py": {
        "flwr.common.constant.ErrorCode",
        "flwr.server.superlink.linkstate.utils.create_message_error_unavailable_ins_message",
    },
}
METADATA = {"_delivered_at", "_message_id", "_run_id", "_src_node_id"}
PRIVATE_ATTRIBUTES = {
    "fedalign/models/symmetry.py": {"_modules"},  # torch's, the children of a Sequential in order
    "fedalign/messages/copies.py": {"_content", "_data", "_dst_node_id", "_metadata"},
    "fedalign/network/twins.py": {"_forward_hooks", "_forward_pre_hooks"},  # torch's
    "fedalign/server/strategies.py": {"_construct_messages"},
    "fedalign/simulation/grid.py": METADATA,
}

# A global generator is drawn from, or set, only here.
GLOBAL_GENERATORS = {
    "fedalign/seeding.py": {
        *("random", "np.random.seed", "np.random.get_state", "np.random.set_state"),
        *("np.random.RandomState", "np.random.random_sample"),
        "torch.default_generator.manual_seed",
    },
    "fedalign/testing.py": {"np.random.get_state"},  # to see whether a partitioner drew from it
    # Weights of models, which `Federation` makes under `seeded`.
    "fedalign/models/text.py": {"nn.init.normal_", "torch.randn"},
    "fedalign/models/vit.py": {"torch.randn"},
}
OWN_GENERATORS = {"default_rng", "Generator", "PCG64", "SeedSequence", "fork_rng"}
DRAWS = {
    "bernoulli", "initial_seed", "manual_seed", "multinomial", "normal", "poisson", "rand",
    "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "seed",
    "set_rng_state",
}  # fmt: skip
DRAWS_IN_PLACE = {
    "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_",
    "uniform_",
}  # fmt: skip

LINES = 300

SOURCES = {
    path.relative_to(HOME).as_posix(): path
    for folder in ("fedalign", *FOLDERS)
    for path in sorted((HOME / folder).rglob("*.py"))
}


def each_file(found):
    """Return what `found` returns of each file, without those of which it returns nothing."""
    return {file: what for file in SOURCES if (what := found(file))}


@cache
def tree(file):
    return ast.parse(SOURCES[file].read_text())


def within(file, is_root):
    """Return all nodes below those for which `is_root` holds."""
    roots = [node for node in ast.walk(tree(file)) if is_root(node)]
    return {node for root in roots for part in root.body for node in ast.walk(part)}


def for_types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def under_fork(node):
    return isinstance(node, ast.With) and "fork_rng" in ast.unparse(node.items[0])


@cache
def imported(file):
    """Return the dotted names that a file imports when it runs."""
    names = set()
    for node in set(ast.walk(tree(file))) - within(file, for_types_only):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(name):
    """Return `masks` of `fedalign.masks.plan`, and `strategies` of `strategies.masked`."""
    first, *rest = name.split(".")
    return rest[0] if first == "fedalign" and rest else first


def rooms():
    """Return by room which others it imports, and by which files."""
    found = {}
    for file in SOURCES:
        room = room_of(file.removesuffix(".py").replace("/", "."))
        for name in imported(file):
            if name.split(".")[0] in ("fedalign", *FOLDERS) and room_of(name) != room:
                found.setdefault(room, {}).setdefault(room_of(name), set()).add(file)
    return found


def test_rooms_import_downwards():
    upwards = [
        f"{room} -> {other}: {sorted(files)}"
        for room, others in rooms().items()
        for other, files in others.items()
        if RANKS[room] > RANKS[other]
    ]
    assert not upwards


def test_no_circle_of_rooms():
    TopologicalSorter({room: set(others) for room, others in rooms().items()}).prepare()


def other_parts(file):
    others = set(FOLDERS) - {file.split("/")[0]}
    return {name.split(".")[0] for name in imported(file)} & others


def test_parts_are_reached_only_through_the_registry():
    """So a user's own part is written exactly as a built-in one."""
    assert each_file(other_parts) == {}


def private_imports(file):
    flowers = {name for name in imported(file) if name.split(".")[0] == "flwr"}
    return {name for name in flowers - PUBLIC if name.rpartition(".")[0] not in PUBLIC}


def private_attributes(file):
    """Return `_name` of `thing._name`, `thing.__dict__["_name"]` and `update(_name=…)`.

    Those of `self`, and those that the file itself gives to `self`, are its own.
    """
    found, own = set(), set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Attribute):
            (own if ast.unparse(node.value) in ("self", "cls") else found).add(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            if ast.unparse(node.value).endswith("__dict__"):
                found.add(node.slice.value)
        elif isinstance(node, ast.Call) and "__dict__" in ast.unparse(node.func):
            found |= {word.arg for word in node.keywords}
    return {name for name in found - own if name.startswith("_") and not name.startswith("__")}


def test_private_names_of_others_are_listed():
    assert each_file(private_imports) == PRIVATE_IMPORTS
    assert each_file(private_attributes) == PRIVATE_ATTRIBUTES


@pytest.mark.parametrize("name", sorted(set().union(*PRIVATE_IMPORTS.values())))
def test_flower_has_each_private_name(name):
    module, _, name = name.rpartition(".")
    assert hasattr(import_module(module), name)


def test_flowers_messages_and_tasks_have_the_attributes_that_we_set():
    identity = type(import_module("flwr.supercore.task_identity").TaskIdentity)
    for name in ("run_id", "node_id", "task_id"):
        assert vars(identity)[name].fset, name
    InlineGrid(ClientApp(), 1)  # sets them, which a message needs
    message = Message(RecordDict(), 1, "train")
    assert vars(message).keys() >= {"_content", "_metadata"}
    assert "_data" in vars(message.content)
    assert vars(message.metadata).keys() >= {"_dst_node_id", *METADATA}


def test_flower_is_of_a_version_that_was_tried():
    wanted = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["dependencies"]
    (flower,) = (Requirement(line) for line in wanted if line.startswith("flwr"))
    assert flower.specifier.contains(version("flwr"))
    assert not flower.specifier.contains("1.43.0")


def draws(file):
    """Return what a file calls that draws from a global generator, or sets one."""
    found = {name for name in imported(file) if name.split(".")[0] == "random"}
    for node in set(ast.walk(tree(file))) - within(file, under_fork):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        module, last = ast.unparse(node.func.value), node.func.attr
        of_numpy = module in ("np.random", "numpy.random") and last not in OWN_GENERATORS
        of_torch = module.startswith("torch") and "(" not in module and last in DRAWS
        given = any(word.arg == "generator" for word in node.keywords)
        if of_numpy or ((of_torch or last in DRAWS_IN_PLACE) and not given):
            found.add(f"{module}.{last}")
    return found


def test_random_numbers_come_from_a_generator_of_their_own():
    assert each_file(draws) == GLOBAL_GENERATORS


def test_a_file_is_no_longer_than_a_thought():
    counts = {file: SOURCES[file].read_text().count("\n") for file in SOURCES}
    assert {file: count for file, count in counts.items() if count > LINES} == {}


UNPICKLE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LOADERS = {"torch.load", "pd.read_pickle", "pandas.read_pickle", "np.lib.format.read_array"}


def unpickles(file):
    """Return how a file could run what it reads, with the lines."""
    found = {name for name in imported(file) if name.split(".")[0] in UNPICKLE}
    calls = [node for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]
    tensors_only = [
        call.func for call in calls if "weights_only=True" in map(ast.unparse, call.keywords)
    ]
    for node in ast.walk(tree(file)):
        loads = isinstance(node, ast.Attribute) and ast.unparse(node) in LOADERS
        if loads and node not in tensors_only:
            found.add(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"eval", "exec"}:
            found.add(f"line {node.lineno}: {ast.unparse(node.func)}")
        unsafe = isinstance(node, ast.keyword) and node.arg == "allow_pickle"
        if unsafe and ast.unparse(node.value) != "False":
            found.add(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_nothing_is_unpickled():
    """What comes over a network or from a file is numbers and text; nothing in it is run."""
    assert each_file(unpickles) == {}
