"""The advised configuration as code to paste."""

import ast
import re

import batchwright
from batchwright.advise.advice import Advice
from batchwright.advise.data_profile import DataProfile

FRAMEWORKS = ("loop", "transformers", "lightning", "keras")
"""What `snippet` writes code for."""

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
    use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused on a CPU
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
# module is your LightningModule. Its training_step returns the sum of the loss, divided by a
# constant such as lengths.sum() / len(planner): a mean per batch would be a mean of means.
trainer.fit(module, loader)
"""

_KERAS = """\
import batchwright as bw
import keras
from batchwright.keras import PlanDataset

# Layers take their precision when they are made: build and compile the model after this line,
# with a loss that is a sum: keras.losses.MeanSquaredError(reduction="sum").
keras.config.set_dtype_policy("{keras}")
model = BUILD_MODEL()

{explained}planner = bw.Planner(lengths, batching=bw.{batching}{order})
# fetch(indices) → (x, y, sample_weight) of these samples, padded; weights are 0 at padding.
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
"""The name of each precision in the frameworks."""

_TABLE = """\
table = bw.LossTable(len(lengths))
# The order depends on the losses of samples: live = batchwright.torch.LiveLosses(table), then
# live.record(indices, losses) after each batch and live.sync() at the end of an epoch.
"""

_SCORES = "# {name}: one value for each sample; for a difficulty, higher is harder.\n"

_TOKENS = "other tokens per update"


def snippet(advice: list[Advice], data: DataProfile, framework: str = "loop") -> str:
    """Write the advised configuration for a framework.

    Args:
        advice: The advice.
        data: The lengths it was given for.
        framework: One of `FRAMEWORKS`.

    Returns:
        Python code that uses the user's `lengths`, `dataset`, `model` and the like; what only the
        user knows is in capitals.

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
    orders = (each.settings["order"] for each in used.values() if "order" in each.settings)
    explained, order = _order(str(next(orders, "")))
    tokens = str(used[_TOKENS].settings["step_tokens"]) if _TOKENS in used else ""
    mode = next((each for each in _MODES if f'"{each}"' in precision), "fp32")
    return _TEMPLATES[framework].format(
        batching=batching,
        collate=shapes,
        also_collate=f", {shapes}" if shapes else "",
        explained=explained,
        order=order,
        step_tokens=tokens if tokens.isdecimal() else "STEP_TOKENS",
        precision=precision,
        **_MODES[mode],
    )


def _order(written: str) -> tuple[str, str]:
    """Write an advised order: lines on what it needs, and the argument; empty if there is none.

    Example:
        >>> _order("Curriculum(rarity, pacing=pacing.root(p=2))")[1]
        ', order=bw.Curriculum(rarity, pacing=bw.pacing.root(p=2))'
    """
    try:
        expression = ast.parse(written, mode="eval").body
    except SyntaxError:  # advice in words
        return "", ""
    if not isinstance(expression, ast.Call):
        return "", ""
    code, lines = written, ""
    if "LossTable(num_samples)" in code:
        code, lines = code.replace("LossTable(num_samples)", "table"), _TABLE
    names = dict.fromkeys(
        node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)
    )
    for name in names:
        if name in batchwright.__all__:
            code = re.sub(rf"(?<![\w.]){name}\b(?!=)", f"bw.{name}", code)
        elif name not in {"table", "EPOCHS", "lengths"}:
            lines += _SCORES.format(name=name)
    return lines, f", order={code}"
