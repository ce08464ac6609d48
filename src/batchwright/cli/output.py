"""What commands write: reports, JSON and pages; checks that no output overwrites an input."""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import click

from batchwright._files import check_writable, write_bytes
from batchwright.errors import SourceError
from batchwright.report.sections import Report, import_page_packages, page
from batchwright.sources.files import FORMATS
from batchwright.sources.uris import is_uri, local_path

_READ = frozenset({*FORMATS, ".txt", ".json"})  # suffixes of what is read from a folder

_NARROWEST, _WIDEST = 60, 96


def check_outputs(
    outputs: Mapping[str, str | Path | None], inputs: Iterable[str | Path | None]
) -> None:
    """Refuse outputs that cannot be written, or that this command also reads or writes otherwise.

    This is checked before any work.

    Args:
        outputs: Option → the file that it names, if it was given.
        inputs: Files, folders and patterns that are read, if they were given.

    Raises:
        UsageError: A file is an input or the output of another option, perhaps through a link.
        SourceError: A file cannot be written.
        MissingExtraError: `--html` is given, and the packages for it are not installed.
    """
    local = [path for name in inputs if name and (path := local_path(name)) is not None]
    taken = [place for path in local for place in _files_of(path)]
    for option, name in outputs.items():
        if name is None:
            continue
        path = Path(name)
        if str(name).startswith("-"):
            raise click.UsageError(f"{option} needs the name of a file, got {name}.")
        if is_uri(name):
            raise click.UsageError(f"{option} needs a file of this machine, got {name}.")
        try:
            check_writable(path, SourceError)
        except SourceError as error:
            raise SourceError(f"{option} {error}") from error
        if any(_is_same(path, each) for each in taken):
            raise click.UsageError(f"{option} {path} is used by this command: name another file.")
        taken.append(path)
    if outputs.get("--html") is not None:
        import_page_packages()


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


def prints_as_messages() -> AbstractContextManager[object]:
    """Send what a task prints to standard error: standard output is for the report."""
    return contextlib.redirect_stdout(sys.stderr)


def deliver(report: Report, *, as_json: bool, html: Path | None = None) -> None:
    """Write a report as a page, if one is asked for, and print it as JSON or as text.

    Raises:
        SourceError: The page cannot be written.
    """
    if html is not None:
        write_bytes(html, page(report).encode("utf-8", "replace"), SourceError)
    if as_json:
        click.echo(json.dumps(report.facts, allow_nan=False))
        return
    from rich.console import Console

    from batchwright.report.text import encodable, print_report

    # Brackets and colons in names are no markup.
    file = sys.stdout or io.StringIO()
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    console.width = min(max(console.width, _NARROWEST), _WIDEST)
    with console.capture() as captured:
        print_report(console, report)
    # rich has decided on colours: it looks at the terminal, NO_COLOR and FORCE_COLOR.
    click.echo(encodable(captured.get(), console.encoding), nl=False, color=True)
