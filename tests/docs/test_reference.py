"""The pages that are made from the code name all that there is."""

import typer
from from_code import MADE, commands, filled

from fedalign.cli import app
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.config import Config
from fedalign.settings.registry import options
from fedalign.settings.sections import Evaluation, Simulation
from fedalign.settings.tasks import Tasks
from tests.docs.blocks import HOME


def test_every_setting_has_a_row():
    text = MADE["settings"]()
    sections = {"": Config, "evaluation.": Evaluation, "simulation.": Simulation}
    sections["evaluation.tasks."] = Tasks
    tables = ("evaluation", "simulation", "tasks")
    for prefix, section in sections.items():
        for key in section.model_fields:
            assert f"| `{prefix}{key}` |" in text or key in tables, key


def test_every_part_has_a_section_with_its_options():
    for kind, names in BUILTIN.items():
        sections = dict(part.split("\n", 1) for part in MADE[kind]().split("## ")[1:])
        assert list(sections) == list(names)
        for name, text in sections.items():
            shared = options("clients", "local") if kind == "clients" and name != "local" else {}
            for key in options(kind, name).keys() - shared.keys():
                assert f"| `{key}` |" in text, (kind, name, key)


def test_all_that_is_made_has_a_page():
    pages = "".join(file.read_text("utf-8") for file in (HOME / "docs").rglob("*.md"))
    assert {name for name in MADE if f"<!-- from the code: {name} -->" in pages} == set(MADE)


def test_every_command_has_a_section_with_its_options():
    text = MADE["commands"]()
    walked = {n: c for c, n in commands.walk(typer.main.get_command(app), "fedalign")}
    assert {"fedalign run", "fedalign list", "fedalign deploy submit"} <= walked.keys()
    for name, command in walked.items():
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section
        for option in command.params:
            assert option.opts[-1] in section or option.make_metavar(None) in section, name


def test_markup_in_a_docstring_stays_text():
    row = commands.table(["a"], [["<b> or `x | <y>` | [z]"]])
    assert row.splitlines()[-1] == r"| &lt;b> or `x \| <y>` \| [z] |"


def test_links_that_leave_the_site_become_names():
    text = "[a](../docker/README.md#data), [b](../pyproject.toml), [c](data.md), ![d](../x.png)"
    seen = "[a](docker.md#data), `pyproject.toml`, [c](data.md), ![d](../x.png)"
    assert filled(text, "deployment") == seen
    assert "](docs/" not in filled("<!-- the text of: CONTRIBUTING.md -->", "design")
