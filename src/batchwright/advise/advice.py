"""Advice on a technique: verdict, reason, expected gain, and code to paste."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from batchwright._format import plural
from batchwright.advise.data_profile import DataProfile

Verdict: TypeAlias = Literal["use", "do not use", "cannot tell"]

Origin: TypeAlias = Literal["measured here", "computed from the plan", "published"]

_KINDS = ("planned", "mixed")
"""Kinds of batches that may be advised, as `compare` calls them."""

WORTH = 1.03
"""Lower ratios are not worth a change."""


@dataclass(frozen=True)
class Gain:
    """The expected gain of a technique."""

    ratio: float  # with the technique over without it
    low: float | None  # lower end of the 95 % interval. None: computed, or from a single run
    high: float | None  # upper end
    of: str  # what is compared, as it follows "2 ×": ``"the real tokens per second"``
    origin: Origin = "measured here"  # where the figure comes from
    source: str = ""  # who published it

    @property
    def verdict(self) -> Verdict:
        """Whether it is worth a change; if there is an interval, the whole of it must agree."""
        low, high = (self.ratio if end is None else end for end in (self.low, self.high))
        if low >= WORTH:
            return "use"
        return "do not use" if high < WORTH else "cannot tell"


@dataclass(frozen=True)
class Advice:
    """Advice on one technique."""

    technique: str  # its name
    verdict: Verdict  # ``"use"``, ``"do not use"`` or ``"cannot tell"``
    why: str  # the reason, in a few sentences
    gain: Gain | None = None  # the expected gain. None: unknown
    settings: Mapping[str, Any] = field(default_factory=dict)  # by argument names of the library
    untested: str = ""  # what was not tested
    rule: str = ""  # name of the rule that gave the advice
    strategy: str = ""  # its part of a strategy's name in `compare`
    short: str = ""  # the reason in a line, after the technique's name
    action: str = ""  # what to do, as it follows "you can": ``"switch to planned batches"``


def configuration(advice: Sequence[Advice]) -> str:
    """Return the name of the strategy that does everything advised, and nothing else.

    Example:
        >>> use = Advice("mixed precision", "use", "", strategy="bf16")
        >>> configuration([use, Advice("curriculum", "do not use", "", strategy="curriculum:loss")])
        'plain+bf16'
    """
    parts = [each.strategy for each in advice if each.verdict == "use" and each.strategy]
    kind = next((each for each in _KINDS if each in parts), "plain")
    return "+".join([kind, *(part for part in parts if part not in _KINDS)])


_ONE_BATCH = """\
# An update is one batch of similar lengths. To mix lengths, add .resized(1, 8): 1 rank, 8 batches.
"""

FRAMEWORKS = ("loop", "transformers", "lightning", "keras")
"""What `snippet` writes code for."""

_LOOP = """\
import batchwright as bw
{imports}from batchwright.torch import PadCollator, PlanLoader, Precision, windows

{explained}planner = bw.Planner({settings}){cut}
loader = PlanLoader(dataset, planner, collate_fn=PadCollator({collate}))
precision = {precision}
for epoch in range({epochs}):
    loader.set_epoch(epoch)
    for window in windows(loader):  # the batches of one update
        with precision.update(model, optimizer, weight=window.tokens, clip=1.0) as update:
            for batch in window:
                update.backward(loss_sum, batch)  # loss_sum(model, batch): the sum, not the mean
"""

_TRANSFORMERS = """\
import batchwright as bw
import torch
{imports}from batchwright.integrations.transformers import use_plan
from batchwright.torch import PadCollator
from transformers import Trainer, TrainingArguments

{explained}planner = bw.Planner({settings}){cut}
arguments = TrainingArguments(
    output_dir=OUTPUT_DIR,
    num_train_epochs={epochs},
    gradient_accumulation_steps=planner.accumulate,
    {arguments},
    use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused on a CPU
    remove_unused_columns=False,
)
trainer = Trainer(
    model,
    arguments,
    train_dataset=dataset,
    data_collator=PadCollator(attention_mask=True{also_collate}),
)
use_plan(trainer, planner)
trainer.train()
"""

_LIGHTNING = """\
import batchwright as bw
{imports}import lightning
from batchwright.integrations.lightning import PlanDataModule
from batchwright.torch import PadCollator

{explained}planner = bw.Planner({settings}){cut}
data = PlanDataModule(dataset, planner, collate_fn=PadCollator({collate}))
trainer = lightning.Trainer(max_epochs={epochs}, precision="{lightning}")
# module is your LightningModule. Its training_step returns self.trainer.datamodule.mean(loss_sum)
# with the sum of the batch's loss: the mean of a batch would lead to a mean of means.
trainer.fit(module, datamodule=data)
"""

_KERAS = """\
import batchwright as bw
{imports}import keras
from batchwright.keras import PlanDataset

{explained}planner = bw.Planner({settings}){cut}

# Layers take their precision when they are made: build and compile the model after this line,
# with a loss that is a sum: keras.losses.MeanSquaredError(reduction="sum"). If planner.accumulate
# is more than 1, its optimizer needs gradient_accumulation_steps=planner.accumulate.
keras.config.set_dtype_policy("{keras}")
model = BUILD_MODEL()

