import tomllib

import fedalign
from fedalign.config import KINDS, Config, flatten
from fedalign.registry import BUILTIN, HOME, options
from fedalign.sections import Evaluation

MANIFEST = tomllib.loads((HOME / "pyproject.toml").read_text())


def test_the_version_is_said_twice_and_alike():
    assert MANIFEST["project"]["version"] == fedalign.__version__


def test_flwr_run_accepts_every_setting():
    """Flower refuses a run config key that the manifest does not list."""
    listed = flatten(MANIFEST["tool"]["flwr"]["app"]["config"])
    settings = set(Config.model_fields) - set(KINDS) - {"evaluation", "simulation"}
    settings |= {f"evaluation.{key}" for key in Evaluation.model_fields}
    for place, kind in KINDS.items():
        settings.add(f"{place}.name")
        settings |= {f"{place}.{key}" for name in BUILTIN[kind] for key in options(kind, name)}
    assert set(listed) == settings | {"config", "overrides"}
    assert {key for key, value in listed.items() if value != ""} == {"config"}
