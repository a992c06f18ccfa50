"""Every block and command in the pages and the READMEs is right; what is dear runs as `slow`."""

import re
import tomllib

import pytest
import yaml

from fedalign.settings.config import read
from fedalign.studies.plan import plan
from fedalign.studies.sweep import read_sweep
from tests.docs.blocks import ALL, PAGES, RUN, SHELL, SHOWN, blocks, spans
from tests.docs.shell import files_of, help_of_fedalign, parsed, resolve, run

LANGUAGES = {*SHELL, *SHOWN, "python", "yaml", "toml"}
DONE = [block for block in RUN if block.language in (*SHELL, "python")]


def test_no_block_goes_unnoticed():
    """A block of a language that no test reads, or of a command that none runs, is a mistake."""
    assert len(RUN) > 30
    for block in ALL:
        assert block.language in LANGUAGES, f"{block}: {block.language}"
        others = [words for words in block.commands if words[0] != "fedalign"]
        assert block not in RUN or not others, f"{block}: say why it is not run: {others}"
        if block.language == "":
            assert not block.text.startswith("fedalign "), f"{block}: say that it is bash"


@pytest.mark.parametrize("block", [b for b in ALL if "not run" in b.notes], ids=str)
def test_why_it_is_not_run(block):
    pytest.skip(block.notes["not run"])


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_blocks_and_text_are_right(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with files_of(blocks(page), tmp_path):
        for block in blocks(page):
            for words in block.commands:
                if words[0] == "fedalign":
                    _, context = parsed(words)
                    if "not run" not in block.notes:
                        resolve(context)
        for words in spans(page):
            _check_span(words)


def _check_span(words):
    """A command in the text may leave things out; what it names must exist."""
    if words[1].startswith("-"):  # of `fedalign` itself: not parsed, since that does it
        assert words[1] in help_of_fedalign()
        return
    command, context = parsed(words, resilient=True)
    known = {flag for parameter in command.params for flag in parameter.opts} | {"--help", "-h"}
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert flags <= known or context.ignore_unknown_options, words
    config = str(context.params.get("config", context.params.get("file", "")))
    if (
        config.islower()
        and "." not in config
        and not any(re.search("[…<]", word) or word.isupper() for word in words)
    ):
        resolve(context)


@pytest.mark.parametrize("block", [b for b in RUN if b.language == "yaml"], ids=str)
def test_yaml_is_a_configuration(block, tmp_path):
    tree, file = yaml.safe_load(block.text), tmp_path / "shown.yaml"
    file.write_text(block.text, encoding="utf-8")
    assert plan(read_sweep(str(file))) if "sweep" in tree else read(str(file), {})


@pytest.mark.parametrize("block", [b for b in RUN if b.language == "toml"], ids=str)
def test_toml_can_be_read(block):
    assert tomllib.loads(block.text)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in DONE}))
def test_page_does_what_it_says(page, tmp_path, monkeypatch):
    """Run the blocks of a page one after another in one folder, commands in small."""
    monkeypatch.chdir(tmp_path)
    shown = [block for block in DONE if block.page == page]
    with files_of(blocks(page), tmp_path) as namespace:
        for block in shown:
            for words in block.commands:
                run(words)
            if block.language == "python" and "file" not in block.notes:
                exec(compile(block.text, str(block), "exec"), namespace)
