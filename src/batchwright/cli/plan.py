"""`batchwright plan`: from a source of lengths to a plan."""

import dataclasses
import time
from typing import Any

import click

from batchwright.batching import Batching, FixedSize, Packing, TokenBudget
from batchwright.cli import options
from batchwright.cli.output import check_outputs, print_plan
from batchwright.order import Order, Sequential, Shuffle
from batchwright.planner import Planner
from batchwright.report.rows import PlanView
from batchwright.stats.plan_facts import plan_facts
from batchwright.typing import Cost

_SETTINGS = {
    "max_tokens": ("max_samples", "pad_to_multiple_of", "mixing", "oversize"),
    "pack": ("max_samples", "pad_to_multiple_of", "oversize"),
    "batch_size": ("pad_to_multiple_of",),
}
"""Option that names a batching → the options it takes."""


@click.command("plan", cls=options.StrictCommand)
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
    "--order",
    type=click.Choice(("shuffle", "sequential")),
    default="shuffle",
    help="In what sequence samples come.",
)
@options.number("--window", help="Shuffle only inside windows of N samples.")
@options.number("--seed", least=0, most=2**63 - 1, default=0, help="Seed of the random numbers.")
@options.number("--epoch", least=0, default=0, help="Epoch to plan, from 0.")
@options.count("--world-size", help="Ranks that share an update.", default=1)
@options.count("--accumulate", help="Batches of an update on each rank; 1 without --step-tokens.")
@options.number("--step-tokens", help="Tokens of an update: determines --accumulate.")
@click.option(
    "--cost",
    type=click.Choice(("padded", "quadratic")),
    help="Balance ranks by tokens, or by squared lengths.",
)
@options.reading
@click.option("-o", "--output", metavar="FILE", help="Save the plan, as safetensors.")
@options.json_output
def plan(
    source: str,
    *,
    reading: options.Reading,
    output: str | None,
    as_json: bool,
    seed: int,
    epoch: int,
    world_size: int,
    accumulate: int | None,
    step_tokens: int | None,
    cost: Cost | None,
    **composing: Any,
) -> None:
    """Plan the batches of one epoch over the lengths in SOURCE.

    SOURCE holds one length per sample, or a column to measure: .npy, .parquet, .arrow, .jsonl
    or .csv. Give one of --max-tokens, --pack and --batch-size.
    """
    if accumulate is not None and step_tokens is not None:
        raise click.UsageError("--accumulate and --step-tokens both size an update: give one.")
    order, batching = _order(composing), _batching(composing)
    check_outputs({"--output": output}, [source, reading.tokenizer])
    lengths, seconds_reading = reading.lengths(source)
    start = time.perf_counter()
    planner = Planner(
        lengths,
        batching=batching,
        order=order,
        seed=seed,
        world_size=world_size,
        accumulate=accumulate,
        step_tokens=step_tokens,
        cost=cost,
    )
    planned = planner(epoch)
    seconds = time.perf_counter() - start
    if output is not None:
        planned.save(output)
    view = PlanView(
        plan_facts(planned, lengths),
        unit=reading.unit,
        source=click.format_filename(source),
        plan=None if output is None else click.format_filename(output),
        seconds=seconds,
        seconds_reading=seconds_reading,
        more={
            "batching": _described(batching),
            "order": _described(order),
            "step_tokens": step_tokens,
            "cost": cost,
        },
    )
    print_plan(view, as_json=as_json)


def _batching(given: dict[str, Any]) -> Batching:
    """Make the batching that the options name; refuse options that it does not have."""
    named = [name for name in _SETTINGS if given[name] is not None]
    if len(named) != 1:
        flags = " and ".join(map(_flag, named)) or "no budget"
        raise click.UsageError(f"give one of --max-tokens, --pack and --batch-size, got {flags}.")
    (name,) = named
    settings = {
        other: given[other] for other in _SETTINGS["max_tokens"] if given[other] is not None
    }
    for other in settings:
        if other not in _SETTINGS[name]:
            raise click.UsageError(f"{_flag(other)} does not go with {_flag(name)}.")
    if name == "batch_size":
        return FixedSize(given[name], **settings)
    if name == "pack":
        if "pad_to_multiple_of" in settings:
            settings["align"] = settings.pop("pad_to_multiple_of")
        return Packing(given[name], **settings)
    if settings.get("oversize") == "split":
        raise click.UsageError("--oversize split goes with --pack; a padded row cannot be cut.")
    return TokenBudget(given[name], **settings)


def _order(given: dict[str, Any]) -> Order:
    window, mixed = given["window"], given["mixing"]
    if given["order"] == "shuffle":
        if window is not None and mixed not in {None, "stratified"}:
            raise click.UsageError(f"--mixing {mixed} does not go with --window.")
        return Shuffle(window)
    for other in ("window", "mixing"):
        if given[other] is not None:
            raise click.UsageError(f"{_flag(other)} does not go with --order sequential.")
    return Sequential()


def _described(setting: Batching | Order) -> dict[str, Any]:
    return {"name": type(setting).__name__, **dataclasses.asdict(setting)}  # type: ignore[call-overload]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
