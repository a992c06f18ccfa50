"""Federated learning simulations that keep models aligned, so that they can be averaged."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedalign.api import load, run, sweep
    from fedalign.errors import FedalignError, InputError
    from fedalign.report.comparison import compare
    from fedalign.report.gallery import figure
    from fedalign.report.reading import Run

__version__ = "0.1.0"
__all__ = [
    "FedalignError",
    "InputError",
    "Run",
    "__version__",
    "compare",
    "figure",
    "load",
    "run",
    "sweep",
]

_HOMES = {  # imported when first used, since PyTorch and Flower take seconds
    "run": "fedalign.api",
    "load": "fedalign.api",
    "sweep": "fedalign.api",
    "compare": "fedalign.report.comparison",
    "figure": "fedalign.report.gallery",
    "Run": "fedalign.report.reading",
    "FedalignError": "fedalign.errors",
    "InputError": "fedalign.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("fedalign.console").prepare()  # before Flower is imported
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
