"""`batchwright new-task`: a task file to begin with."""

from pathlib import Path

import click

from batchwright._format import printable

TEMPLATE = Path(__file__).resolve().parents[1] / "compare" / "template.py"


@click.command("new-task")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def new_task(path: Path) -> None:
    """Write a training job to begin with into the file PATH.

    It runs as it is. Replace its numbered parts by your own data, model, loss and metric, then:
    batchwright compare PATH --quick
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError:
        message = f"{path} exists already. Name another file."
        raise click.UsageError(message) from None
    click.echo(printable(f"Wrote {path}. Try it: batchwright compare {path} --quick"))
