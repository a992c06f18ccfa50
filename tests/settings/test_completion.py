"""What Tab offers, as a shell asks for it."""

import pytest
from click.shell_completion import ShellComplete
from typer.main import get_command

from fedalign.cli import app


def offered(*words):
    """Return the completions of the last word, as bash and zsh get them."""
    *before, incomplete = words
    completion = ShellComplete(get_command(app), {}, "fedalign", "_FEDALIGN_COMPLETE")
    return [item.value for item in completion.get_completions(before, incomplete)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ru",), ["run"]),
        (("run", "qui"), ["quickstart"]),
        (("validate", "algorithms/fedpr"), ["algorithms/fedprox"]),
        (("run", "quickstart", "num_"), ["num_clients=10"]),
        (("run", "lmc", "evaluation.match"), ["evaluation.match=", "evaluation.match_start="]),
        (("run", "quickstart", "init="), ["init=shared", "init=own"]),
        (("run", "quickstart", "strategy=fedp"), ["strategy=fedpfn", "strategy=fedpnu"]),
        # of the strategy in quickstart.yaml, which is fedpfn
        (("run", "quickstart", "strategy.fixed_r"), ["strategy.fixed_ratio=0.4"]),
        (("run", "quickstart", "strategy=fedadam", "strategy.beta_2"), ["strategy.beta_2=0.99"]),
        # bash takes `=` for a word
        (("run", "quickstart", "strategy", "=", "fedp"), ["fedpfn", "fedpnu"]),
        (("run", "quickstart", "init", "="), ["shared", "own"]),
        (("run", "lmc", "strategy", "=", "fedadam", "strategy.eta_"), ["strategy.eta_l=0.1"]),
        (("sweep", "mas"), ["masks"]),
        (("list", "dirichlet-"), ["dirichlet-balanced", "dirichlet-sized"]),
        (("list", "evaluation.al"), ["evaluation.alphas"]),
        (("run", "quickstart", "no_such"), []),
        (("run", "no_such_file", "client.l"), []),
    ],
)  # fmt: skip
def test_tab(words, expected):
    assert offered(*words) == expected
