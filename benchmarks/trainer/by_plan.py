"""The job under Batchwright: planned batches, or as dense ones as can be."""

from collections.abc import Iterator
from itertools import count

from torch.utils.data import DataLoader
from transformers import get_inverse_sqrt_schedule

import batchwright as bw
from batchwright.torch import PlanBatchSampler, Precision, Window, windows
from benchmarks.trainer.jobs import label_count, laid_out, prepare, real_tokens
from benchmarks.trainer.setting import Setting
from benchmarks.trainer.turns import Turns


def train(setting: Setting, arm: str, turns: Turns) -> None:
    """Train as a user of the library would.

    Args:
        setting: What all arms share.
        arm: ``"planned"``, or ``"dense limit"``: the same text in batches of about the same
            shapes, cut so that nothing is padded.
        turns: Who may train when.
    """
    job = prepare(setting)
    planner = bw.Planner(
        job.lengths,
        max_tokens=setting.max_tokens,
        step_tokens=setting.step_tokens,
        seed=setting.seed,
    )
    accumulate = planner.accumulate
    if arm == "dense limit":
        job, batches = job.without_padding(list(planner(0)))
        loader = DataLoader(list(job.samples), batch_sampler=batches, collate_fn=job.collate)
    else:
        sampler = PlanBatchSampler(planner)
        loader = DataLoader(list(job.samples), batch_sampler=sampler, collate_fn=job.collate)
    model = job.model()
    optimizer = job.optimizer(model)
    schedule = get_inverse_sqrt_schedule(optimizer, setting.warm_up)
    precision = Precision("fp32")
    updates = _epochs(loader, accumulate)
    turns.ready(updates=len(planner) // accumulate, accumulate=accumulate)
    for _ in turns.taken(lambda: job.evaluate(model)):
        window = next(updates)
        for batch in window:
            turns.clock.count(real_tokens(batch), laid_out(batch))
        with precision.update(model, optimizer, weight=window.tokens, clip=1.0) as update:
            for batch in window:
                update.backward(job.loss_sum, batch)
        schedule.step()


def _epochs(loader: DataLoader, accumulate: int) -> Iterator[Window]:
    for epoch in count():
        if isinstance(loader.batch_sampler, PlanBatchSampler):
            loader.batch_sampler.set_epoch(epoch)
        yield from windows(loader, accumulate=accumulate, weigh=label_count)
