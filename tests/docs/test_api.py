"""The API page has every public module, and so every public name."""

import importlib

from tests.docs.blocks import ROOT
from tests.test_imports import MODULES, part

# What users call by its file or its command, and what has no names of its own.
WITHOUT_A_PAGE = {"cli", "batching", "order", "report", "stats", "streams"}


def test_every_public_module_is_on_the_page():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = {line.removeprefix("::: ") for line in page.splitlines() if line.startswith("::: ")}
    packages = {
        name
        for name, path in MODULES.items()
        if path.name == "__init__.py" and name.count(".") <= 1 and part(name) not in WITHOUT_A_PAGE
    }
    assert packages <= listed
    for name in listed - {"batchwright.torch.windows.windows", "batchwright.torch.selection"}:
        assert importlib.import_module(name).__all__
