"""What a command prints: one JSON object, or a report."""

from __future__ import annotations

import glob
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from batchwright._files import check_writable, write_bytes
from batchwright._format import all_printable
from batchwright.errors import MissingExtraError, ResultFileError
from batchwright.sources.files import FORMATS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from batchwright.report.rows import PlanView

_READ = frozenset({*FORMATS, ".txt", ".json"})
"""How files end that are read in a folder."""


def _checked_page(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Refuse before anything is measured what could not be written afterwards."""
    if path is None or context.resilient_parsing:
        return path
    _check_writable("--html", path)
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError(
                f"A page needs the package {package}, which is not installed. "
                "Run: pip install 'batchwright[report]'."
            )
    return path


html_option = click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_checked_page,
    help="Also write one HTML page.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def check_outputs(
    outputs: Mapping[str, str | Path | None], inputs: Iterable[str | Path | None]
) -> None:
    """Refuse before any work to write over what the command reads, or writes otherwise.

    Args:
        outputs: Option → the file that it names, if it was given.
        inputs: Files, folders and patterns that are read, if they were given.

    Raises:
        UsageError: A file is an input or that of another option, be it by another name (a link).
        ResultFileError: A file cannot be written.
    """
    taken = [place for name in inputs if name for place in _files_of(Path(name))]
    for option, name in outputs.items():
        if name is None:
            continue
        path = Path(name)
        _check_writable(option, path)
        if any(_is_same(path, each) for each in taken):
            raise click.UsageError(f"{option} {path} is used by this command: name another file.")
        taken.append(path)


def _check_writable(option: str, path: Path) -> None:
    try:
        check_writable(path, ResultFileError)
    except ResultFileError as error:
        raise ResultFileError(f"{option} {error}") from error


def write_page(path: Path, text: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        ResultFileError: It cannot be written.
    """
    write_bytes(path, text.encode("utf-8", "replace"), ResultFileError)


def _files_of(name: Path) -> list[Path]:
    """Return the files that are read where a file, a folder of shards or a pattern is named."""
    if name.is_dir():
        return [each for each in name.iterdir() if _READ.intersection(each.suffixes)]
    if not name.exists() and glob.has_magic(str(name)):
        return [Path(each) for each in glob.glob(str(name))]  # noqa: PTH207 -- absolute patterns
    return [name]


def _is_same(one: Path, other: Path) -> bool:
    """Say whether two names are of one file, which need not exist."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)


def report_console(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """Make a console that prints text as it is: brackets and colons in names are no markup."""
    from rich.console import Console

    return Console(file=file, stderr=stderr, highlight=False, markup=False, emoji=False)


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    click.echo(json.dumps(value, allow_nan=False))


def show(view: PlanView, *, as_json: bool) -> None:
    """Print a plan on standard output, as one line of JSON or as a report."""
    if as_json:
        print_json(view.as_json())
        return
    from batchwright.report.glyphs import glyphs_for
    from batchwright.report.text import fitting, plan_report

    console = report_console(sys.stdout or io.StringIO())
    console.width = fitting(console.width)
    glyphs = glyphs_for(console.encoding)
    print_on(console, plan_report(all_printable(view), glyphs=glyphs, width=console.width))


def print_on(console: Console, *parts: RenderableType) -> None:
    """Print a report on a console; characters that its encoding has not are replaced."""
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    encoding = console.encoding
    text = captured.get().encode(encoding, "replace").decode(encoding)
    # What is to be coloured rich knows: it looks at the terminal, NO_COLOR and FORCE_COLOR.
    click.echo(text, nl=False, color=True)