# fetch(indices) → (x, y, sample_weight) of these samples, padded; weights are 0 at padding.
data = PlanDataset(planner, {fetch})
model.fit(data.for_fit(), epochs={epochs}, shuffle=False, callbacks=[data.callback()])
"""

_TEMPLATES = {
    "loop": _LOOP,
    "transformers": _TRANSFORMERS,
    "lightning": _LIGHTNING,
    "keras": _KERAS,
}

_MODES = {
    "bf16": {"arguments": "bf16=True", "lightning": "bf16-mixed", "keras": "mixed_bfloat16"},
    "fp16": {"arguments": "fp16=True", "lightning": "16-mixed", "keras": "mixed_float16"},
    "fp32": {"arguments": "bf16=False", "lightning": "32-true", "keras": "float32"},
}
"""The name of each precision in the frameworks."""

_LIVE = """\
table = bw.LossTable(len(lengths))
# The order depends on the losses of samples: live = batchwright.torch.LiveLosses(table), then
# live.record(indices, losses) after each batch and live.sync() at the end of an epoch.
"""


_DISTINCT = """\
# texts[i]: the content of sample i; the first of equal samples is kept.
kept = first_of_each(texts)
lengths = np.asarray(lengths)[kept]
"""

_SUBSET = """\
dataset = Subset(dataset, kept.tolist())
"""


_CUT = """\
# fetch cuts longer samples to planner(0).layout.max_length.
"""


def _collate(batching: str) -> list[str]:
    """Return the arguments of a collator for a batching."""
    found = ["shapes=planner(0).layout.shapes"] if batching.startswith("Buckets(") else []
    is_cut = 'oversize="truncate"' in batching
    return [*found, "max_length=planner(0).layout.max_length"] if is_cut else found


def snippet(
    advice: Sequence[Advice],
    data: DataProfile,
    framework: str = "loop",
    *,
    step_tokens: int | None = None,
    epochs: int | None = None,
) -> str:
    """Write the advised configuration for a framework.

    Args:
        advice: The advice.
        data: The lengths it was given for.
        framework: One of `FRAMEWORKS`.
        step_tokens: Tokens of an update. None: those of a plain batch.
        epochs: Passes over the samples. None: unknown.

    Returns:
        Python code that uses the user's `lengths`, `dataset`, `model` and the like. What only the
        user knows is in capitals.

    Example:
        >>> from batchwright.advise import Evidence, advise, profile_data
        >>> data = profile_data([3, 5, 5, 60] * 50, max_tokens=120)
        >>> "batching=bw.TokenBudget(120)" in snippet(advise(Evidence(data)), data)
        True
    """
    used = {"batching": f"FixedSize({data.batch_size})"}
    for each in advice:
        for name, value in each.settings.items() if each.verdict == "use" else ():
            if name not in used or name == "batching":  # the order with the largest gain
                used[name] = str(value)
    is_keras, is_distinct, explained = framework == "keras", "lengths" in used, ""
    imports, fetch = "", "fetch"
    if is_distinct:
        imports = "import numpy as np\nfrom batchwright.advise import first_of_each\n"
        imports += "" if is_keras else "from torch.utils.data import Subset\n"
        explained += _DISTINCT + ("" if is_keras else _SUBSET)
        fetch = "lambda indices: fetch(kept[indices])"
    order = used.get("order", "")
    if order.startswith("SelfPaced("):
        explained, order = explained + _LIVE, order.replace("LossTable(num_samples)", "table")
    elif order:
        scores = order.partition("(")[2].partition(",")[0]
        if not scores.startswith("lengths"):
            explained += f"# {scores}: one value for each sample; higher is harder.\n"
            chosen = f"np.asarray({scores})[kept]" if is_distinct else scores
            order = order.replace(scores, chosen, 1)
    tokens = used.get("step_tokens", step_tokens)
    if tokens is None and not used["batching"].startswith("FixedSize("):  # as updates have now
        tokens = data.step_tokens
        source = "as in your batches now" if data.batch_size_is_given else "assumed: --batch-size"
        samples = plural(data.batch_size, "sample")
        explained += f"# step_tokens: those of {samples}, {source}.\n"
    slots = used.get("accumulate")
    is_one = tokens is not None and int(tokens) <= data.max_tokens
    is_budgeted = used["batching"].startswith("TokenBudget(")
    is_free = step_tokens is None and not is_keras and not slots
    if is_free and is_one and is_budgeted and data.mixes_if_cut:
        explained += _ONE_BATCH
    settings = f"lengths, batching=bw.{used['batching']}"
    settings += f", order=bw.{order}" if order else ""
    settings += "" if data.empty == "error" else f', empty="{data.empty}"'
    settings += "" if tokens is None else f", step_tokens={tokens}"
    collate = _collate(used["batching"])
    explained += _CUT if is_keras and any("max_length" in each for each in collate) else ""
    precision = used.get("precision", 'Precision("fp32")')
    return _TEMPLATES[framework].format(
        settings=settings,
        collate=", ".join(collate),
        also_collate="".join(f", {each}" for each in collate),
        imports=imports,
        explained=explained,
        fetch=fetch,
        cut=f".resized(1, {slots})  # batches per update: they mix lengths" if slots else "",
        epochs="EPOCHS" if epochs is None else epochs,
        precision=precision,
        **next((names for mode, names in _MODES.items() if mode in precision), _MODES["fp32"]),
    )
