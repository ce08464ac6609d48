"""Imports go down the house, never up and never round; drawn from the source."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.test_imports import MODULES, part

# From the ground up: a part imports its own floor and those below. Private modules and what is
# named nowhere else are the ground floor: errors, types, checks, files.
FLOORS = [
    {"errors", "typing"},
    {
        *(
            "batches",
            "budgets",
            "constraints",
            "costs",
            "placement",
            "epochs",
            "functions",
            "index",
            "indexed",
            "layout",
            "lengths",
            "metrics",
            "oversize",
            "pacing",
            "plan_file",
            "plan_source",
            "planner",
        ),
        *(
            "plans",
            "rank_batches",
            "refitting",
            "resume",
            "nodes",
            "shard_index",
            "sharding",
            "sizing",
            "tracing",
            "units",
            "updates",
            "without",
            "order",
            "batching",
            "stats",
            "",
        ),
    },
    {"sources"},
    {"difficulty"},
    {"streams"},
    {"torch"},
    {"integrations"},
    {"keras"},
    {"compare"},
    {"doctor"},
    {"advise"},
    {"report"},
    {"cli", "__main__"},
]


def floor(module: str) -> int:
    name = part(module)
    if name.startswith("_") and name != "__main__":
        return 0
    return next(number for number, parts in enumerate(FLOORS) if name in parts)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Go through the modules that code imports when it runs, in functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            within = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module for name in within)
        yield from imported_modules(node)


GRAPH = {
    module: {
        name
        for name in imported_modules(ast.parse(path.read_text(encoding="utf-8")))
        if name in MODULES and name != module
    }
    for module, path in MODULES.items()
}


def test_no_import_goes_round() -> None:
    TopologicalSorter(GRAPH).prepare()


def test_no_import_goes_up() -> None:
    upwards = [
        f"{module} imports {name}"
        for module, names in GRAPH.items()
        for name in names
        if floor(name) > floor(module)
    ]
    assert upwards == []


def test_a_circle_would_be_found() -> None:
    code = "def f():\n    from batchwright.planner import Planner"
    names = set(imported_modules(ast.parse(code)))
    assert names == {"batchwright.planner"}
    with pytest.raises(CycleError):
        TopologicalSorter(GRAPH | {"batchwright.lengths": names}).prepare()
