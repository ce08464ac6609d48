"""What `advise` found, as a value; and as sentences for a terminal, which the page shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from batchwright._format import interval, mebibytes, number, one_line, percent, plural
from batchwright.advise.advice import Advice, Gain
from batchwright.advise.data_profile import ColumnLengths, DataProfile
from batchwright.advise.duplicates import Duplicates
from batchwright.advise.machine import Hardware, ModelProfile
from batchwright.advise.sample_profiles import GroupProfile, LabelProfile
from batchwright.advise.task_evidence import Price
from batchwright.advise.trials import LearningTrial, SpeedTrial

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_STYLES = {"use": "bold green", "do not use": "bold red", "cannot tell": "bold yellow"}


@dataclass(frozen=True)
class SpentPrice(Price):
    """What trials might have taken, and what they took.

    Attributes:
        seconds_spent: What they took.
    """

    seconds_spent: float = 0.0


@dataclass(frozen=True)
class Advised:
    """What `advise` shows; the fields are the ``--json`` keys.

    Attributes:
        data: What lengths say.
        hardware: The machine. None: torch is missing.
        model: None: there is no task, or no time for a look at it.
        trials: Of speed; empty without a task.
        learning: Of what is learnt.
        price: Of the trials. None: there is no task.
        strategy: All that is advised, as `compare` calls it.
        advice: The most important first.
        snippet: Code to paste.
        labels: What labels say. None: unknown.
        duplicates: Repeated samples. None: unknown.
        groups: What groups say. None: unknown.
    """

    data: DataProfile
    hardware: Hardware | None
    model: ModelProfile | None
    trials: tuple[SpeedTrial, ...]
    learning: dict[str, LearningTrial]
    price: SpentPrice | None
    strategy: str
    advice: tuple[Advice, ...]
    snippet: str
    labels: LabelProfile | None
    duplicates: Duplicates | None
    groups: GroupProfile | None

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def advice_report(found: Advised) -> Group:
    """Lay out the advice for rich to print: what is known, then a paragraph for each technique."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    data = found.data
    assumed = "" if data.is_given else ", assumed: --max-tokens"
    lengths = (
        f"{number(data.num_samples)} samples, {number(data.num_tokens)} tokens: half are "
        f"at most {number(data.median)} long, the longest {number(data.longest)}. "
        f"Batches of {number(data.max_tokens)} tokens{assumed}."
    )
    known = [
        lengths,
        *_column_sentences(data.columns),
        *_hardware_sentences(found.hardware),
        *sample_sentences(found),
        *model_sentences(found.model),
        *price_sentences(found.price),
    ]
    parts: list[RenderableType] = [Text(), *map(Text, known)]
    for each in found.advice:
        heading = Text.assemble(
            (f"{each.verdict:12}", _STYLES[each.verdict]), (each.technique, "bold")
        )
        parts += [Text(), heading, Padding(Text(paragraph(each)), (0, 0, 0, 12))]
    if found.trials:
        command = f"batchwright compare TASK --strategies plain,{found.strategy}"
        parts += [Text(), Text(f"To compare them in whole runs: {command}")]
    return Group(*parts)


def paragraph(advice: Advice) -> str:
    """Give the reason, the expected gain, what to set, and what was not tested."""
    said, gain = [advice.why], advice.gain
    if gain is not None:
        source = f": {gain.source}" if gain.source else ""
        said.append(f"Expected: {gain_interval(gain)} × {gain.of}, {gain.origin}{source}.")
    if advice.settings:
        listed = ", ".join(f"{name}: {value}" for name, value in advice.settings.items())
        said.append(f"Setting: {listed}.")
    if advice.untested:
        said.append(f"Not tested: {advice.untested}.")
    return " ".join(said)


def gain_interval(gain: Gain) -> str:
    """Write a gain, and its interval if there is one."""
    return interval(gain.ratio, gain.low, gain.high)


def hardware_name(hardware: Hardware) -> str:
    """Describe the machine in a few words."""
    known = [hardware.name]
    if hardware.cores is not None:
        known.append(plural(hardware.cores, "core"))
    if hardware.memory_bytes is not None:
        known.append(f"{mebibytes(hardware.memory_bytes / 1024)} GiB")
    return f"{hardware.device} ({', '.join(known)})"


