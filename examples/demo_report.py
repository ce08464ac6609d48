"""What the demonstration says: a table, the mixing dial, and sentences computed from figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from demo_arms import Arm, Evaluation, reached
from rich.table import Table

import batchwright as bw
from batchwright.torch import Precision

MEASURED = "planned, auto"
"""The arm with planned batches in the precision that is measured to be the quickest."""


@dataclass(frozen=True)
class Result:
    """The line of an arm: what it did with the tokens that all arms have trained on.

    Attributes:
        name: Of the arm.
        tokens_per_second: Real tokens a second of its own training.
        speed_over_plain: The same, over the plain arm's.
        speed_over_limit: The same, over the dense limit's.
        padding: Share of padded cells.
        tokens_per_update: Real tokens, mean.
        num_updates: Steps of the optimizer.
        worst_batch_over_budget: Tokens of the largest batch, padding included, over the budget.
        seconds: Of its own training.
        final_loss: Validation loss after those tokens, nats. None: not measured.
        time_over_plain: Seconds until the plain arm's final loss, over those of the plain arm.
            None: never reached, also not in the longer run.
        tokens_over_plain: The same in tokens.
        evaluations: All of them, those of a longer run included.
    """

    name: str
    tokens_per_second: float
    speed_over_plain: float
    speed_over_limit: float
    padding: float
    tokens_per_update: float
    num_updates: int
    worst_batch_over_budget: float
    seconds: float
    final_loss: float | None = None
    time_over_plain: float | None = None
    tokens_over_plain: float | None = None
    evaluations: list[Evaluation] = field(default_factory=list)


def speeds(arms: Mapping[str, Arm], max_tokens: int) -> dict[str, Result]:
    """Say what each arm did until now, in which all have had the same tokens."""
    return {
        name: Result(
            name=name,
            tokens_per_second=arm.tokens_per_second,
            speed_over_plain=arm.tokens_per_second / arms["plain"].tokens_per_second,
            speed_over_limit=arm.tokens_per_second / arms["dense limit"].tokens_per_second,
            padding=1 - arm.tokens / arm.padded_tokens,
            tokens_per_update=arm.tokens / arm.num_updates,
            num_updates=arm.num_updates,
            worst_batch_over_budget=arm.worst_batch / max_tokens,
            seconds=arm.seconds,
            final_loss=arm.evaluations[-1].loss if arm.evaluations else None,
        )
        for name, arm in arms.items()
    }


def times(results: Mapping[str, Result], arms: Mapping[str, Arm]) -> dict[str, Result]:
    """Add when each arm had reached the plain arm's final loss."""
    target = results["plain"].final_loss
    yardstick = reached(arms["plain"].evaluations, target)
    timed = {}
    for name, result in results.items():
        there = reached(arms[name].evaluations, target)
        timed[name] = replace(
            result,
            time_over_plain=there and there.seconds / yardstick.seconds,
            tokens_over_plain=there and there.tokens / yardstick.tokens,
            evaluations=arms[name].evaluations,
        )
    return timed


def results_table(results: Mapping[str, Result]) -> Table:
    table = _table(
        "The same model, text, memory budget and tokens per update",
        "",
        "real\ntok/s",
        "over\nplain",
        "of\nlimit",
        "pad-\nding",
        "tokens/\nupdate",
        "up-\ndates",
        "worst/\nbudget",
        "sec-\nonds",
        "\nloss",
        "time to\nloss",
    )
    for each in results.values():
        table.add_row(
            each.name,
            f"{each.tokens_per_second:.0f}",
            f"{each.speed_over_plain:.2f}",
            f"{each.speed_over_limit:.2f}",
            f"{100 * each.padding:.1f}%",
            f"{each.tokens_per_update:.0f}",
            f"{each.num_updates}",
            f"{each.worst_batch_over_budget:.2f}",
            f"{each.seconds:.1f}",
            "" if each.final_loss is None else f"{each.final_loss:.3f}",
            _time(each),
            style="bold" if each.name.startswith("planned") else None,
        )
    table.caption = (
        "limit: batches without padding. worst: largest batch, padding included.\n"
        "loss: of a validation token, at the end. time to loss: to plain's loss."
    )
    return table


