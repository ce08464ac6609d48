"""A loader that would ignore the plan is refused."""

import pytest
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

import batchwright as bw
from batchwright.torch import PlanBatchSampler, planned_sampler

DATA = list(range(40))


def sampler(**world):
    return PlanBatchSampler(bw.Planner([1] * 40, batching=bw.FixedSize(4)), **world)


class DealtAgain(BatchSampler):
    """What accelerate makes of a batch sampler where there are several processes."""

    def __init__(self, batch_sampler):
        self.batch_sampler = batch_sampler


def test_a_planned_loader_passes():
    given = sampler()
    assert planned_sampler(DataLoader(DATA, batch_sampler=given)) is given


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (DataLoader(DATA, batch_size=4, shuffle=True), "BatchSampler over a RandomSampler"),
        (DataLoader(DATA, batch_size=4), "BatchSampler over a SequentialSampler"),
        (DataLoader(DATA, batch_size=None), "from a DataLoader"),
        (DATA, "from a list"),
        (
            DataLoader(
                DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 4, drop_last=True)
            ),
            "its order is ignored",
        ),
    ],
)
def test_other_loaders_are_refused(loader, said):
    with pytest.raises(bw.errors.PlanError, match=said):
        planned_sampler(loader)


def test_batches_that_are_dealt_out_twice_are_refused():
    with pytest.raises(bw.errors.PlanError, match="already shared among 2 ranks"):
        planned_sampler(DataLoader(DATA, batch_sampler=DealtAgain(sampler(rank=0, world_size=2))))
    once = sampler(rank=0, world_size=1)
    assert planned_sampler(DataLoader(DATA, batch_sampler=DealtAgain(once))) is once