def model_sentences(model: ModelProfile | None) -> list[str]:
    """Describe the model, and list what could not be found out about it."""
    if model is None:
        return []
    said = f"A model of {number(model.parameters)} parameters."
    cost, memory = model.cost, model.memory
    if cost is not None:
        said += (
            f" Rows of {number(cost.lengths[-1])} tokens take {1e3 * cost.seconds[-1]:.3g} ms"
            f" to train, {percent(cost.quadratic)} of it due to pairs of tokens."
        )
    if memory is not None:
        said += (
            f" Its batches peak at {mebibytes(max(size for *_, size in memory.shapes))} MiB, "
            f"most of it {memory.parts[0][0]}."
        )
    return [said, *(f"Not found out: {each}" for each in model.unknown)]


def price_sentences(price: SpentPrice | None) -> list[str]:
    """Say how much time trials took, of what they might have taken."""
    if price is None:
        return []
    said = f"Trials took {price.seconds_spent:.0f} s"
    if price.seconds is not None:
        said += f", of at most {price.seconds:.0f} s"
    run = f"about {price.run_seconds:.0f}" if price.run_seconds >= 10 else "less than 10"
    return [f"{said}; a run in plain batches takes {run} s here."]


def sample_sentences(found: Advised) -> list[str]:
    """Say in a sentence or two each what is known of labels, duplicates and groups."""
    return [
        *(() if found.labels is None else [_of_labels(found.labels)]),
        *(() if found.duplicates is None else [_of_duplicates(found.duplicates)]),
        *(() if found.groups is None else [group_sentence(found.groups)]),
    ]


def _column_sentences(columns: Sequence[ColumnLengths]) -> Iterator[str]:
    if len(columns) > 1:
        said = (
            f"half are at most {number(each.median)} long, the longest {number(each.longest)}"
            for each in columns
        )
        yield f"By columns: {'; '.join(said)}."


def _hardware_sentences(hardware: Hardware | None) -> Iterator[str]:
    if hardware is not None:
        speeds = "; ".join(
            f"{name} over fp32 "
            + ", ".join(f"{ratio:.2f} × at width {number(width)}" for width, ratio in each.items())
            for name, each in hardware.speed_over_fp32.items()
        )
        yield f"Machine: {hardware_name(hardware)}; {speeds}."


def _of_labels(labels: LabelProfile) -> str:
    said = (
        f"Labels: {number(labels.num_classes)} classes of {number(labels.smallest)} to "
        f"{number(labels.largest)} samples, with the entropy of "
        f"{labels.effective_classes:.1f} equal ones."
        if labels.num_classes > 1
        else "Labels: one class."
    )
    noise = labels.noise
    if noise is None:
        return f"{said} How many are wrong is not known: {labels.noise_unknown}."
    samples = f"estimated from {plural(noise.num_samples, 'sample')}"
    if noise.is_trusted:
        between = f"{percent(noise.low)} to {percent(noise.high)}"
        return f"{said} Wrong: {percent(noise.rate)} ({between}), {samples}."
    return f"{said} How many are wrong is uncertain ({samples}): {noise.doubt}."


def _of_duplicates(duplicates: Duplicates) -> str:
    of = f"the {'' if duplicates.is_complete else 'first '}{number(duplicates.num_samples)}"
    if not duplicates.num_repeated:
        return f"Duplicates: none among {of} samples."
    said = f"Duplicates: {number(duplicates.num_repeated)} of {of} samples"
    if duplicates.token_share is not None:
        said += f", {percent(duplicates.token_share)} of the tokens"
    said += f"; the most frequent occurs {number(duplicates.largest)} times."
    if duplicates.num_contradicting:
        said += (
            f" Equal samples have different labels: at least "
            f"{number(duplicates.num_contradicting)} are wrong."
        )
    return said


def group_sentence(groups: GroupProfile) -> str:
    """Name the smallest and the largest group."""
    if groups.num_groups == 1:
        return "Groups: one."
    largest, smallest = groups.largest[0], groups.smallest
    return (
        f"Groups: {number(groups.num_groups)}, from {one_line(smallest.name)} "
        f"({percent(smallest.token_share)} of the tokens) to {one_line(largest.name)} "
        f"({percent(largest.token_share)})."
    )
