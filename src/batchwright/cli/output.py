"""What a command prints: one JSON object, or a report."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import click

html_option = click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write one HTML page.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def show(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print the facts of a plan on standard output.

    Args:
        facts: As `report.text.plan_report` takes them.
        as_json: As one line of JSON, else as a report.
    """
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))
        return
    from rich.console import Console

    from batchwright.report.glyphs import glyphs_for
    from batchwright.report.text import fitting, plan_report

    console = Console(file=sys.stdout or io.StringIO(), highlight=False)
    console.width = fitting(console.width)
    glyphs = glyphs_for(console.encoding)
    with console.capture() as captured:
        console.print(plan_report(facts, glyphs=glyphs, width=console.width))
    # A file's name may hold what the terminal's encoding has not.
    encoding = console.encoding
    text = captured.get().encode(encoding, "replace").decode(encoding)
    # What is to be coloured rich knows: it looks at the terminal, NO_COLOR and FORCE_COLOR.
    click.echo(text, nl=False, color=True)
