"""How to change a script so that its batches are planned: a diff, or lines to copy."""

from __future__ import annotations

from dataclasses import dataclass

from batchwright._format import number
from batchwright.doctor.gains import Gain, are_all, lengths_seen
from batchwright.doctor.records import Run
from batchwright.doctor.scripts import diff_of

LENGTHS = "lengths.npy"
"""The file in which the lengths that were seen are saved."""

_KNOWN = """\
lengths = np.load("{file}")
"""

_UNKNOWN = """\
lengths = [LENGTH(sample) for sample in dataset]
"""

_TRAINER = """\
from batchwright.integrations.transformers import use_plan

use_plan(trainer)
trainer.train()
"""

_TRAINER_CUT = """\
from batchwright.integrations.transformers import use_plan

# TrainingArguments(…, per_device_train_batch_size={size}, gradient_accumulation_steps={slots})
use_plan(trainer)
trainer.train()
"""

_LOOP = """\
import batchwright as bw
{numpy}from batchwright.torch import PlanLoader

{lengths}loader = PlanLoader(dataset, bw.Planner({settings}), collate_fn=collate)
{prepare}for epoch in range(epochs):
    loader.set_epoch(epoch)
    for batch in loader:
        ...  # as before
"""

_EXACT = """\
import batchwright as bw
{numpy}from batchwright.torch import PlanLoader, Precision, windows

{lengths}loader = PlanLoader(dataset, bw.Planner({settings}), collate_fn=collate)
{prepare}precision = Precision("{precision}")
for epoch in range(epochs):
    loader.set_epoch(epoch)
    for window in windows(loader):  # the batches of an update
        with precision.update(model, optimizer, weight=window.tokens) as update:
            for batch in window:
                update.backward(LOSS_SUM, batch)  # LOSS_SUM(model, batch) → the sum of the loss
"""

_PREPARE = """\
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
"""

_LIGHTNING = """\
import batchwright as bw
{numpy}from batchwright.integrations.lightning import PlanDataModule

{lengths}planner = bw.Planner({settings})
# training_step returns self.trainer.datamodule.mean(loss_sum), of the sum of the batch's loss.
trainer.fit(module, datamodule=PlanDataModule(dataset, planner, collate_fn=collate))
"""

_KERAS = """\
import batchwright as bw
{numpy}from batchwright.keras import PlanDataset

{lengths}planner = bw.Planner({settings})
# FETCH(indices) → (x, y, sample_weight) of these samples, padded; weights are 0 at padding.
data = PlanDataset(planner, FETCH)
# The loss is a sum: compile(…, keras.losses.SparseCategoricalCrossentropy(reduction="sum")).
{optimizer}model.fit(data.for_fit(), epochs=epochs, shuffle=False, callbacks=[data.callback()])
"""

_STREAM = """\
import batchwright as bw
from batchwright.torch import StreamDataset
from torch.utils.data import DataLoader

stream = StreamDataset(
    dataset, batching=bw.TokenBudget({budget}), collate=collate, accumulate={slots}
)
loader = DataLoader(stream, batch_size=None, num_workers=NUM_WORKERS)
for epoch in range(epochs):
    stream.set_epoch(epoch)
    for batch in loader:
        ...  # as before
"""

_SLOTS = """\
# The optimizer has gradient_accumulation_steps={slots}.
"""


@dataclass(frozen=True)
class Cure:
    """How to get the gain of planned batches."""

    text: str  # a sentence in the imperative, perhaps with an explanation
    code: tuple[str, ...]  # a unified diff of the script, or lines to copy
    is_diff: bool = False


