"""`batchwright plan`: from a source of lengths to a plan."""

import dataclasses
import time
from typing import Any

import click

from batchwright.batching import Batching, FixedSize, Packing, TokenBudget
from batchwright.cli import values
from batchwright.cli.failures import StrictCommand
from batchwright.cli.output import check_outputs, json_option, show
from batchwright.cli.source import Reading, reading_options
from batchwright.order import Order, Sequential, Shuffle
from batchwright.planner import Planner
from batchwright.report.rows import PlanView
from batchwright.stats.plan_facts import plan_facts


@click.command("plan", cls=StrictCommand)
@click.argument("source")
@click.option(
    "--max-tokens", type=values.size, metavar="N", help="Padded batches of at most N tokens."
)
@click.option(
    "--pack", type=values.size, metavar="N", help="Rows packed to N tokens, without padding."
)
@click.option(
    "--batch-size", type=values.size, metavar="N", help="Batches of N samples, the plain way."
)
@click.option("--max-samples", type=values.size, metavar="N", help="At most N samples in a batch.")
@click.option(
    "--pad-to-multiple-of",
    type=values.count,
    metavar="N",
    help="Round rows up to multiples of N; with --pack, each sample in them.",
)
@click.option(
    "--oversize",
    type=click.Choice(("error", "drop", "truncate", "split")),
    help="What becomes of samples longer than a batch; split needs --pack.",
)
@click.option(
    "--mixing",
    type=values.mixing,
    metavar="stratified|update|K",
    help="What an update is made of: one batch of every length (stratified, the default), the "
    "samples that a shuffle draws (update), or batches sorted inside K updates.",
)
@click.option(
    "--order",
    type=click.Choice(("shuffle", "sequential")),
    default="shuffle",
    show_default=True,
    help="In what sequence samples come.",
)
@click.option(
    "--window", type=values.size, metavar="N", help="Shuffle only inside windows of N samples."
)
@click.option(
    "--seed",
    type=values.seed,
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of what is random.",
)
@click.option(
    "--epoch",
    type=values.seed,
    metavar="N",
    default=0,
    show_default=True,
    help="Epoch to plan, from 0.",
)
@click.option(
    "--world-size",
    type=values.count,
    metavar="N",
    default=1,
    show_default=True,
    help="Ranks that share an update.",
)
@click.option(
    "--accumulate",
    type=values.count,
    metavar="N",
    help="Batches of an update on each rank.  [default: 1]",
)
@click.option(
    "--step-tokens", type=values.size, metavar="N", help="Tokens of an update: finds --accumulate."
)
@click.option(
    "--cost",
    type=click.Choice(("padded", "quadratic")),
    help="Balance ranks by tokens, or by squared lengths.",
)
@reading_options
@click.option("-o", "--output", metavar="FILE", help="Save the plan, as safetensors.")
@json_option
def plan(
    source: str,
    *,
    length: str | None,
    measure: str | None,
    tokenizer: str | None,
    no_cache: bool,
    output: str | None,
    as_json: bool,
    seed: int,
    epoch: int,
    world_size: int,
    accumulate: int | None,
    step_tokens: int | None,
    cost: Any,
    **composing: Any,
) -> None:
    """Plan the batches of one epoch over the lengths in SOURCE.

    SOURCE holds one length per sample, or a column to measure: .npy, .parquet, .arrow, .jsonl
    or .csv. Give one of --max-tokens, --pack and --batch-size.
    """
    if accumulate is not None and step_tokens is not None:
        raise click.UsageError("--accumulate and --step-tokens both size an update: give one.")
    order, batching = _order(composing), _batching(composing)
    check_outputs({"--output": output}, [source, tokenizer])
    reading = Reading(length, measure, tokenizer, no_cache)
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
    show(view, as_json=as_json)


def _batching(options: dict[str, Any]) -> Batching:
    """Make the batching that the options name; refuse options that it does not have."""
    names = ("max_tokens", "pack", "batch_size")
    given = [name for name in names if options[name] is not None]
    if len(given) != 1:
        flags = " and ".join(_flag(name) for name in given) or "no budget"
        message = f"give one of --max-tokens, --pack and --batch-size, got {flags}."
        raise click.UsageError(message)
    (name,) = given
    takes = {
        "max_tokens": ("max_samples", "pad_to_multiple_of", "mixing", "oversize"),
        "pack": ("max_samples", "pad_to_multiple_of", "oversize"),
        "batch_size": ("pad_to_multiple_of",),
    }
    for other in takes["max_tokens"]:
        if options[other] is not None and other not in takes[name]:
            raise click.UsageError(f"{_flag(other)} does not go with {_flag(name)}.")
    settings = {other: options[other] for other in takes[name] if options[other] is not None}
    if name == "batch_size":
        return FixedSize(options[name], **settings)
    if name == "pack":
        if "pad_to_multiple_of" in settings:
            settings["align"] = settings.pop("pad_to_multiple_of")
        return Packing(options[name], **settings)
    if settings.get("oversize") == "split":
        raise click.UsageError("--oversize split goes with --pack; a padded row cannot be cut.")
    return TokenBudget(options[name], **settings)


def _order(options: dict[str, Any]) -> Order:
    window, mixing = options["window"], options["mixing"]
    if options["order"] == "shuffle":
        if window is not None and mixing not in {None, "stratified"}:
            raise click.UsageError(f"--mixing {mixing} does not go with --window.")
        return Shuffle(window)
    for other in ("window", "mixing"):
        if options[other] is not None:
            raise click.UsageError(f"{_flag(other)} does not go with --order sequential.")
    return Sequential()


def _described(setting: Any) -> dict[str, Any]:
    return {"name": type(setting).__name__, **dataclasses.asdict(setting)}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