def dial_table(dial: Sequence[bw.DialPosition]) -> Table:
    table = _table(
        "The mixing dial, on these lengths",
        "mixing",
        "batches/update",
        "padding",
        "dispersion",
    )
    for each in dial:
        padding = f"{100 * (1 - each.efficiency):.1f}%"
        table.add_row(str(each.mixing), f"{each.accumulate}", padding, f"{each.dispersion:.2f}")
    table.caption = "dispersion: how unlike updates are;\n1 is a plain shuffle."
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _time(result: Result) -> str:
    if result.final_loss is None:
        return ""
    return "never" if result.time_over_plain is None else f"{result.time_over_plain:.2f}"


def sentences(
    results: Mapping[str, Result], dial: Sequence[bw.DialPosition], precision: Precision
) -> list[str]:
    """Say what the figures say, also where they do not flatter."""
    plain, planned, grouped = (results[name] for name in ("plain", "planned", "length-grouped"))
    over_grouped = planned.tokens_per_second / grouped.tokens_per_second
    speed = (
        f"Planned batches train {planned.speed_over_plain:.2f} × as many real tokens a second as "
        f"plain ones, {planned.speed_over_limit:.2f} of what batches without padding reach."
    )
    rival = (
        "The strong rival is length grouping, which trainers offer: "
        f"{grouped.speed_over_plain:.2f} × plain's speed. Planned batches are {over_grouped:.2f} × "
        "as fast as that."
    )
    return [
        f"{speed} {_learning(planned, plain)}",
        f"{rival} {_learning(grouped, plain)}",
        _in_measured_precision(results, precision),
        f"What did not pay: {'; '.join(_unpaid(results, dial))}.",
        "One run of one seed: losses that differ by a few hundredths may do so by chance.",
    ]


def _in_measured_precision(results: Mapping[str, Result], precision: Precision) -> str:
    planned, measured, plain = (results[name] for name in ("planned", MEASURED, "plain"))
    trials = ", ".join(f"{trial.mode} {trial.ratio:.2f}" for trial in precision.evidence.trials[1:])
    chosen = f"Precision.measure chose {precision.mode} on one batch (time over fp32's: {trials})"
    if precision.mode == "fp32":
        return f"{chosen}: nothing is gained on this machine."
    faster = measured.tokens_per_second / planned.tokens_per_second
    return (
        f"{chosen}: planned batches train {faster:.2f} × as fast in it as in fp32, "
        f"{measured.speed_over_plain:.2f} × as fast as plain ones. {_learning(measured, plain)}"
    )


def _learning(result: Result, plain: Result) -> str:
    difference = result.final_loss - plain.final_loss
    side = "above" if difference > 0 else "below"
    ending = f"After the same tokens {result.name} is {abs(difference):.3f} nats {side} plain"
    if result.time_over_plain is None:
        most = result.evaluations[-1].tokens / plain.evaluations[-1].tokens
        return f"{ending}; it does not reach plain's loss with {most:.2f} × the tokens either."
    return (
        f"{ending}; it reaches plain's final loss in {result.time_over_plain:.2f} of the time, "
        f"with {result.tokens_over_plain:.2f} × the tokens."
    )


def _unpaid(results: Mapping[str, Result], dial: Sequence[bw.DialPosition]) -> list[str]:
    plain, planned = results["plain"], results["planned"]
    exact = next(each for each in dial if each.mixing == "update")
    padding = (
        f'mixing="update", whose updates are those of a plain shuffle, pads '
        f"{1 - exact.efficiency:.0%} with {exact.accumulate} batches an update"
    )
    unpaid = [padding]
    if planned.final_loss > plain.final_loss:
        unpaid.append("token for token, sorting the whole epoch cost a little loss")
    if planned.speed_over_plain < 1.05 * results["length-grouped"].speed_over_plain:
        unpaid.append("on speed alone, planning over length grouping")
    return unpaid
