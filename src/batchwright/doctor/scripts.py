"""Changes of a user's script as a unified diff, if the script is understood."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_USE_PLAN = "from batchwright.integrations.transformers import use_plan"

_REPLACED = {"batch_size", "shuffle", "drop_last", "sampler", "batch_sampler", "generator"}
"""Arguments of a loader that a plan replaces."""

_WIDTH = 100
"""Characters of a line."""


def diff_of(
    command: Sequence[str],
    *,
    arguments: Mapping[str, object] | None = None,
    settings: str | None = None,
    file: str = "",
) -> str | None:
    """Return a diff that makes the script of a command plan its batches.

    Args:
        command: Of the run: its first Python file is the script.
        arguments: New arguments of the trainer's settings; the trainer then uses `use_plan`.
        settings: The arguments of a planner: if given, a loader becomes a `PlanLoader`.
        file: Where the lengths are.

    Returns:
        None if there is no such script, or it is not understood.
    """
    found = next((Path(each) for each in command if each.endswith(".py")), None)
    if found is None:
        return None
    try:
        source = found.read_text(encoding="utf-8")
        if settings is None:
            changed = with_use_plan(source, arguments or {})
        else:
            changed = with_loader(source, settings, file)
        if changed is None:
            return None
        ast.parse(changed)  # several statements on a line are not understood
    except (OSError, SyntaxError, ValueError):
        return None
    before, after = source.splitlines(), changed.splitlines()
    return "\n".join(difflib.unified_diff(before, after, found.name, found.name, n=1, lineterm=""))


def with_use_plan(source: str, arguments: Mapping[str, object]) -> str | None:
    r"""Return a script whose trainer trains in planned batches; None if that is not understood.

    Example:
        >>> print(with_use_plan("import a\ntrainer = a.Trainer()\ntrainer.train()", {}))
        import a
        from batchwright.integrations.transformers import use_plan
        trainer = a.Trainer()
        use_plan(trainer)
        trainer.train()
    """
    tree = ast.parse(source)
    trainers = {name for name, call in _assigned(tree) if _name_of(call.func).endswith("Trainer")}
    trained = [
        (statement, call.func.value.id)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Expr | ast.Assign) and isinstance(statement.value, ast.Call)
        for call in [statement.value]
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "train"
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id in trainers
    ]
    if len(trained) != 1:
        return None
    edits = _Edits(source)
    ((statement, trainer),) = trained
    if arguments:
        calls = [
            call
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and (
                _name_of(call.func).endswith("TrainingArguments")
                or any(each.arg == "per_device_train_batch_size" for each in call.keywords)
            )
        ]
        if len(calls) != 1:
            return None
        edits.set_keywords(calls[0], arguments)
    edits.insert_before(statement, [f"use_plan({trainer})"])
    edits.insert_imports(tree, statement, [_USE_PLAN])
    return edits.result()


def with_loader(source: str, settings: str, file: str) -> str | None:
    """Return a script whose loader is planned; None if that is not understood.

    The script must have one shuffled loader, and a loop over epochs around the loop over batches.

    Args:
        source: The script.
        settings: Arguments of the planner.
        file: Where the lengths are.
    """
    tree = ast.parse(source)
    loaders = [
        (name, call)
        for name, call in _assigned(tree)
        if _name_of(call.func) == "DataLoader" and _is_shuffled(call)
    ]
    if len(loaders) != 1:
        return None
    ((name, call),) = loaders
    given = {each.arg: each.value for each in call.keywords}
    dataset = call.args[0] if call.args else given.pop("dataset", None)
    epochs = [
        (outer, outer.target.id)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.For) and isinstance(outer.target, ast.Name)
        for inner in outer.body
        if isinstance(inner, ast.For) and name in _names_in(inner.iter)
    ]
    if dataset is None or len(call.args) > 3 or None in given or len(epochs) != 1:
        return None
    ((outer, epoch),) = epochs
    if epoch == "_":
        return None
    kept = [f"{key}={ast.unparse(value)}" for key, value in given.items() if key not in _REPLACED]
    edits = _Edits(source)
    edits.replace_call(call, "PlanLoader", [ast.unparse(dataset), f"bw.Planner({settings})", *kept])
    statement = next(
        each for each in ast.walk(tree) if isinstance(each, ast.Assign) and each.value is call
    )
    edits.insert_before(statement, [f'lengths = np.load("{file}")'])
    edits.insert_before(outer.body[0], [f"{name}.set_epoch({epoch})"])
    imports = ["import batchwright as bw", "from batchwright.torch import PlanLoader"]
    if not _imports_numpy(tree):
        imports.insert(1, "import numpy as np")
    edits.insert_imports(tree, statement, imports)
    return edits.result()


@dataclass
class _Edits:
    """Changes of a text at places of its syntax tree, made from the end backwards."""

    source: str
    found: list[tuple[tuple[int, int], tuple[int, int], str]] = field(default_factory=list)

    def set_keywords(self, call: ast.Call, values: Mapping[str, object]) -> None:
        """Replace arguments of a call, or add them after its others."""
        given = {each.arg: each.value for each in call.keywords}
        added = []
        for name, value in values.items():
            if name in given:
                self._replace(given[name], str(value))
            else:
                added.append(f"{name}={value}")
        if not added:
            return
        others = [*call.args, *(each.value for each in call.keywords)]
        if not others:
            raise ValueError("a call without arguments")
        last = max(others, key=lambda each: (each.end_lineno or 0, each.end_col_offset or 0))
        end = _end(last)
        self.found.append((end, end, "".join(f", {each}" for each in added)))

    def replace_call(self, call: ast.Call, function: str, arguments: Sequence[str]) -> None:
        """Replace a call with another."""
        line = self.source.split("\n")[call.lineno - 1]
        before = len(line[: call.col_offset])
        text = f"{function}({', '.join(arguments)})"
        if before + len(text) > _WIDTH:
            indent = " " * (len(line) - len(line.lstrip()))
            inside = "".join(f"{indent}    {each},\n" for each in arguments)
            text = f"{function}(\n{inside}{indent})"
        self._replace(call, text)

    def insert_before(self, statement: ast.stmt, lines: Sequence[str]) -> None:
        """Insert lines before a statement, with its indentation."""
        place = (statement.lineno, 0)
        indent = " " * statement.col_offset
        self.found.append((place, place, "".join(f"{indent}{each}\n" for each in lines)))

    def insert_imports(self, tree: ast.Module, user: ast.stmt, lines: Sequence[str]) -> None:
        """Insert imports after the script's last import that precedes their first use."""
        ends = [
            each.end_lineno or each.lineno
            for each in tree.body
            if isinstance(each, ast.Import | ast.ImportFrom) and each.lineno < user.lineno
        ]
        if not ends:
            raise ValueError("a script without imports")
        place = (max(ends) + 1, 0)
        self.found.append((place, place, "".join(f"{each}\n" for each in lines)))

    def result(self) -> str:
        """Return the changed text."""
        lines = [f"{each}\n".encode() for each in self.source.split("\n")]
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line))
        text = b"".join(lines)
        # Columns of a syntax tree are bytes.
        for (first, column), (last, end), new in sorted(self.found, reverse=True):
            begin, stop = starts[first - 1] + column, starts[last - 1] + end
            text = text[:begin] + new.encode() + text[stop:]
        return text.decode().removesuffix("\n")

    def _replace(self, node: ast.expr, text: str) -> None:
        self.found.append(((node.lineno, node.col_offset), _end(node), text))


def _end(node: ast.expr) -> tuple[int, int]:
    assert node.end_lineno is not None  # noqa: S101 -- of a parsed source
    assert node.end_col_offset is not None  # noqa: S101
    return node.end_lineno, node.end_col_offset


def _assigned(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Go through the calls whose result gets a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            target = node.targets[0]
            if len(node.targets) == 1 and isinstance(target, ast.Name):
                yield target.id, node.value


def _name_of(function: ast.expr) -> str:
    """Return the last part of a function's name; empty if it has none."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _names_in(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _is_shuffled(call: ast.Call) -> bool:
    """Say whether a loader shuffles, as training loaders do."""
    third = call.args[2] if len(call.args) > 2 else None
    shuffle = next((each.value for each in call.keywords if each.arg == "shuffle"), third)
    return isinstance(shuffle, ast.Constant) and shuffle.value is True


def _imports_numpy(tree: ast.Module) -> bool:
    return any(
        each.name == "numpy" and each.asname == "np"
        for node in tree.body
        if isinstance(node, ast.Import)
        for each in node.names
    )
