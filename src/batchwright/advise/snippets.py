"""The configuration that is advised, as code to paste."""

import re

from batchwright.advise.advice import Advice
from batchwright.advise.data_profile import DataProfile

FRAMEWORKS = ("loop", "transformers", "lightning", "keras")

_LOOP = """\
import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler, Precision, windows
from torch.utils.data import DataLoader

{explained}planner = bw.Planner(lengths, batching=bw.{batching}{order}, step_tokens={step_tokens})
sampler = PlanBatchSampler(planner)
loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=PadCollator({collate}))
precision = {precision}
for epoch in range(EPOCHS):
    sampler.set_epoch(epoch)
    for window in windows(loader):  # the batches of one update
        with precision.update(model, optimizer, weight=window.tokens, clip=1.0) as update:
            for batch in window:
                update.backward(loss_sum, batch)  # loss_sum(model, batch): the sum, not the mean
"""

_TRANSFORMERS = """\
import batchwright as bw
import torch
from batchwright.torch import PadCollator, PlanBatchSampler
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

{explained}planner = bw.Planner(lengths, batching=bw.{batching}{order}, step_tokens={step_tokens})


class PlannedTrainer(Trainer):
    def get_train_dataloader(self):
        sampler = PlanBatchSampler(planner)
        loader = DataLoader(
            self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator
        )
        loader.set_epoch = sampler.set_epoch  # Trainer calls it at the beginning of each epoch
        return loader


arguments = TrainingArguments(
    output_dir=OUTPUT_DIR,
    num_train_epochs=EPOCHS,
    gradient_accumulation_steps=planner.accumulate,
    {arguments},
    use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused on a processor
    remove_unused_columns=False,
)
trainer = PlannedTrainer(
    model,
    arguments,
    train_dataset=dataset,
    data_collator=PadCollator(attention_mask=True{also_collate}),
)
trainer.train()
"""

_LIGHTNING = """\
import batchwright as bw
import lightning
from batchwright.torch import PadCollator, PlanBatchSampler
from torchdata.stateful_dataloader import StatefulDataLoader

{explained}planner = bw.Planner(lengths, batching=bw.{batching}{order}, step_tokens={step_tokens})
loader = StatefulDataLoader(  # resumes in the middle of an epoch; a DataLoader does not
    dataset, batch_sampler=PlanBatchSampler(planner), collate_fn=PadCollator({collate})
)
trainer = lightning.Trainer(
    max_epochs=EPOCHS,
    accumulate_grad_batches=planner.accumulate,
    precision="{lightning}",
    use_distributed_sampler=False,
)
# module is your LightningModule. Its training_step returns the sum of the loss over a constant,
# such as lengths.sum() / len(planner): a mean per batch would be a mean of means.
trainer.fit(module, loader)
"""

_KERAS = """\
import batchwright as bw
import keras
from batchwright.keras import PlanDataset

# Layers take their precision when they are made: build and compile model behind this line,
# with a loss that is a sum: keras.losses.MeanSquaredError(reduction="sum").
keras.config.set_dtype_policy("{keras}")
model = BUILD_MODEL()

{explained}planner = bw.Planner(lengths, batching=bw.{batching}{order})
# fetch(indices) → (x, y, sample_weight) of these samples, padded; the weights 0 at padding.
data = PlanDataset(planner, fetch)
model.fit(data.for_fit(), epochs=EPOCHS, shuffle=False, callbacks=[data.callback()])
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
"""What frameworks call a precision; what they cannot measure is fp32 to them."""

_KNOWN_TO_USER = {
    "table": "table = bw.LossTable(len(lengths))  # filled as the model trains: LiveLosses\n",
}
"""Lines for what an order goes by, other than scores."""


def snippet(advice: list[Advice], data: DataProfile, framework: str = "loop") -> str:
    """Write the advised configuration for a framework.

    Args:
        advice: What was advised.
        data: What it was advised for.
        framework: One of `FRAMEWORKS`.

    Returns:
        Python code; what only the user knows is in capitals. `lengths`, `dataset`, `model` and
        the like are the user's.

    Example:
        >>> from batchwright.advise import Evidence, advise, profile_data
        >>> data = profile_data([3, 5, 5, 60] * 50, max_tokens=120)
        >>> "batching=bw.TokenBudget(120)" in snippet(advise(Evidence(data)), data)
        True
    """
    used = {each.technique: each for each in advice if each.verdict == "use"}
    batching = f"FixedSize({max(1, data.max_tokens // data.longest)})"
    for technique in ("dynamic batching", "static shapes"):
        if technique in used:
            batching = str(used[technique].settings["batching"])
    shapes = "shapes=planner(0).layout.shapes" if batching.startswith("Buckets(") else ""
    precision = 'Precision("fp32")'
    if "mixed precision" in used:
        precision = str(used["mixed precision"].settings["precision"])
    tokens = used.get("other tokens per update")
    explained, order = _order(used.get("curriculum"))
    mode = next((each for each in _MODES if f'"{each}"' in precision), "fp32")
    return _TEMPLATES[framework].format(
        batching=batching,
        collate=shapes,
        also_collate=f", {shapes}" if shapes else "",
        explained=explained,
        order=order,
        precision=precision,
        step_tokens="STEP_TOKENS" if tokens is None else tokens.settings["step_tokens"],
        **_MODES[mode],
    )


def _order(curriculum: Advice | None) -> tuple[str, str]:
    """Write the advised order: a line on what it goes by, and the argument. Empty: none is."""
    written = "" if curriculum is None else str(curriculum.settings.get("order", ""))
    found = re.match(r"(?:bw\.)?(?P<call>[A-Z]\w*\((?P<scores>[A-Za-z_]\w*).*)", written, re.DOTALL)
    if found is None:
        return "", ""
    call = re.sub(r"(?<![\w.])pacing\.", "bw.pacing.", found["call"])
    scores = found["scores"]
    explained = f"# {scores}: float[n], one for each of lengths; higher is harder.\n"
    return _KNOWN_TO_USER.get(scores, explained), f", order=bw.{call}"
