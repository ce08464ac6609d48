"""`batchwright compare`: the same job under several strategies, measured."""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchwright._files import write_bytes
from batchwright._format import all_printable, printable
from batchwright.cli import options
from batchwright.cli.exit_codes import INTERRUPTED
from batchwright.cli.output import check_outputs, print_json, print_on, report_console, write_page
from batchwright.cli.progress import StopError, Watch, interruptible, live_bars, status
from batchwright.errors import MissingExtraError, SourceError, TaskError

if TYPE_CHECKING:
    from batchwright.compare import Comparison, Settings, Strategy, Task

_USUAL = ("plain", "grouped", "planned", "planned+auto")
_TWIN = "its own twin"
_MOST_THREADS = 8  # more rarely help models that are small enough to be compared

TEMPLATE = Path(__file__).resolve().parents[1] / "compare" / "template.py"


@click.command("compare", cls=options.StrictCommand)
@click.argument("task")
@click.option(
    "--strategies",
    metavar="NAMES|FILE",
    help="Names separated by commas, or a TOML file; the others are compared with the first.",
)
@options.count("--seeds", help="Runs.", show_default="3, or 1 with --quick")
@options.number("--seed", "first_seed", least=0, most=2**63 - 1, default=0, help="The first.")
@click.option("--quick", is_flag=True, help="The small form of the task; one run, unless --seeds.")
@click.option("--null", is_flag=True, help="Compare the first strategy with its own twin.")
@click.option(
    "--target",
    type=options.finite,
    metavar="X",
    help="Value of the metric to reach.",
    show_default="the final one of the first strategy",
)
@options.count("--evaluations", default=10, help="During a run.")
@options.threads
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The result.",
    show_default="TASK.compare.json in this folder",
)
@click.option("--restart", is_flag=True, help="Measure anew, whatever the result holds.")
@options.html_output
@options.json_output
def compare(
    task: str,
    *,
    strategies: str | None,
    seeds: int | None,
    first_seed: int,
    quick: bool,
    null: bool,
    target: float | None,
    evaluations: int,
    threads: int | None,
    output: Path | None,
    restart: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Train the same TASK under several strategies, and measure the difference.

    TASK is a Python file that describes a training job: `batchwright new-task` writes one.
    Strategies are named KIND[+ORDER][+PRECISION]:

    \b
      KIND       plain, grouped, planned, packed, buckets
      ORDER      shuffle, sequential, curriculum[:SCORES], anticurriculum, control
      PRECISION  fp32, tf32, bf16, fp16, auto

    Strategies take turns, update by update, so that other load on the machine affects all alike.
    Ctrl-C keeps what was measured; the same command goes on from there.
    """  # noqa: D301 -- click looks for the character that \b is
    path = output or Path(f"{Path(task).stem}.compare.json")
    if path.exists() and not path.is_file():
        raise click.UsageError(f"--output {path}: results are read again; expected a regular file.")
    import_torch(threads)
    from batchwright.compare import Settings
    from batchwright.compare.result_file import load, state_path

    outputs = {"--output": path, "--output (its state)": state_path(path), "--html": html}
    check_outputs(outputs, [task, strategies if Path(strategies or "").is_file() else None])
    runs = seeds or (1 if quick else 3)
    asked = _asked(
        task,
        strategies,
        null=null,
        quick=quick,
        seeds=tuple(range(first_seed, first_seed + runs)),
        settings=Settings(evaluations=evaluations, target=target),
    )
    comparison = _earlier(path, asked, restart=restart)
    was_complete, said = comparison.is_complete, f"Wrote {path}."
    if comparison.runs or comparison.state:
        said = f"Went on from {path}, and wrote it."
    if not was_complete:
        _run(asked, comparison, path)
    result, _ = load(path)
    if was_complete:
        date = result["machine"]["date"]
        said = f"Measured on {date}, and read from {path}; --restart measures anew."
    if html is not None and result["summary"]:
        from batchwright.report.compared import compared_page

        write_page(html, compared_page(result))
    _show(result, as_json=as_json, null=null)
    if not as_json:
        click.echo(f"\n{printable(said)}")
    if not comparison.is_complete:
        again = "the same command without --restart" if restart else "the same command"
        message = f"batchwright: interrupted; {again} goes on with {path}."
        click.echo(printable(message), err=True)
        raise click.exceptions.Exit(INTERRUPTED)


def _command() -> str:
    """Write the command as it was given, without what says where the result goes."""
    context = click.get_current_context()
    words = [*context.command_path.split(), str(context.params["task"])]
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in {"task", "output", "restart", "html", "as_json"}:
            value = context.params[name]
            words.append(parameter.opts[-1])
            words += [] if value is True else [str(value)]
    return shlex.join(words)


@dataclass(frozen=True)
class _Asked:
    """What is to be compared."""

    path: str
    task: Task
    strategies: list[Strategy]
    seeds: tuple[int, ...]
    settings: Settings
    about: dict[str, Any]
    machine: dict[str, Any]

    def save(self, comparison: Comparison, path: Path) -> None:
        """Save a result, and what going on with it takes."""
        from batchwright.compare.result_file import save, written

        about = {"command": _command(), **self.about, "machine": self.machine}
        save(path, written(comparison, self.task, about, self.settings), comparison.state)


def import_torch(threads: int | None = None) -> None:
    """Import torch, with the settings that it reads on import, and set its threads."""
    # A thread that waits for more than microseconds lets others have its core.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "batchwright compare needs torch: pip install 'batchwright[compare]'"
        ) from error
    torch.set_num_threads(threads or min(_MOST_THREADS, torch.get_num_threads()))


def _asked(
    path: str,
    names: str | None,
    *,
    null: bool,
    quick: bool,
    seeds: tuple[int, ...],
    settings: Settings,
) -> _Asked:
    from batchwright.compare import load_task
    from batchwright.compare.result_file import circumstances, described
    from batchwright.compare.strategy import parse_strategies

    machine = circumstances()
    chosen = None if names is None else parse_strategies(names)
    with status("reading the task"):
        task = load_task(path, quick=quick)
    if chosen is None:
        chosen = parse_strategies(",".join(task.strategies or _USUAL))
    if null:
        chosen = [chosen[0], replace(chosen[0], name=_TWIN)]
    about = described(task, path, chosen, settings, quick=quick)
    return _Asked(path, task, chosen, seeds, settings, about, machine)


def _earlier(path: Path, asked: _Asked, *, restart: bool) -> Comparison:
    """Return what was measured before; the seeds may differ in number from then.

    Raises:
        SourceError: If the file holds the result of another comparison.
    """
    from batchwright.compare import Comparison
    from batchwright.compare.result_file import load

    if restart or not path.exists():
        return Comparison(asked.seeds)
    earlier, comparison = load(path)
    differing = [name for name, value in asked.about.items() if earlier.get(name) != value]
    done = len(comparison.runs)
    if comparison.seeds[:done] != asked.seeds[:done]:
        differing.append("seeds")
    if differing:
        raise SourceError(
            f"{path} holds the result of another comparison (other {', '.join(differing)}). Name "
            "another --output, or measure anew with --restart."
        )
    comparison.seeds = asked.seeds
    return comparison


def _run(asked: _Asked, comparison: Comparison, path: Path) -> None:
    """Measure what is left, and save it."""
    from batchwright.compare import check_task, compare
    from batchwright.compare.task_file import errors_of_task

    with errors_of_task(asked.path), status("checking the task"):
        check_task(asked.task)

    keep = partial(asked.save, comparison, path)
    with (
        errors_of_task(asked.path),
        interruptible() as interrupted,
        live_bars() as bars,
        contextlib.suppress(StopError),
    ):
        compare(
            asked.task,
            asked.strategies,
            seeds=asked.seeds,
            settings=asked.settings,
            watch=Watch(bars, keep, interrupted),
            resume=comparison,
        )
    keep()


def _show(result: dict[str, Any], *, as_json: bool, null: bool) -> None:
    from batchwright.report.compared import (
        learning_section,
        null_sentence,
        sentences,
        speed_section,
        table,
    )

    def said(of: dict[str, Any]) -> list[str]:
        if not of["summary"]:
            return []
        return [null_sentence(of)] if null else sentences(of)

    if as_json:
        print_json(result | {"said": said(result)})
        return
    if not result["summary"]:
        return
    console = report_console()
    if not console.is_terminal:
        console.width = 130
    shown = all_printable(result)
    print_on(console, "", table(speed_section(shown)), "", table(learning_section(shown)))
    for sentence in said(shown):
        print_on(console, "", sentence)


@click.command("new-task", cls=options.StrictCommand)
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
