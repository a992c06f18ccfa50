"""What a notebook's cell shows while a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from rich.console import RenderableType
from rich.jupyter import JupyterMixin


class Cell(JupyterMixin):
    """A place in a notebook's output whose content is replaced; needs no widgets.

    Any thread may update it. What it showed last is stored in the notebook.

    Args:
        draw: returns what it shows.
    """

    def __init__(self, draw: Callable[[], RenderableType]):
        self._draw = draw
        self._place: Any = None

    def __rich__(self) -> RenderableType:
        return self._draw()

    def update(self) -> None:
        """Show what `draw` returns now."""
        if self._place is None:
            self._place = import_module("IPython.display").display(self, display_id=True)
        else:
            self._place.update(self)
