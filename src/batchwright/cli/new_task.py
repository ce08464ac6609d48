"""`batchwright new-task`: a task file to begin with."""

import os
from pathlib import Path

import click

from batchwright._files import write_bytes
from batchwright._format import printable
from batchwright.cli.failures import StrictCommand
from batchwright.errors import TaskError

TEMPLATE = Path(__file__).resolve().parents[1] / "compare" / "template.py"


@click.command("new-task", cls=StrictCommand)
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def new_task(path: Path) -> None:
    """Write a training job to begin with into the file PATH.

    It runs as it is. Replace its numbered parts by your own data, model, loss and metric, then:
    batchwright compare PATH --quick
    """
    if os.path.lexists(path):
        raise click.UsageError(f"{path} exists already. Name another file.")
    write_bytes(path, TEMPLATE.read_bytes(), TaskError)
    click.echo(printable(f"Wrote {path}. Try it: batchwright compare {path} --quick"))
