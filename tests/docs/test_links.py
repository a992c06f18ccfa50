"""Links of the READMEs, which are not part of the site; `make docs` checks those of the site."""

import re

import pytest

from tests.docs.blocks import HOME

PAGES = ["README.md", "CONTRIBUTING.md", "docker/README.md", "examples/my-partitioner/README.md"]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)")


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall((HOME / page).read_text(encoding="utf-8")):
        file = (HOME / page).parent / target if target else HOME / page
        assert file.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), (page, anchor)
