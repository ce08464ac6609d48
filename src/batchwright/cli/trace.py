"""`batchwright trace`: the samples of one update, from a saved state."""

import json
from pathlib import Path
from typing import Any

import click

from batchwright._format import one_line
from batchwright._states import parsed
from batchwright.batching.custom import rebuilt
from batchwright.cli import options
from batchwright.cli.plan import order_of
from batchwright.errors import PlanError, SourceNotFoundError
from batchwright.plan_source import PlanSource, as_source
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.resume import read_fields, read_position
from batchwright.tracing import Traced
from batchwright.typing import State


@click.command("trace")
@click.argument("state")
@click.argument("source")
@options.number(
    "--update", least=-(2**53), required=True, help="Update, from 0; -1 is the last one done."
)
@options.number("--rank", least=0, help="Only the batches of this rank.")
@options.order
@options.window
@options.cost
@options.reading
@options.json_output
def trace(
    state: str,
    source: str,
    *,
    reading: options.Reading,
    update: int,
    rank: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show the samples of one update of the epoch in which a STATE was saved.

    STATE is a JSON file with what a sampler's state_dict() or state_after() returned. SOURCE is
    what the sampler was made from: lengths, as for `batchwright plan`, or a saved plan. If the
    number of ranks changed within the epoch, updates are counted across all changes; those after
    the state have the last number of ranks.
    """
    saved = _read(Path(state))
    plans = _plans(read_fields(saved), source, reading, given)
    position = read_position(saved, plans)
    if not position.legs:
        raise PlanError(
            f"{state}: no update of epoch {position.epoch} was begun, so the number of ranks is "
            "not known. Planner.samples_of finds its samples."
        )
    traced = Traced.of(plans, position, update)
    if rank is not None and rank >= traced.leg.world_size:
        ranks = traced.leg.world_size
        raise click.UsageError(f"--rank {rank}: update {traced.update} had {ranks} ranks.")
    facts = traced.described(rank)
    if as_json:
        click.echo(json.dumps(facts))
        return
    when = "before" if traced.update < traced.num_done else "after"
    click.echo(
        f"epoch {traced.epoch}, update {traced.update} of {traced.num_updates} from 0, {when} the "
        f"state; {traced.leg.world_size} ranks, {traced.leg.accumulate} batches of each"
    )
    for batch in facts["batches"]:
        entries = [str(sample) for sample in batch["samples"]]
        if "starts" in batch:
            pairs = zip(entries, batch["starts"], strict=True)
            entries = [f"{sample} from {start}" for sample, start in pairs]
        click.echo(f"rank {batch['rank']}: {', '.join(entries)}")


def _read(path: Path) -> Any:
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file; expected a state, as JSON.")
    try:
        return parsed(path.read_bytes())
    except ValueError as error:
        raise PlanError(f"{path}: not JSON ({one_line(error, 100)}).") from error


def _plans(
    fields: State, source: str, reading: options.Reading, given: dict[str, Any]
) -> PlanSource:
    """Recreate the plans of a state."""
    settings = fields["settings"]
    if Path(source).suffix == ".safetensors":
        return as_source(Plan.load(source))
    if not isinstance(settings, dict) or not isinstance(settings.get("batching"), dict):
        raise PlanError(
            "the state was saved by a sampler of one plan, or of batches made by a function of "
            "yours. Give the file of the plan (.safetensors) as SOURCE."
        )
    planner = Planner(
        reading.index(source) or reading.lengths(source)[0],
        batching=rebuilt(settings["batching"]),
        order=order_of(given["order"], given["window"], None),
        seed=fields["seed"],
        step_tokens=settings.get("step_tokens"),
        cost=given["cost"],
        last=settings.get("last", "short"),
        empty=reading.empty or "error",
    )
    return as_source(planner)
