"""What a command prints: one JSON object, or a report."""

from __future__ import annotations

import io
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from batchwright._format import all_printable
from batchwright.errors import MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def _checked_page(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Refuse before anything is measured what could not be written afterwards."""
    if path is None or context.resilient_parsing:
        return path
    folder = path.absolute().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise click.UsageError(
            f"--html {path}: expected a file in a directory that exists and can be written to."
        )
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


def refuse_input(html: Path | None, *inputs: str | None) -> None:
    """Refuse to write a page over a file that is read, or written otherwise.

    Raises:
        UsageError: Naming it.
    """
    if html is None:
        return
    for each in (Path(name) for name in inputs if name):
        is_same = html.absolute() == each.absolute()
        if is_same or (html.exists() and each.exists() and html.samefile(each)):
            raise click.UsageError(f"--html {html} is used by this command: name another file.")


def report_console(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """Make a console that prints text as it is: brackets and colons in names are no markup."""
    from rich.console import Console

    return Console(file=file, stderr=stderr, highlight=False, markup=False, emoji=False)


def show(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print the facts of a plan on standard output.

    Args:
        facts: As `report.text.plan_report` takes them.
        as_json: As one line of JSON, else as a report.
    """
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))
        return
    from batchwright.report.glyphs import glyphs_for
    from batchwright.report.text import fitting, plan_report

    facts = all_printable(facts)
    console = report_console(sys.stdout or io.StringIO())
    console.width = fitting(console.width)
    glyphs = glyphs_for(console.encoding)
    print_on(console, plan_report(facts, glyphs=glyphs, width=console.width))


def print_on(console: Console, *parts: RenderableType) -> None:
    """Print a report on a console; characters that its encoding has not are replaced."""
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    encoding = console.encoding
    text = captured.get().encode(encoding, "replace").decode(encoding)
    # What is to be coloured rich knows: it looks at the terminal, NO_COLOR and FORCE_COLOR.
    click.echo(text, nl=False, color=True)
