"""`batchwright compare`: the same job under several strategies, measured."""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchwright._files import write_bytes
from batchwright._format import printable
from batchwright.cli import options
from batchwright.cli.exit_codes import INTERRUPTED
from batchwright.cli.output import check_outputs, deliver, prints_as_messages
from batchwright.cli.progress import StopError, Watch, interruptible, live_status, status
from batchwright.compare.verdicts import TWIN
from batchwright.errors import MissingExtraError, SourceError, TaskError
from batchwright.report.compared import compared_report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchwright.compare import Comparison, Strategy, Task

_USUAL = ("plain", "grouped", "planned", "planned+auto")
_MOST_THREADS = 8  # more rarely help models that are small enough to be compared

TEMPLATE = Path(__file__).resolve().parents[1] / "compare" / "template.py"


@click.command("compare")
@click.argument("task")
@click.option(
    "--strategies",
    metavar="NAMES|FILE",
    help="Names separated by commas, or a TOML file; the others are compared with the first.",
)
@options.count("--seeds", help="Number of runs.", show_default="3, or 1 with --quick")
@options.number(
    "--seed", "first_seed", least=0, most=2**63 - 1, default=0, help="Seed of the first run."
)
@click.option("--quick", is_flag=True, help="The small form of the task; one run, unless --seeds.")
@options.batch_size
@click.option("--null", is_flag=True, help="Compare the first strategy with itself.")
@click.option(
    "--target",
    type=options.finite,
    metavar="X",
    help="Value of the metric to reach.",
    show_default="the final one of the first strategy",
)
@options.count("--evaluations", default=10, help="Evaluations during a run.")
@options.threads
@click.option(
    "--shared-process",
    is_flag=True,
    help="Run all in one process: less memory, but strategies share what libraries cache.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of the result.",
    show_default="TASK.compare.json in this folder",
)
@click.option("--restart", is_flag=True, help="Measure again, and replace an earlier result.")
@options.html_output
@options.json_output
def compare(
    task: str,
    *,
    strategies: str | None,
    seeds: int | None,
    first_seed: int,
    quick: bool,
    batch_size: int | None,
    null: bool,
    target: float | None,
    evaluations: int,
    threads: int | None,
    shared_process: bool,
    output: Path | None,
    restart: bool,
    html: Path | None,
    as_json: bool,
) -> None:
    """Train the same TASK under several strategies, and measure the difference.

    TASK is a Python file that describes a training job: `batchwright new-task` writes one.
    Strategies are named KIND[+ORDER][+PRECISION]:

    \b
      KIND       plain, grouped, planned, mixed, packed, buckets
      ORDER      shuffle, sequential, curriculum[:SCORES], anticurriculum, control
      PRECISION  fp32, tf32, bf16, fp16, auto

    Strategies take turns, update by update, so that other load on the machine affects all equally.
    Each runs in its own process, which reads TASK.
    Ctrl-C keeps what was measured; the same command continues from there.
    """  # noqa: D301 -- click looks for the character that \b is
    path = output or Path(f"{Path(task).stem}.compare.json")
    if path.exists() and not path.is_file():
        raise click.UsageError(f"--output {path}: expected a regular file, to continue from later.")
    import_torch(threads)
    from batchwright.compare import Settings, check_task, result_file
    from batchwright.compare import compare as run
    from batchwright.compare.comparison import shares_process
    from batchwright.compare.task_file import errors_of_task

    outputs = {"--output": path, "--output (its state)": result_file.state_path(path)}
    read = [task, strategies if Path(strategies or "").is_file() else None]
    check_outputs(outputs | {"--html": html}, read)
    machine = result_file.circumstances()
    settings, here = Settings(evaluations=evaluations, target=target), Path.cwd()
    with errors_of_task(task), prints_as_messages():
        job, chosen = _chosen(task, strategies, null=null, quick=quick, batch_size=batch_size)
    if Path.cwd() != here:  # the task has changed the folder
        task, path = str(here / task), here / path
        html = None if html is None else here / html
    shared = shares_process(job, chosen, shared_process=shared_process or None)
    about = result_file.described(job, task, chosen, settings, quick=quick)
    about["shared_process"] = shared
    runs = tuple(range(first_seed, first_seed + (seeds or (1 if quick else 3))))
    comparison = _earlier(path, runs, about, restart=restart)
    said = f"Wrote {path}."
    if comparison.runs or comparison.state:
        said = f"Continued from {path}, and updated it."
    if comparison.is_complete:
        said = f"Read from {path}; --restart measures again."
    else:
        about = {"command": _command(), **about, "machine": machine}

        def keep() -> None:
            result = result_file.written(comparison, job, about, settings)
            result_file.save(path, result, comparison.state)

        with errors_of_task(task), prints_as_messages(), status("checking the task"):
            check_task(job)
        with (
            errors_of_task(task),
            prints_as_messages(),
            interruptible() as interrupted,
            live_status() as show,
            contextlib.suppress(StopError),
        ):
            show("starting the arms", 0.0)
            run(
                job,
                chosen,
                seeds=runs,
                settings=settings,
                watch=Watch(show, keep, interrupted),
                resume=comparison,
                shared_process=shared,
            )
        keep()
    result, _ = result_file.load(path)
    html = html if result["summary"] else None
    deliver(compared_report(result, said), as_json=as_json, html=html)
    if not comparison.is_complete:
        again = "the same command without --restart" if restart else "the same command"
        message = f"batchwright: interrupted; {again} continues with {path}."
        click.echo(printable(message), err=True)
        raise click.exceptions.Exit(INTERRUPTED)


