"""The advice beside the truth: what `advise` says of the six applications, and what runs showed.

\\b
python -m benchmarks.advice                     a quarter of an hour; writes results/advice.json
python -m benchmarks.advice --only translation  one of them, to look at

Advice is asked for anew, on one thread, as the truth was measured, which is in results/applications
and written by `python -m benchmarks.applications`. Where other tokens an update are advised, which
no arm of the truth has, whole runs of that are compared with plain batches then.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from batchwright.compare.result_file import summarized
from batchwright.compare.strategy import ORDERS, PRECISIONS, Strategy
from benchmarks import machine
from benchmarks.applications import APPLICATIONS
from benchmarks.reporting import RESULTS, output_path, progress_bar, table_console, write_result

Facts = dict[str, Any]


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", type=float, help="What trials of one may take.  [default: as advise]")
@click.option("--only", type=click.Choice(APPLICATIONS), multiple=True, help="These.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, seconds: float | None, only: tuple[str, ...], output: Path | None) -> None:
    """Ask, look up, and print."""
    names = only or APPLICATIONS
    rows = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(names))
        for name in names:
            progress.update(bar, description=name, refresh=True)
            truth = json.loads((RESULTS / "applications" / f"{name}.json").read_text("utf-8"))
            truth["summary"] = summarized(truth)  # with the figures of today
            advice = advice_on(name, seconds)
            row = {"application": name, **beside(advice, truth)}
            tokens = advised_tokens(advice)
            rows.append(row if tokens is None else row | whole_runs(name, row, tokens))
            progress.update(bar, advance=1, refresh=True)
    table_console().print(table(rows))
    target = output_path("advice", output, quick=bool(only))
    if target is not None:
        command = "python -m benchmarks.advice"
        command += "" if seconds is None else f" --seconds {seconds:g}"
        write_result(target, command, {"rows": rows})


def advice_on(name: str, seconds: float | None) -> Facts:
    """Ask for advice on an application, in a process of its own."""
    command = ["advise", f"examples/applications/{name}.py", "--threads", "1", "--json"]
    command += [] if seconds is None else ["--seconds", f"{seconds:g}"]
    return _batchwright(command)


def _batchwright(command: list[str]) -> Facts:
    done = subprocess.run(
        [sys.executable, "-m", "batchwright", *command],
        cwd=machine.REPOSITORY,
        capture_output=True,
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


def whole_runs(name: str, row: Facts, tokens: int) -> Facts:
    """Compare what is advised, with its tokens of an update, with plain batches: three seeds.

    Returns:
        Of the row what is known better then; ``tokens``, and ``same_tokens``, the time of the
        advised strategy with the task's own.
    """
    strategy = Strategy.named(row["advised"])
    file = machine.REPOSITORY / "build" / f"advised-{name}.toml"
    file.parent.mkdir(exist_ok=True)
    made = (
        f'kind = "{strategy.kind}"\norder = "{strategy.order}"\nprecision = "{strategy.precision}"'
    )
    file.write_text(f"[plain]\n[advised]\n{made}\nstep_tokens = {tokens}\n", encoding="utf-8")
    task = f"examples/applications/{name}.py"
    command = ["compare", task, "--strategies", str(file), "--threads", "1"]
    result = _batchwright([*command, "--restart", "-o", str(file.with_suffix(".json")), "--json"])
    time = next(each for each in result["summary"] if each["name"] == "advised")["time"]
    best = row["best_time"]["mean"]
    return {
        "tokens": tokens,
        "same_tokens": row["time"],
        "time": time,
        "over_plain": None if time is None else time["mean"],
        "over_best": None if time is None else time["mean"] / best,
    }


def beside(advice: Facts, truth: Facts) -> Facts:
    """Put what is advised beside what the arms of whole runs needed to the baseline's final metric.

    Returns:
        ``advised``: the strategy that does as advised; ``arm``: what it is called in the truth,
        None if it is not among its arms; ``time``: what that needed over plain, with its interval,
        None where it never arrived; ``best``: the arm that needed least, and ``best_time``;
        ``over_best`` and ``over_plain``, the ratios of the means. Also verdicts, trials and price.
    """
    arms = {each["name"]: each for each in truth["summary"] if each["name"] != "dense limit"}
    first = truth["strategies"][0]["name"]
    wanted = _parts(advice["strategy"], "fp32")
    fitting = [
        each["name"]
        for each in truth["strategies"]
        if _parts(each["name"], arms[each["name"]]["precision"]) == wanted
    ]
    arm = fitting[0] if fitting else None
    time = None if arm is None else arms[arm]["time"]
    best = min(
        (each for each in arms.values() if each["time"] is not None),
        key=lambda each: each["time"]["mean"],
    )
    return {
        "verdicts": {each["technique"]: each["verdict"] for each in advice["advice"]},
        "price": advice["price"],
        "learning": advice["learning"],
        "speed": {each["name"]: each["speed"] for each in advice["trials"]},
        "advised": advice["strategy"],
        "arm": arm,
        "time": time,
        "best": best["name"],
        "best_time": best["time"],
        "over_best": None if time is None else time["mean"] / best["time"]["mean"],
        "over_plain": None if time is None else time["mean"] / arms[first]["time"]["mean"],
    }


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

    from batchwright.compare.verdicts import interval

    shown = Table(title="time to the baseline's final metric, over the baseline's")
    for heading in ("", "advised", "its time", "best arm", "its time", "advised over best"):
        shown.add_column(heading)
    for row in rows:
        shown.add_row(
            row["application"],
            row["advised"] + (f", updates of {row['tokens']:,}" if "tokens" in row else ""),
            interval(row["time"]) or "not among the arms, or never there",
            row["best"],
            interval(row["best_time"]),
            "" if row["over_best"] is None else f"{row['over_best']:.2f}",
        )
    return shown


if __name__ == "__main__":
    main()
