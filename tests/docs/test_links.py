"""Links from the pages outside of the documentation lead somewhere; mkdocs checks those inside."""

import re

import pytest

from tests.docs.blocks import ROOT


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    assert linked
    missing = [target for target in linked if not (ROOT / target).exists()]
    assert not missing
