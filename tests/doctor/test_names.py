"""The findings on the page of the doctor are those that it has."""

import ast
import re
from pathlib import Path

from batchwright.doctor.finding import LEVELS
from tests.docs.blocks import ROOT

SOURCE = ROOT / "src" / "batchwright" / "doctor"
TEXT = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
ROW = re.compile(rf"^\| ([^|]+) \| ((?:{'|'.join(LEVELS)})(?:, \w+)*) \|", re.MULTILINE)


def trees() -> list[ast.Module]:
    files = [Path(each) for each in SOURCE.rglob("*.py")]
    return [ast.parse(each.read_text(encoding="utf-8")) for each in files]


def names_given() -> set[str]:
    """List the names that findings are made with, where they stand beside the call."""
    found = set()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                given = [each.value for each in node.keywords if each.arg == "name"]
                name = [*given, *node.args[:1]][0]
                if isinstance(name, ast.Constant):
                    found.add(name.value)
    return found


def test_every_finding_is_on_the_page() -> None:
    listed = {name for name, _ in ROW.findall(TEXT)}
    given = names_given()
    assert len(given) > 20
    assert given <= listed


def test_every_finding_of_the_page_exists() -> None:
    texts = {
        node.value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    listed = [name for name, _ in ROW.findall(TEXT)]
    assert len(listed) == len(set(listed)) > 30
    assert [each for each in listed if each not in texts] == []
