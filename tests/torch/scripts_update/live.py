"""Live losses on two ranks: one table, one plan, one resume."""

import json

import numpy as np
import torch

import batchwright as bw
from batchwright.torch import LiveLosses, PlanBatchSampler
from tests.torch.scripts_update.process import caught, digest, run

LENGTHS = np.random.default_rng(0).integers(1, 40, 300)
NOISY = np.arange(300) % 3 == 0


def made(every=3):
    table = bw.LossTable(300, smoothing=0.3)
    order = bw.SelfPaced(table, noise_rate=0.3, epochs=2)
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(120), order=order, world_size=2, seed=4)
    return table, PlanBatchSampler(planner), LiveLosses(table, every=every)


def loss_of(batch, epoch):
    indices = np.array(batch)
    return torch.from_numpy(np.where(NOISY[indices], 2.0 + epoch, 1.0) + indices / 1e3)


def epoch_of(sampler, live, epoch):
    sampler.set_epoch(epoch)
    seen = []
    for batch in sampler:
        live.record(batch, loss_of(batch, epoch))
        seen.append(batch)
    live.sync()
    return seen


def tables_and_plans_are_the_same(rank):
    table, sampler, live = made()
    told = []
    for epoch in range(4):
        seen = epoch_of(sampler, live, epoch)
        plan = sampler._source.plan(epoch, 2, 1)
        told.append([digest([torch.from_numpy(table.losses)]), plan.digest(), len(seen)])
        assert seen == [plan[index].tolist() for index in range(rank, len(plan), 2)]
    kept, _ = bw.SelfPaced(table, noise_rate=0.3, epochs=2).split(4)
    return {"told": told, "noisy_kept": int(NOISY[kept].sum()), "pending": live.pending}


def buffers_of_other_sizes(rank):
    table = bw.LossTable(10)
    live = LiveLosses(table, every=2)
    live.record([0, 1, 2] if rank == 0 else [], torch.ones(3 if rank == 0 else 0))
    live.record([2] if rank == 1 else [], torch.tensor([3.0] if rank == 1 else []))
    live.sync()  # nobody has anything
    return table.losses.tolist()[:3]


def an_epoch_does_not_begin_before_losses_are_shared(rank):
    table, sampler, live = made(every=1000)
    for batch in sampler:
        live.record(batch, loss_of(batch, 0))
    sampler.set_epoch(1)
    said = caught(lambda: next(iter(sampler)))
    live.sync()
    return {"said": said, "then": len(next(iter(sampler))) > 0, "losses": table.pending}


def a_resume_in_the_middle_of_an_epoch(rank):
    """Another table and sampler go on, bit for bit, with what the first ones saved."""
    table, sampler, live = made()
    epoch_of(sampler, live, 0)
    epoch_of(sampler, live, 1)
    sampler.set_epoch(2)
    batches, states, expected = iter(sampler), None, []
    for number, batch in enumerate(batches):
        live.record(batch, loss_of(batch, 2))
        if number == 5:  # an exchange has just been made
            states = (table.state_dict(), json.loads(json.dumps(sampler.state_after(6))))
        elif number > 5:
            expected.append(batch)
    live.sync()
    expected_next = epoch_of(sampler, live, 3)

    table, sampler, live = made()
    table.load_state_dict(states[0])
    sampler.load_state_dict(states[1])
    rest = []
    for batch in sampler:
        live.record(batch, loss_of(batch, 2))
        rest.append(batch)
    live.sync()
    return [rest == expected, len(rest), epoch_of(sampler, live, 3) == expected_next]


if __name__ == "__main__":
    run(
        [
            tables_and_plans_are_the_same,
            buffers_of_other_sizes,
            an_epoch_does_not_begin_before_losses_are_shared,
            a_resume_in_the_middle_of_an_epoch,
        ]
    )
