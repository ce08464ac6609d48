"""The configuration that is advised, as code to paste."""

from batchwright.advise.advice import Advice
from batchwright.advise.data_profile import DataProfile

FRAMEWORKS = ("loop", "transformers", "lightning", "keras")

_LOOP = """\
import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler, Precision, windows
from torch.utils.data import DataLoader

planner = bw.Planner(lengths, batching=bw.{batching}, step_tokens=STEP_TOKENS)
loader = DataLoader(dataset, batch_sampler=PlanBatchSampler(planner), collate_fn=PadCollator())
precision = {precision}
for window in windows(loader):
    with precision.update(model, optimizer, weight=window.tokens, clip=1.0) as update:
        for batch in window:
            update.backward(loss_sum, batch)
"""

_TRANSFORMERS = """\
import batchwright as bw
from batchwright.torch import PlanBatchSampler
from torch.utils.data import DataLoader
from transformers import Trainer

planner = bw.Planner(lengths, batching=bw.{batching}, accumulate=ACCUMULATE)


class PlannedTrainer(Trainer):
    def get_train_dataloader(self):
        sampler = PlanBatchSampler(planner)
        return DataLoader(
            self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator
        )


# TrainingArguments(gradient_accumulation_steps=ACCUMULATE, bf16={bf16}, ...)
"""

_LIGHTNING = """\
import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler
from torch.utils.data import DataLoader

planner = bw.Planner(lengths, batching=bw.{batching}, accumulate=ACCUMULATE)
loader = DataLoader(dataset, batch_sampler=PlanBatchSampler(planner), collate_fn=PadCollator())
# Trainer(precision={lightning}, accumulate_grad_batches=ACCUMULATE, use_distributed_sampler=False)
"""

_KERAS = """\
import batchwright as bw
from batchwright.keras import PlanDataset

planner = bw.Planner(lengths, batching=bw.{batching})
# fetch(indices) → the batch of these samples, padded: (inputs, targets)
model.fit(PlanDataset(planner, fetch), epochs=EPOCHS)
"""

_TEMPLATES = {
    "loop": _LOOP,
    "transformers": _TRANSFORMERS,
    "lightning": _LIGHTNING,
    "keras": _KERAS,
}


def snippet(advice: list[Advice], data: DataProfile, framework: str = "loop") -> str:
    """Write the advised configuration for a framework.

    Args:
        advice: What was advised.
        data: What it was advised for.
        framework: One of `FRAMEWORKS`.

    Returns:
        Python code; what only the user knows is in capitals.
    """
    used = {each.technique: each for each in advice if each.verdict == "use"}
    plain = f"FixedSize({max(1, data.max_tokens // data.longest)})"
    batching = plain
    if "dynamic batching" in used:
        batching = str(used["dynamic batching"].settings["batching"])
    precision = 'Precision("fp32")'
    if "mixed precision" in used:
        precision = str(used["mixed precision"].settings["precision"])
    return _TEMPLATES[framework].format(
        batching=batching,
        precision=precision,
        bf16="bf16" in precision,
        lightning='"bf16-mixed"' if "bf16" in precision else '"32-true"',
    )
