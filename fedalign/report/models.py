"""The models of a run that its folder holds, as modules of PyTorch."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, device, nn

from fedalign.data import Part, Spec
from fedalign.errors import InputError, shortened
from fedalign.federation.federation import Federation
from fedalign.network.inputs import Inputs
from fedalign.report.reading import Run
from fedalign.runs.models import BEST, folder_in
from fedalign.settings.config import Config, read

FILES = {"final": "model.safetensors", "best": BEST}


def config_of(run: Run) -> Config:
    """Return the configuration of a run, on the CPU."""
    return read(str(run.path / "config.yaml"), {"device": "cpu"})


def global_model(run: Run, which: str) -> nn.Module:
    """Return the final or the best global model of a run; see `Run.model`."""
    if which not in FILES:
        raise InputError(f"{which!r} is not a model of a run ({', '.join(FILES)})")
    file = run.path / FILES[which]
    if not file.is_file():
        why = f"it has not finished ({run.unfinished})" if run.unfinished else "it kept none"
        raise InputError(f"{run.path} has no {file.name}: {why}")
    return _module(_federation(run), file)


def client_models(run: Run, number: int) -> dict[int, nn.Module]:
    """Return the clients' models of a round, by client; see `Run.client_models`."""
    files = {
        int(found[1]): file
        for file in folder_in(run.path, number).glob("client-*.safetensors")
        if (found := re.fullmatch(r"client-(\d+)", file.stem))
    }
    if not files:
        kept = sorted(int(f.name[6:]) for f in (run.path / "models").glob("round-*"))
        rounds = f"it kept those of rounds {kept}" if kept else "keep_models keeps them"
        raise InputError(f"{run.path} has no clients' models of round {number}; {rounds}")
    federation = _federation(run)
    return {client: _module(federation, files[client]) for client in sorted(files)}


def examples(run: Run, part: Part) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of a part of a run's data set; see `Run.examples`."""
    federation = Federation(config_of(run))
    data = federation.test if part == "test" else federation.reference
    if data is None:
        raise InputError(f"data set {federation.config.data.name!r} has no {part} part")
    return Inputs(data, device("cpu"))(data.images).contiguous(), data.labels


def _federation(run: Run) -> Federation:
    """Return the federation of a run, which need not read its data to know the model."""
    facts = run.manifest.get("data", {})
    return Federation(
        config_of(run), known=Spec.from_config(facts) if "data-shape" in facts else None
    )


def _module(federation: Federation, file: Path) -> nn.Module:
    """Return a new module with the weights of a file, in evaluation mode."""
    module = federation.module(filled=False)
    try:
        module.load_state_dict(load_file(file))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{file} does not hold this model: {shortened(str(error))}") from None
    return module.eval()