def _command() -> str:
    """Write the command as it was given, without the options for the result and the report."""
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


def _chosen(
    path: str, names: str | None, *, null: bool, quick: bool, batch_size: int | None
) -> tuple[Task, list[Strategy]]:
    """Read the task, and the strategies to compare."""
    from batchwright.compare import load_task
    from batchwright.compare.strategy import parse_strategies

    chosen = None if names is None else parse_strategies(names)
    with status("reading the task"):
        task = load_task(path, quick=quick)
    if batch_size is not None:
        task = task.with_batch_size(batch_size)
    if chosen is None:
        chosen = parse_strategies(",".join(task.strategies or _USUAL))
    if null:
        chosen = [chosen[0], replace(chosen[0], name=TWIN)]
    for said in _warnings(task, chosen):
        click.echo(printable(f"batchwright: {said}"), err=True)
    return task, chosen


def _warnings(task: Task, chosen: Sequence[Strategy]) -> Iterator[str]:
    """Say which batches exceed the budget, and which updates do not mix lengths."""
    larger = {each.name: most for each in chosen if (most := each.excess(task)) is not None}
    if larger:
        yield (
            f"{', '.join(larger)}: batches of {task.batch_size} samples are not cut to the budget: "
            f"with several long samples they take up to {max(larger.values()):,} tokens; "
            f"max_tokens is {task.max_tokens:,}."
        )
    if any(each.kind == "mixed" for each in chosen):
        return
    if unlike := [each.name for each in chosen if each.needs_mixing(task)]:
        yield (
            f"{', '.join(unlike)}: an update has samples of similar length, from which a model may "
            "learn worse. The strategy mixed cuts each update into more batches, of all lengths: "
            "--strategies plain,planned,mixed."
        )


def _earlier(
    path: Path, seeds: tuple[int, ...], about: dict[str, object], *, restart: bool
) -> Comparison:
    """Return what was measured before; the number of seeds may have changed.

    Raises:
        SourceError: If the file holds the result of another comparison.
    """
    from batchwright.compare import Comparison
    from batchwright.compare.result_file import load

    if restart or not path.exists():
        return Comparison(seeds)
    earlier, comparison = load(path)
    differing = [name for name, value in about.items() if earlier.get(name) != value]
    done = len(comparison.runs)
    if comparison.seeds[:done] != seeds[:done]:
        differing.append("seeds")
    if "task_sha256" in differing:
        raise SourceError(
            f"{path} was measured with another task file, or before yours was edited. Measure "
            "again with --restart, which replaces it, or name another --output."
        )
    if differing:
        raise SourceError(
            f"{path} holds the result of another comparison (other {', '.join(differing)}). "
            "Measure again with --restart, which replaces it, or name another --output."
        )
    comparison.seeds = seeds
    return comparison


@click.command("new-task")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def new_task(path: Path) -> None:
    """Write a training job to start from into the file PATH.

    It runs as it is. Replace its numbered parts with your own data, model, loss and metric, then:
    batchwright compare PATH --quick
    """
    if os.path.lexists(path):
        raise click.UsageError(f"{path} exists already. Name another file.")
    write_bytes(path, TEMPLATE.read_bytes(), TaskError)
    click.echo(printable(f"Wrote {path}. Try it: batchwright compare {path} --quick"))
