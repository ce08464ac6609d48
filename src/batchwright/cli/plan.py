"""`batchwright plan`: makes a plan from a source of lengths."""

import dataclasses
import time
from typing import Any, cast

import click
import numpy as np

from batchwright.batching import FixedSize, Packing, TokenBudget
from batchwright.budgets import suggest
from batchwright.cli import options
from batchwright.cli.output import check_outputs, deliver
from batchwright.lengths import without_empty
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
    "fixed_size": (FixedSize, {"pad_to_multiple_of"}),
}
"""Option → the batching that it names, and the options that go with it."""


@click.command("plan")
@click.argument("source")
@options.number("--max-tokens", help="Padded batches of at most N tokens.")
@options.number("--pack", help="Rows packed to N tokens, without padding.")
@options.number("--fixed-size", help="Batches of N samples, whatever their lengths.")
@options.batch_size
@options.number("--max-samples", help="At most N samples in a batch.")
@options.count(
    "--pad-to-multiple-of",
    help="Round row lengths up to a multiple of N; with --pack, the length of each sample.",
)
@click.option(
    "--oversize",
    type=click.Choice(("error", "drop", "truncate", "split")),
    help="What to do with samples longer than the budget; split needs --pack.",
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
    help="Treat lengths that differ by up to this share as equal: batches vary more between "
    "epochs, with more padding.",
)
@options.order
@options.window
@options.number("--seed", least=0, most=2**63 - 1, default=0, help="Seed of the random numbers.")
@options.number("--epoch", least=0, default=0, help="Epoch to plan; the first is 0.")
@options.count("--world-size", help="Ranks that share an update.", default=1)
@options.count("--accumulate", help="Batches of an update on each rank; 1 without --step-tokens.")
@options.number("--step-tokens", help="Tokens per update: determines --accumulate.")
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
    or .csv. Or it is an .index of lengths, or an .idx or .ds.index of tokens.

    --batch-size says how many samples your batches have now: the plan has as many tokens per
    update, and is compared with them. With or without it, you can give one of --max-tokens, --pack
    and --fixed-size; otherwise the budget is what such batches take.
    """
    if given["accumulate"] is not None and given["step_tokens"] is not None:
        raise click.UsageError("--accumulate and --step-tokens both size an update: give one.")
    order = order_of(given["order"], given["window"], given["mixing"])
    named = _named(given)
    check_outputs({"--output": output}, [source, reading.tokenizer])
    lengths, seconds_reading = reading.lengths(source)
    start = time.perf_counter()
    rows, lengths = (
        lengths,
        np.asarray(without_empty(lengths, "one")[0]),
    )  # as the planner counts them
    batch_size = given["batch_size"]
    if named is None:
        multiple = given["pad_to_multiple_of"] or 1
        rows_take = -(-lengths.astype(np.int64) // multiple) * multiple
        budgets = suggest(rows_take, batch_size=batch_size)
        given["max_tokens"] = budgets.max_tokens if given["oversize"] else budgets.for_all
        given["batch_size"] = budgets.batch_size
    batching = _batching(given, named or "max_tokens")
    names = ("seed", "world_size", "accumulate", "step_tokens", "cost")
    settings = {name: given[name] for name in names}
    planner = Planner(
        reading.index(source) or rows,
        batching=batching,
        empty=reading.empty or "error",
        batch_size=given["batch_size"],
        order=order,
        **settings,
    )
    planned = planner(epoch)
    seconds = time.perf_counter() - start
    if output is not None:
        planned.save(output)
    more = {
        "batching": _described(batching),
        "order": _described(order),
        "step_tokens": planner.step_tokens,
        "cost": given["cost"],
    }
    view = PlanView(
        plan_facts(planned, lengths, batch_size=batch_size),
        unit=reading.unit,
        source=click.format_filename(source),
        plan=None if output is None else click.format_filename(output),
        seconds=seconds,
        seconds_reading=seconds_reading,
        code=_code(planner, {**given, "empty": reading.empty}),
        more=more,
    )
    deliver(plan_report(view), as_json=as_json)


def _named(given: dict[str, Any]) -> str | None:
    """Return the option that names a batching. None: none does."""
    named = [name for name in _BATCHINGS if given[name] is not None]
    if len(named) > 1:
        flags = " and ".join(map(_flag, named))
        raise click.UsageError(f"give one of --max-tokens, --pack and --fixed-size, got {flags}.")
    name = named[0] if named else None
    _settings(given, name or "max_tokens")
    return name


def _batching(given: dict[str, Any], name: str) -> Batching:
    """Make the batching that an option names."""
    return cast("Batching", _BATCHINGS[name][0](given[name], **_settings(given, name)))


def _settings(given: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the other arguments of a batching; refuse options that it does not have."""
    takes = _BATCHINGS[name][1]
    others = ("max_samples", "pad_to_multiple_of", "mixing", "slack", "oversize")
    settings = {other: given[other] for other in others if given[other] is not None}
    for other in settings:
        if other not in takes:
            raise click.UsageError(f"{_flag(other)} does not go with {_flag(name)}.")
    if name == "pack" and "pad_to_multiple_of" in settings:
        settings["align"] = settings.pop("pad_to_multiple_of")
    if name == "max_tokens" and settings.get("oversize") == "split":
        raise click.UsageError("--oversize split goes with --pack; a padded row cannot be cut.")
    return settings


def order_of(name: str, window: int | None, mixing: str | int | None) -> Order:
    """Make the order that the options name; refuse options that it does not have."""
    if name == "shuffle":
        if window is not None and mixing not in {None, "stratified"}:
            raise click.UsageError(f"--mixing {mixing} does not go with --window.")
        return Shuffle(window)
    if window is not None or mixing is not None:
        raise click.UsageError("--window and --mixing do not go with --order sequential.")
    return Sequential()


def _code(planner: Planner, given: dict[str, Any]) -> str:
    """Write such a planner in Python."""
    batching = planner.batching
    settings = {
        each.name: getattr(batching, each.name)
        for each in dataclasses.fields(batching)  # type: ignore[arg-type]  # all are dataclasses
        if getattr(batching, each.name) != each.default
    }
    words = [f"{name}={value!r}" for name, value in settings.items()]
    if not (isinstance(batching, TokenBudget) and len(settings) == 1):
        words = [f"batching=bw.{type(batching).__name__}({', '.join(words)})"]
    if planner.order != Shuffle():
        words.append(f"order=bw.{planner.order!r}")
    options = {
        "empty": given["empty"],
        "seed": planner.seed,
        "world_size": planner.world_size,
        "cost": planner.cost,
    }
    usual = {"empty": None, "seed": 0, "world_size": 1, "cost": None}
    words += [f"{name}={value!r}" for name, value in options.items() if value != usual[name]]
    if given["accumulate"] is not None:
        words += [f"{name}={given[name]}" for name in ("batch_size", "accumulate") if given[name]]
    elif planner.step_tokens is not None:
        words.append(f"step_tokens={planner.step_tokens}")
    return f"planner = bw.Planner(lengths, {', '.join(words)})"


def _described(setting: Batching | Order) -> dict[str, object]:
    return {"name": type(setting).__name__, **dataclasses.asdict(setting)}  # type: ignore[call-overload]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
