"""Parts of blocks: tables, figures, and where they come from."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

Facts = Mapping[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, aligned: str = "--:") -> str:
    """Write a table: a heading, and cells that are aligned to the right but for the first."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|---|" + f"{aligned}|" * (lines[0].count("|") - 2))
    return "\n".join(lines)


def source(name: str, facts: Facts) -> str:
    """Say which command made the figures, where and when, and name their file."""
    return made(facts).replace("</sub>", f"; {link_to_file(name)}</sub>")


def made(facts: Facts) -> str:
    """Say which command made the figures, where and when."""
    computer = facts["machine"]
    made = f"`{facts['command']}` on {computer['cores']} cores of {computer['cpu']}"
    made += ", with emulated bf16" if computer.get("bf16_units") is False else ""
    return f"<sub>{made}, {facts['date']}</sub>"


def link_to_file(name: str) -> str:
    """Link to a result file."""
    file = f"benchmarks/results/{name}.json"
    return f"[{file}]({file})"


def spread(values: Iterable[float | None]) -> str:
    """Write the mean of what is known, and its least and most."""
    known = [value for value in values if value is not None]
    return f"{fmean(known):.2f} ({min(known):.2f} – {max(known):.2f})" if known else "never"


def in_seconds(seconds: float) -> str:
    """Write seconds, or milliseconds."""
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
