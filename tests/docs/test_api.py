"""The API pages have every public name, and no other."""

import importlib

import batchwright as bw
from tests.docs.blocks import ROOT

# The folders whose `__init__` lists public names; of the others, the public names are those of bw.
PACKAGES = ("torch", "keras", "difficulty", "compare", "advise", "pacing", "errors", "typing")


def listed() -> set[str]:
    lines = (
        line
        for page in (ROOT / "docs" / "api").glob("*.md")
        for line in page.read_text("utf-8").splitlines()
    )
    return {line.removeprefix("::: ") for line in lines if line.startswith("::: ")}


def test_every_public_name_is_on_a_page():
    pages = listed()
    assert {f"batchwright.{name}" for name in PACKAGES} <= pages
    assert {f"batchwright.{name}" for name in bw.__all__ if not name.endswith("Error")} <= pages


def test_every_entry_of_a_page_exists():
    for entry in listed():
        module, _, name = entry.rpartition(".")
        found = getattr(importlib.import_module(module), name, None)
        assert found is not None or importlib.import_module(entry)


def test_there_are_at_most_thirty_public_names():
    assert len(bw.__all__) <= 30
    assert set(dir(bw)) == {*bw.__all__, "__version__"}