def cure_of(run: Run, gain: Gain, *, lengths: str = LENGTHS) -> Cure:
    r"""Say how to plan the batches of a run, in the framework that trains.

    Args:
        run: What was seen. If its command names a script that is found and understood, the cure
            is a diff of it.
        gain: What planned batches change.
        lengths: Where the lengths that were seen are saved.

    Returns:
        The cure. What only the user knows is in capitals.

    Example:
        >>> gain = Gain(8, 1, 1, 0.5, 8, 1, 0.01, 800, 400, 1.5, 60)
        >>> print(*cure_of(Run(()), gain).code[-3:], sep="\n")
            loader.set_epoch(epoch)
            for batch in loader:
                ...  # as before
    """
    settings = settings_of(gain)
    loads = are_all(run, lengths_seen(run))
    changed = None
    if gain.is_stream:  # only samples that have arrived can be planned
        loads = False
    elif run.framework in {"transformers", "trl"}:
        arguments = {}
        if gain.is_cut:
            arguments = {
                "per_device_train_batch_size": gain.planned_batch_size,
                "gradient_accumulation_steps": gain.planned_accumulate,
            }
        changed = diff_of(run.command, arguments=arguments)
    elif loads and is_plain(gain) and run.framework in {"torch", "accelerate"}:
        changed = diff_of(run.command, settings=settings, file=lengths)
    code = _lines(run, gain, settings, lengths if loads else None) if changed is None else changed
    return Cure(_text(run.framework, gain), tuple(code.splitlines()), is_diff=changed is not None)


def settings_of(gain: Gain) -> str:
    """Return the arguments of the planner, as code.

    Example:
        >>> settings_of(Gain(32, 1, 1, 0.5, 4, 8, 0.01, 800, 400, 1.0, 60))
        'lengths, batch_size=4, accumulate=8'
    """
    ranks = f", world_size={gain.world_size}" if gain.world_size > 1 else ""
    slots = f", accumulate={gain.planned_accumulate}" if gain.planned_accumulate > 1 else ""
    return f"lengths, batch_size={gain.planned_batch_size}{ranks}{slots}"


def is_plain(gain: Gain) -> bool:
    """Say whether an update is one batch, whose mean loss is the mean of the update."""
    return gain.planned_accumulate == 1 and gain.world_size == 1


def _lines(run: Run, gain: Gain, settings: str, file: str | None) -> str:
    """Return lines to copy; `file` holds the lengths of all samples, if that is known."""
    template = _EXACT
    if gain.is_stream and run.framework != "keras":
        template = _STREAM
    elif run.framework in {"transformers", "trl"}:
        template = _TRAINER_CUT if gain.is_cut else _TRAINER
    elif run.framework == "lightning":
        template = _LIGHTNING
    elif run.framework == "keras":
        template = _KERAS
    elif is_plain(gain):
        template = _LOOP
    products = None if run.first is None else run.first.products
    is_split = gain.planned_accumulate > 1
    return template.format(
        numpy="" if file is None else "import numpy as np\n",
        lengths=_UNKNOWN if file is None else _KNOWN.format(file=file),
        settings=settings,
        prepare=_PREPARE if run.framework == "accelerate" else "",
        precision=products.autocast if products is not None and products.autocast else "fp32",
        optimizer=_SLOTS.format(slots=gain.planned_accumulate) if is_split else "",
        size=gain.planned_batch_size,
        slots=gain.planned_accumulate,
        budget=max(gain.longest, gain.step_tokens // (gain.world_size * gain.planned_accumulate)),
    )


def _text(framework: str, gain: Gain) -> str:
    does = {
        "transformers": "call use_plan(trainer) before trainer.train()",
        "trl": "call use_plan(trainer) before trainer.train()",
        "lightning": "give trainer.fit a PlanDataModule",
        "keras": "give model.fit a PlanDataset",
    }
    action = does.get(framework, "use a PlanLoader instead of the DataLoader")
    if gain.is_stream and framework != "keras":
        action = "wrap the stream in a StreamDataset, which plans the samples in its buffer"
    said = f"Plan batches by length: {action}."
    if gain.padded_to is not None:
        said = (
            f"Pad each batch to its longest sample, not every one to {number(gain.padded_to)} "
            f"tokens. Then plan batches by length: {action}."
        )
    if gain.is_cut:
        before, after = (
            f"{size} samples × {slots}"
            for size, slots in (
                (gain.batch_size, gain.accumulate),
                (gain.planned_batch_size, gain.planned_accumulate),
            )
        )
        said += (
            " With few planned batches, an update has samples of similar length, from which a "
            f"model may learn worse: so use {after} per update instead of {before}."
        )
    return said
