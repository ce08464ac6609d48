"""`batchwright plan`: from a source of lengths to a plan."""

import dataclasses
import time
from typing import Any, cast

import click

from batchwright.batching import FixedSize, Packing, TokenBudget
from batchwright.cli import options
from batchwright.cli.output import check_outputs, deliver
from batchwright.order import Sequential, Shuffle
from batchwright.planner import Planner
from batchwright.report.inspected import PlanView, plan_report
from batchwright.stats.plan_facts import plan_facts
from batchwright.typing import Batching, Order

_BATCHINGS = {
    "max_tokens": (
        TokenBudget,
        {"max_samples", "pad_to_multiple_of", "mixing", "slack", "oversize"},
    ),
    "pack": (Packing, {"max_samples", "pad_to_multiple_of", "oversize"}),
    "batch_size": (FixedSize, {"pad_to_multiple_of"}),
}
"""Option → the batching that it names, and the options that go with it."""


@click.command("plan")
@click.argument("source")
@options.number("--max-tokens", help="Padded batches of at most N tokens.")
@options.number("--pack", help="Rows packed to N tokens, without padding.")
@options.number("--batch-size", help="Batches of N samples, whatever their lengths.")
@options.number("--max-samples", help="At most N samples in a batch.")
@options.count(
    "--pad-to-multiple-of",
    help="Round rows up to multiples of N; with --pack, each sample in them.",
)
@click.option(
    "--oversize",
    type=click.Choice(("error", "drop", "truncate", "split")),
    help="What to do with samples longer than a batch; split needs --pack.",
)
@click.option(
    "--mixing",
    type=options.mixing,
    metavar="stratified|update|K",
    help="What an update is made of: one batch of every length (stratified, the default), the "
    "samples that a shuffle draws (update), or batches sorted inside K updates.",
)
@click.option(
    "--slack",
    type=click.FloatRange(0.0, 1.0),
    metavar="S",
    help="Batch lengths that differ by up to this share as if equal: for other batches in every "
    "epoch, with more padding.",
)
@options.order
@options.window
@options.number("--seed", least=0, most=2**63 - 1, default=0, help="Seed of the random numbers.")
@options.number("--epoch", least=0, default=0, help="Epoch to plan, from 0.")
@options.count("--world-size", help="Ranks that share an update.", default=1)
@options.count("--accumulate", help="Batches of an update on each rank; 1 without --step-tokens.")
@options.number("--step-tokens", help="Tokens of an update: determines --accumulate.")
@options.cost
@options.reading
@click.option("-o", "--output", metavar="FILE", help="Save the plan, as safetensors.")
@options.json_output
def plan(
    source: str,
    *,
    reading: options.Reading,
    output: str | None,
    as_json: bool,
    epoch: int,
    **given: Any,
) -> None:
    """Plan the batches of one epoch over the lengths in SOURCE.

    SOURCE holds one length per sample, or a column to measure: .npy, .parquet, .arrow, .jsonl
    or .csv. Or it is an .index of lengths, or an .idx or .ds.index of tokens. Give one of
    --max-tokens, --pack and --batch-size.
    """
    if given["accumulate"] is not None and given["step_tokens"] is not None:
        raise click.UsageError("--accumulate and --step-tokens both size an update: give one.")
    order = order_of(given["order"], given["window"], given["mixing"])
    batching = _batching(given)
    check_outputs({"--output": output}, [source, reading.tokenizer])
    lengths, seconds_reading = reading.lengths(source)
    start = time.perf_counter()
    names = ("seed", "world_size", "accumulate", "step_tokens", "cost")
    settings = {name: given[name] for name in names}
    given_lengths = reading.index(source) or lengths
    planned = Planner(given_lengths, batching=batching, order=order, **settings)(epoch)
    seconds = time.perf_counter() - start
    if output is not None:
        planned.save(output)
    more = {"batching": _described(batching), "order": _described(order)}
    view = PlanView(
        plan_facts(planned, lengths),
        unit=reading.unit,
        source=click.format_filename(source),
        plan=None if output is None else click.format_filename(output),
        seconds=seconds,
        seconds_reading=seconds_reading,
        more=more | {name: given[name] for name in ("step_tokens", "cost")},
    )
    deliver(plan_report(view), as_json=as_json)


def _batching(given: dict[str, Any]) -> Batching:
    """Make the batching that the options name; refuse options that it does not have."""
    named = [name for name in _BATCHINGS if given[name] is not None]
    if len(named) != 1:
        flags = " and ".join(map(_flag, named)) or "no budget"
        raise click.UsageError(f"give one of --max-tokens, --pack and --batch-size, got {flags}.")
    (name,) = named
    kind, takes = _BATCHINGS[name]
    others = ("max_samples", "pad_to_multiple_of", "mixing", "slack", "oversize")
    settings = {other: given[other] for other in others if given[other] is not None}
    for other in settings:
        if other not in takes:
            raise click.UsageError(f"{_flag(other)} does not go with {_flag(name)}.")
    if name == "pack" and "pad_to_multiple_of" in settings:
        settings["align"] = settings.pop("pad_to_multiple_of")
    if name == "max_tokens" and settings.get("oversize") == "split":
        raise click.UsageError("--oversize split goes with --pack; a padded row cannot be cut.")
    return cast("Batching", kind(given[name], **settings))


def order_of(name: str, window: int | None, mixing: str | int | None) -> Order:
    """Make the order that the options name; refuse options that it does not have."""
    if name == "shuffle":
        if window is not None and mixing not in {None, "stratified"}:
            raise click.UsageError(f"--mixing {mixing} does not go with --window.")
        return Shuffle(window)
    if window is not None or mixing is not None:
        raise click.UsageError("--window and --mixing do not go with --order sequential.")
    return Sequential()


def _described(setting: Batching | Order) -> dict[str, object]:
    return {"name": type(setting).__name__, **dataclasses.asdict(setting)}  # type: ignore[call-overload]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
