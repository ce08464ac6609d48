"""What commands write: JSON, reports, pages, and checks that no output overwrites an input."""

from __future__ import annotations

import glob
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from batchwright._files import check_writable, write_bytes
from batchwright._format import all_printable
from batchwright.errors import SourceError
from batchwright.sources.files import FORMATS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from batchwright.report.rows import PlanView

_READ = frozenset({*FORMATS, ".txt", ".json"})
"""Suffixes of the files that are read from a folder."""


def check_outputs(
    outputs: Mapping[str, str | Path | None], inputs: Iterable[str | Path | None]
) -> None:
    """Refuse, before any work, to write over what the command reads or writes otherwise.

    Args:
        outputs: Option → the file that it names, if it was given.
        inputs: Files, folders and patterns that are read, if they were given.

    Raises:
        UsageError: A file is an input or the output of another option, perhaps through a link.
        SourceError: A file cannot be written.
    """
    taken = [place for name in inputs if name for place in _files_of(Path(name))]
    for option, name in outputs.items():
        if name is None:
            continue
        path = Path(name)
        check_writable_as(option, path)
        if any(_is_same(path, each) for each in taken):
            raise click.UsageError(f"{option} {path} is used by this command: name another file.")
        taken.append(path)


def check_writable_as(option: str, path: Path) -> None:
    """Check that a file can be written, and name the option if it cannot.

    Raises:
        SourceError: It cannot be written.
    """
    try:
        check_writable(path, SourceError)
    except SourceError as error:
        raise SourceError(f"{option} {error}") from error


def _files_of(name: Path) -> list[Path]:
    """Return the files that are read where a file, a folder of shards or a pattern is named."""
    if name.is_dir():
        return [each for each in name.iterdir() if _READ.intersection(each.suffixes)]
    if not name.exists() and glob.has_magic(str(name)):
        return [Path(each) for each in glob.glob(str(name))]  # noqa: PTH207 -- absolute patterns
    return [name]


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two names are of one file, which need not exist."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)


def write_page(path: Path, text: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        SourceError: It cannot be written.
    """
    write_bytes(path, text.encode("utf-8", "replace"), SourceError)


def report_console(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """Make a console that prints text as it is: brackets and colons in names are no markup."""
    from rich.console import Console

    return Console(file=file, stderr=stderr, highlight=False, markup=False, emoji=False)


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    click.echo(json.dumps(value, allow_nan=False))


def print_plan(view: PlanView, *, as_json: bool) -> None:
    """Print a plan as one line of JSON, or as a report."""
    if as_json:
        print_json(view.as_json())
        return
    from batchwright.report.rows import glyphs_for
    from batchwright.report.text import fitting, plan_report

    console = report_console(sys.stdout or io.StringIO())
    console.width = fitting(console.width)
    glyphs = glyphs_for(console.encoding)
    print_on(console, plan_report(all_printable(view), glyphs=glyphs, width=console.width))


def print_on(console: Console, *parts: RenderableType) -> None:
    """Print a report on a console; characters that its encoding lacks are replaced."""
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    encoding = console.encoding
    text = captured.get().encode(encoding, "replace").decode(encoding)
    # rich has decided on colours: it looks at the terminal, NO_COLOR and FORCE_COLOR.
    click.echo(text, nl=False, color=True)
