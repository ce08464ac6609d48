"""The advice beside the truth: what `advise` says of nine jobs, and what whole runs showed.

\b
python -m benchmarks.advice                     half an hour; writes results/advice.json
python -m benchmarks.advice --only translation  one of them, to look at
python -m benchmarks.advice --quick             small forms, beside those of the truth

Advice is asked for anew, on one thread, as the truth was measured, which is in results/applications
and written by `python -m benchmarks.applications`. Where a strategy or tokens of an update are
advised that no arm of the truth has, whole runs of that are compared with the baseline then.

Of each job is asked: is what is advised slower than the baseline, by more than 3 %, to its final
metric, held? Is it within 10 % of the fastest arm?
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from batchwright.compare.result_file import summarized
from batchwright.compare.strategy import ORDERS, PRECISIONS, Strategy
from batchwright.compare.verdicts import arrival, interval
from benchmarks import machine
from benchmarks.applications import JOBS, result_of, task_of
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

SLOWER = 1.03
"""Advice is wrong where it takes more than this of the baseline's time to its final metric ..."""

NEAR = 1.10
"""... and right where it takes at most this of the time of the fastest arm."""

Facts = dict[str, Any]


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", type=float, help="What trials of one may take.  [default: as advise]")
@click.option("--only", type=click.Choice(JOBS), multiple=True, help="These.")
@click.option("--quick", is_flag=True, help="Small forms; nothing is written.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, seconds: float | None, only: tuple[str, ...], quick: bool, output: Path | None) -> None:
    """Ask, look up, and print."""
    names = only or JOBS
    rows = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(names))
        for name in names:
            progress.update(bar, description=name, refresh=True)
            rows.append(row_of(name, seconds, quick=quick))
            progress.update(bar, advance=1, refresh=True)
    console = table_console()
    console.print(table(rows))
    for row in rows:
        console.print(row["verdict"], highlight=False)
    console.print(total(rows), highlight=False)
    target = output_path("advice", output, quick=quick or bool(only))
    if target is not None:
        command = "python -m benchmarks.advice"
        command += "" if seconds is None else f" --seconds {seconds:g}"
        write_result(target, command, {"rows": rows, "total": total(rows)})


def row_of(name: str, seconds: float | None, *, quick: bool) -> Facts:
    """Ask for advice on a job, and put it beside the truth."""
    truth = json.loads(result_of(name, quick=quick).read_text("utf-8"))
    truth["summary"] = summarized(truth)  # with the figures of today
    advice = advice_on(name, seconds, quick=quick)
    row = {"application": name, **beside(advice, truth)}
    tokens = advised_tokens(advice)
    if row["arm"] is None or tokens is not None:
        row |= whole_runs(row, tokens, quick=quick)
    row |= judged(row)
    return row | {"verdict": verdict(row)}


def advice_on(name: str, seconds: float | None, *, quick: bool = False) -> Facts:
    """Ask for advice on a job, in a process of its own."""
    command = ["advise", task_of(name), "--threads", "1", "--json"]
    command += [] if seconds is None else ["--seconds", f"{seconds:g}"]
    return _batchwright([*command, *(["--quick"] if quick else [])])


