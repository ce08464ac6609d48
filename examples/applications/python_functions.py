"""Real text of widely varying length that every machine has: functions of Python's own library.

Nothing is downloaded. Half of the functions are shorter than a few lines and a few are hundreds
of lines long, which is how most text is: the reason why batching matters.
"""

import ast
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


def functions(folder: Path | None = None, count: int | None = None) -> list[str]:
    """Collect the functions and methods below a folder, each once.

    Guarantees the same list on every machine that has the same files: files are taken in the
    sequence of their names, functions in the sequence of their lines. Functions inside functions
    stay part of them. Files that this Python cannot parse are left out.

    Args:
        folder: Where to look; Python's standard library by default.
        count: Stop after so many. None: all.

    Returns:
        Source text of each function, without the indentation that all its lines have. The whole
        standard library takes about three seconds.
    """
    folder = Path(sysconfig.get_path("stdlib")) if folder is None else folder
    found: dict[str, None] = {}
    for path in sorted(folder.rglob("*.py")):
        if _NOT_THE_LIBRARY.isdisjoint(path.relative_to(folder).parts):
            found.update(dict.fromkeys(_functions_of(path)))
        if count is not None and len(found) >= count:
            break
    return list(found)[:count]


def _functions_of(path: Path) -> Iterator[str]:
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # another encoding, or code that is wrong on purpose
        return
    lines = source.split("\n")
    for node in _outermost(tree):
        yield textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))


def _outermost(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.ClassDef | ast.If | ast.Try):
            yield from _outermost(child)
