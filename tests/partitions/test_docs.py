"""docs/partitions.md says what there is, and what it shows is the example that is tested."""

import re

import pytest

from fedalign.settings.builtin import BUILTIN
from fedalign.settings.registry import HOME, options

PAGE = (HOME / "docs" / "partitions.md").read_text()
EXAMPLE = HOME / "examples" / "my-partitioner"


@pytest.mark.parametrize("name", BUILTIN["partitioners"])
def test_every_partitioner_has_a_row_that_names_its_options(name):
    (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.MULTILINE)
    for option in options("partitioners", name):
        assert f"`{option}" in row


@pytest.mark.parametrize("kind", ["python", "toml"])
def test_code_is_that_of_the_example(kind):
    files = [file.read_text() for file in EXAMPLE.iterdir() if file.is_file()]
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert blocks
    assert all(block in files for block in blocks)


@pytest.mark.parametrize("kind", BUILTIN)
def test_every_kind_of_part_has_its_entry_point(kind):
    assert f"`fedalign.{kind}`" in PAGE
