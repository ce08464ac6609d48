"""Strategies of the user's own, in a few lines of TOML."""

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchwright._format import one_line
from batchwright.compare.strategy import Strategy
from batchwright.errors import StrategyError

_FIELDS = ("kind", "order", "precision")

_LARGEST = 2**53  # as of a length
_DEEPEST = 2  # lists of lists: shapes of several columns


def read_strategies(path: Path | str) -> list[Strategy]:
    r"""Read strategies: a table each, in the sequence of the file.

    Each table is named as the strategy. ``kind``, ``order`` and ``precision`` say what
    `Strategy` says; whatever else is in it is an option of the Batching.

    Args:
        path: The file.

    Raises:
        StrategyError: If it cannot be read, or says something unknown.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "mine.toml")
        ...     _ = file.write_text('[plain]\n[mine]\nkind = "planned"\nmixing = "update"\n')
        ...     read_strategies(file)[1].options
        {'mixing': 'update'}
    """
    if Path(path).exists() and not Path(path).is_file():
        raise StrategyError(f"{path} is no regular file. Expected a TOML file.")
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StrategyError(f"{path} cannot be read ({error.strerror or error}).") from error
    except ValueError as error:  # no TOML, no UTF-8, or a name that no file has
        raise StrategyError(f"{path} cannot be read: {one_line(error)}.") from error
    except RecursionError:
        raise StrategyError(f"{path} cannot be read: it is nested too deep.") from None
    if not tables:
        raise StrategyError(f"{path} has no strategies. Expected tables, such as [planned].")
    return [_made(name, table, path) for name, table in tables.items()]


def parse_strategies(text: str) -> list[Strategy]:
    """Read names with commas between them, or the name of a TOML file.

    Raises:
        StrategyError: If a name is unknown.

    Example:
        >>> [each.name for each in parse_strategies("plain, planned+bf16")]
        ['plain', 'planned+bf16']
    """
    if text.endswith(".toml"):
        return read_strategies(text)
    return refuse_twice([Strategy.named(name.strip()) for name in text.split(",") if name.strip()])


def refuse_twice(strategies: Sequence[Strategy]) -> list[Strategy]:
    """Return strategies, one at least, whose names differ.

    Raises:
        StrategyError: If a name is there twice, or there is none.
    """
    names = [each.name for each in strategies]
    for name in names:
        if names.count(name) > 1:
            raise StrategyError(f"strategy {name!r} is there twice. Give each a name of its own.")
    if not names:
        raise StrategyError("there are no strategies. Expected at least one, such as plain.")
    return list(strategies)


def _made(name: str, table: Any, path: Path | str) -> Strategy:
    if not isinstance(table, dict):
        raise StrategyError(
            f"{path}: {name} is {_given(table)}, no table: expected [{name}] and settings below."
        )
    for key, value in table.items():
        _check_value(value, f"{path}: {key} of [{name}]")
    base = Strategy.named(name) if "kind" not in table else None
    settings = {key: table[key] for key in _FIELDS if key in table}
    options = {key: value for key, value in table.items() if key not in _FIELDS}
    if not isinstance(settings.get("order", ""), str):
        raise StrategyError(
            f"{path}: order of [{name}] is {_given(settings['order'])}, expected a text."
        )
    if base is not None:
        settings = {key: settings.get(key, getattr(base, key)) for key in _FIELDS}
    return Strategy(name, **settings, options=options)


def _check_value(value: Any, where: str, depth: int = 0) -> None:
    """Raise unless a setting is a text, a number of some size, or a list of these."""
    if isinstance(value, list) and depth < _DEEPEST:
        for each in value:
            _check_value(each, where, depth + 1)
        return
    is_number = isinstance(value, int | float) and math.isfinite(value) and abs(value) <= _LARGEST
    if not (is_number or isinstance(value, str)):
        raise StrategyError(
            f"{where} is {_given(value)}: expected a text, a number of at most 2^53, "
            "true or false, or a list of these."
        )


def _given(value: Any) -> str:
    """Show a value; of what may be nested too deep to be shown, the type."""
    is_nested = isinstance(value, dict | list)
    return f"of type {type(value).__name__}" if is_nested else one_line(repr(value), 60)
