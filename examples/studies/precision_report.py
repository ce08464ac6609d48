"""What the examples of mixed precision say: tables, and sentences computed from figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from precision_parity import REFERENCE, Experiment, Parity, Run, Timing, parity, timing
from rich.table import Table

from batchwright.torch.update.measuring import Evidence


@dataclass(frozen=True)
class Result:
    """What came of a mode, over all seeds.

    Attributes:
        asked: The mode that was asked for.
        trained_in: The mode that each seed was trained in: another one for ``"auto"``.
        timing: Of its updates.
        first_update: Seconds of each seed's first: that of ``"auto"`` also measures.
        curves: Validation losses of each seed, the first before training.
        accuracies: Of each seed, after training. None: the job has none.
        skipped: Updates that were not applied, of each seed.
        parity: With the reference.
        evidence: What ``"auto"`` measured, for each seed.
    """

    asked: str
    trained_in: list[str | None]
    timing: Timing
    first_update: list[float]
    curves: list[list[float]]
    accuracies: list[float] | None
    skipped: list[int]
    parity: Parity
    evidence: list[Evidence]


def summarize(experiment: Experiment, seeds: Sequence[Sequence[Run]]) -> list[Result]:
    """Gather the runs of each mode from those of each seed."""
    by_mode = {
        mode: [run for runs in seeds for run in runs if run.asked == mode]
        for mode in experiment.modes
    }
    reference = by_mode[REFERENCE]
    accuracy = experiment.accuracy
    return [
        Result(
            asked=asked,
            trained_in=[run.precision.mode for run in runs],
            timing=timing(runs, reference),
            first_update=[run.seconds[0] for run in runs],
            curves=[run.losses for run in runs],
            accuracies=None if accuracy is None else [accuracy(run.model) for run in runs],
            skipped=[run.precision.skipped for run in runs],
            parity=parity([run.losses[1:] for run in runs], [run.losses[1:] for run in reference]),
            evidence=[each for run in runs if (each := run.precision.evidence) is not None],
        )
        for asked, runs in by_mode.items()
    ]


def results_table(results: Sequence[Result]) -> Table:
    table = Table(title="The same batches and first weights; figures by seed", box=None)
    table.add_column("")
    for heading in ("time over fp32", "validation loss", "accuracy, %", "curve off fp32's, %"):
        table.add_column(heading, justify="right", vertical="bottom")
    for each in results:
        table.add_row(
            name_of(each),
            f"{each.timing.ratio:.2f}",
            " ".join(f"{curve[-1]:.3f}" for curve in each.curves),
            " ".join(f"{100 * share:.1f}" for share in each.accuracies or []),
            " ".join(f"{100 * distance:.2f}" for distance in each.parity.per_seed),
        )
    return table


def evidence_table(evidence: Evidence, chosen: str) -> Table:
    """Show why ``"auto"`` chose as it did."""
    table = Table(title='What Precision("auto") measured at its first update', box=None)
    table.add_column("")
    for heading in ("ms a step", "over fp32", "gradient off fp32's, %"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for trial in evidence.trials:
        table.add_row(
            trial.mode,
            f"{1e3 * trial.seconds:.0f}",
            f"{trial.ratio:.2f}",
            f"{100 * trial.gradient_error:.2f}",
            "chosen" if trial.mode == chosen else "",
        )
    return table


def name_of(result: Result) -> str:
    """Say what was asked for, and what it was trained in where that is another thing."""
    modes = ", ".join(dict.fromkeys(map(str, result.trained_in)))
    return modes if modes == result.asked else f"{result.asked}: {modes}"


def sentences(experiment: Experiment, results: Sequence[Result]) -> list[str]:
    """Say what the figures say, also where they do not flatter."""
    said = [f"Guessing without looking at the input has a loss of {experiment.baseline:.3f} nats."]
    for each in results:
        if each.asked == "auto":
            said.append(_choice(each))
        elif each.asked != REFERENCE:
            said += [_speed(each), _likeness(each)]
    return said


def _choice(result: Result) -> str:
    modes = " or ".join(sorted(set(map(str, result.trained_in))))
    return (
        f'Precision("auto") chose {modes}; its updates take {result.timing.ratio:.2f} of the time '
        f"of {REFERENCE}'s, the first of a run, in which it measures, "
        f"{median(result.first_update):.1f} s."
    )


def _speed(result: Result) -> str:
    low, high = result.timing.middle
    return (
        f"{result.asked} {'pays' if result.timing.ratio < 1 else 'does not pay'} here: an update "
        f"takes {result.timing.ratio:.2f} of the time of one in {REFERENCE} "
        f"({low:.2f} to {high:.2f} for the middle half of updates)."
    )


def _likeness(result: Result) -> str:
    same, name = result.parity, result.asked
    if same.noise is None:
        return (
            f"Validation losses in {name} are {same.difference:.2%} off {REFERENCE}'s; one seed "
            "cannot say how much of that is noise."
        )
    return (
        f"The loss curves of {name} and {REFERENCE} {'agree' if same.agrees else 'do NOT agree'} "
        f"within noise: their means over {len(same.per_seed)} seeds differ by "
        f"{same.difference:.2%}, where the seeds' own spread lets expect {same.noise:.2%} "
        f"(one standard error) of runs that differ in nothing else."
    )
