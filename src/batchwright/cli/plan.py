"""`batchwright plan`: from a source of lengths to a plan."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from batchwright.batching import Batching, FixedSize, Packing, TokenBudget
from batchwright.cli.options import (
    FROM_ZERO,
    POSITIVE,
    Reading,
    StrictCommand,
    json_option,
    mixing,
    reading_options,
)
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


F = TypeVar("F", bound=Callable[..., Any])


def _number(name: str, text: str, **more: Any) -> Callable[[F], F]:
    """Return an option that takes a number of at least 1."""
    return click.option(name, type=POSITIVE, metavar="N", help=text, **more)


@click.command("plan", cls=StrictCommand)
@click.argument("source")
@_number("--max-tokens", "Padded batches of at most N tokens.")
@_number("--pack", "Rows packed to N tokens, without padding.")
@_number("--batch-size", "Batches of N samples, whatever their lengths.")
@_number("--max-samples", "At most N samples in a batch.")
@_number(
    "--pad-to-multiple-of", "Round rows up to multiples of N; with --pack, each sample in them."
)
@click.option(
    "--oversize",
    type=click.Choice(("error", "drop", "truncate", "split")),
    help="What to do with samples longer than a batch; split needs --pack.",
)
@click.option(
    "--mixing",
    type=mixing,
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
@_number("--window", "Shuffle only inside windows of N samples.")
@click.option("--seed", type=FROM_ZERO, metavar="N", default=0, help="Seed of the random numbers.")
@click.option("--epoch", type=FROM_ZERO, metavar="N", default=0, help="Epoch to plan, from 0.")
@_number("--world-size", "Ranks that share an update.", default=1)
@_number("--accumulate", "Batches of an update on each rank; 1 without --step-tokens.")
@_number("--step-tokens", "Tokens of an update: determines --accumulate.")
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
    reading: Reading,
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


def _batching(options: dict[str, Any]) -> Batching:
    """Make the batching that the options name; refuse options that it does not have."""
    given = [name for name in _SETTINGS if options[name] is not None]
    if len(given) != 1:
        flags = " and ".join(map(_flag, given)) or "no budget"
        message = f"give one of --max-tokens, --pack and --batch-size, got {flags}."
        raise click.UsageError(message)
    (name,) = given
    settings = {
        other: options[other] for other in _SETTINGS["max_tokens"] if options[other] is not None
    }
    for other in settings:
        if other not in _SETTINGS[name]:
            raise click.UsageError(f"{_flag(other)} does not go with {_flag(name)}.")
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
    window, mixed = options["window"], options["mixing"]
    if options["order"] == "shuffle":
        if window is not None and mixed not in {None, "stratified"}:
            raise click.UsageError(f"--mixing {mixed} does not go with --window.")
        return Shuffle(window)
    for other in ("window", "mixing"):
        if options[other] is not None:
            raise click.UsageError(f"{_flag(other)} does not go with --order sequential.")
    return Sequential()


def _described(setting: Batching | Order) -> dict[str, Any]:
    return {"name": type(setting).__name__, **dataclasses.asdict(setting)}  # type: ignore[call-overload]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