def _batchwright(command: list[str]) -> Facts:
    done = subprocess.run(
        [sys.executable, "-m", "batchwright", *command],
        cwd=machine.REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def advised_tokens(advice: Facts) -> int | None:
    """Return the tokens of an update that are advised. None: those that the task has."""
    for each in advice["advice"]:
        if each["technique"] == "other tokens per update" and each["verdict"] == "use":
            return int(each["settings"]["step_tokens"])
    return None


def whole_runs(row: Facts, tokens: int | None, *, quick: bool = False) -> Facts:
    """Compare whole runs of what is advised with the baseline: as many seeds as the truth has.

    Args:
        row: What is known.
        tokens: Of an update, as advised. None: the task's own.
        quick: The small form, one seed.

    Returns:
        Of the row what is known better then; ``same_tokens``, the time of the advised strategy
        with the task's own tokens, and, where they are others, ``tokens``.
    """
    strategy = Strategy.named(row["advised"])
    file = machine.REPOSITORY / "build" / f"advised-{row['application']}.toml"
    file.parent.mkdir(exist_ok=True)
    made = (
        f'kind = "{strategy.kind}"\norder = "{strategy.order}"\nprecision = "{strategy.precision}"'
    )
    made += "" if tokens is None else f"\nstep_tokens = {tokens}"
    file.write_text(f"[plain]\n[advised]\n{made}\n", encoding="utf-8")
    options = ["--strategies", str(file), "--threads", "1", *(["--quick"] if quick else [])]
    options += ["--restart", "-o", str(file.with_suffix(".json")), "--json"]
    result = _batchwright(["compare", task_of(row["application"]), *options])
    own = next(each for each in result["summary"] if each["name"] == "advised")
    known = {} if tokens is None else {"tokens": tokens, "same_tokens": row["time"]}
    return known | arrived(own, row["best_time"])


def beside(advice: Facts, truth: Facts) -> Facts:
    """Put what is advised beside what the arms of whole runs needed to the baseline's final metric.

    Returns:
        ``advised``: the strategy that does as advised; ``arm``: what it is called in the truth,
        None if it is not among its arms; ``best``: the arm that needed least, and ``best_time``;
        and of ``arm`` what `arrived` returns. Also verdicts, trials and price.
    """
    arms = {each["name"]: each for each in truth["summary"] if each["name"] != "dense limit"}
    wanted = _parts(advice["strategy"], "fp32")
    fitting = [
        each["name"]
        for each in truth["strategies"]
        if _parts(each["name"], arms[each["name"]]["precision"]) == wanted
    ]
    arm = fitting[0] if fitting else None
    best = min(
        (each for each in arms.values() if each["time"] is not None),
        key=lambda each: each["time"]["mean"],
        default=arms[truth["strategies"][0]["name"]],
    )
    return {
        "verdicts": {each["technique"]: each["verdict"] for each in advice["advice"]},
        "price": advice["price"],
        "learning": advice["learning"],
        "speed": {each["name"]: each["speed"] for each in advice["trials"]},
        "advised": advice["strategy"],
        "arm": arm,
        "best": best["name"],
        "best_time": best["time"],
        **arrived(None if arm is None else arms[arm], best["time"]),
    }


def arrived(summary: Facts | None, best: Facts | None) -> Facts:
    """Return what an arm needed to the baseline's final metric.

    Args:
        summary: Of the arm. None: it was not run.
        best: What the fastest arm needed, over the baseline. None: no arm got there.

    Returns:
        ``time``, over the baseline's, with its interval, None where some run never got there or
        did not hold it; ``said``, the same in words; ``over_plain`` and ``over_best``, ratios of
        the means.
    """
    time = None if summary is None else summary["time"]
    return {
        "time": time,
        "said": "not run" if summary is None else arrival(summary),
        "over_plain": None if time is None else time["mean"],
        "over_best": None if time is None or best is None else time["mean"] / best["mean"],
    }


def judged(row: Facts) -> Facts:
    """Say whether what is advised is slower than the baseline, and whether it is near the best."""
    over_plain, over_best = row["over_plain"], row["over_best"]
    return {
        "slower": over_plain is None or round(over_plain, 2) > SLOWER,
        "near": over_best is not None and round(over_best, 2) <= NEAR,
    }


def verdict(row: Facts) -> str:
    """Say in a line how good the advice is.

    Example:
        >>> verdict({"application": "a_job", "advised": "planned", "said": "0.50", "slower": False,
        ...          "best": "planned+bf16", "best_time": {"mean": 0.4}, "over_best": 1.25,
        ...          "near": False})
        "a job: planned, 0.50 of the baseline's time: not slower; 1.25 × the fastest, planned+bf16"
    """
    updates = f" (updates of {row['tokens']:,})" if "tokens" in row else ""
    said = f"{row['said']} of the baseline's time" if row["over_best"] is not None else row["said"]
    of_best = "" if row["over_best"] is None else f"; {row['over_best']:.2f} × the fastest"
    return (
        f"{row['application'].replace('_', ' ')}: {row['advised']}{updates}, {said}: "
        f"{'SLOWER' if row['slower'] else 'not slower'}{of_best}"
        f"{', ' + row['best'] if of_best and not row['near'] else ''}"
    )


def total(rows: list[Facts]) -> str:
    """Say of how many jobs the advice is right.

    Example:
        >>> total([{"slower": False, "near": True}, {"slower": False, "near": False}])
        'Slower than the baseline: 0 of 2. Within 10 % of the fastest arm: 1 of 2.'
    """
    slower, near = (sum(row[name] for row in rows) for name in ("slower", "near"))
    return (
        f"Slower than the baseline: {slower} of {len(rows)}. "
        f"Within {NEAR - 1:.0%} of the fastest arm: {near} of {len(rows)}."
    ).replace("%", " %")


def _parts(name: str, precision: str) -> tuple[str, str, str]:
    """Return kind, order and precision of a strategy, scores and what was measured aside.

    Example:
        >>> _parts("planned+curriculum:length", "fp32"), _parts("plain+auto", "bf16")
        (('planned', 'curriculum', 'fp32'), ('plain', 'shuffle', 'bf16'))
    """
    kind, *others = name.split("+")
    orders = [part.partition(":")[0] for part in others if part.partition(":")[0] in ORDERS]
    named = [part for part in others if part in PRECISIONS and part != "auto"]
    return kind, orders[0] if orders else "shuffle", named[0] if named else precision


def table(rows: list[Facts]) -> Any:
    """Show them."""
    from rich.table import Table

    shown = Table(title="time to the baseline's final metric, over the baseline's")
    for heading in ("", "advised", "its time", "best arm", "its time", "advised over best"):
        shown.add_column(heading)
    for row in rows:
        shown.add_row(
            row["application"],
            row["advised"] + (f", updates of {row['tokens']:,}" if "tokens" in row else ""),
            row["said"],
            row["best"],
            interval(row["best_time"]),
            "" if row["over_best"] is None else f"{row['over_best']:.2f}",
        )
    return shown


if __name__ == "__main__":
    main()
