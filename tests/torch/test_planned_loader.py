"""A loader that would ignore the plan is refused."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler, planned_sampler, windows

DATA = list(range(40))


def sampler(**world):
    return PlanBatchSampler(bw.Planner([1] * 40, batching=bw.FixedSize(4)), **world)


def test_a_planned_loader_passes():
    given = sampler()
    assert planned_sampler(DataLoader(DATA, batch_sampler=given)) is given


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (DataLoader(DATA, batch_size=4, shuffle=True), "BatchSampler over a RandomSampler"),
        (DataLoader(DATA, batch_size=4), "BatchSampler over a SequentialSampler"),
        (DataLoader(DATA, batch_size=None), "from a SequentialSampler"),
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


class Wrapped(BatchSampler):
    """Gives batches of another batch sampler, as trainers do."""

    def __init__(self, batch_sampler, taken=slice(None), length=None):
        self.batch_sampler, self.taken, self.length = batch_sampler, taken, length

    def __iter__(self):
        return islice(self.batch_sampler, self.taken.start, self.taken.stop, self.taken.step)

    def __len__(self):
        whole = range(len(self.batch_sampler))[self.taken]
        return len(whole) if self.length is None else self.length


class Turned(Wrapped):
    """Gives batches from the last to the first."""

    def __iter__(self):
        return reversed(list(self.batch_sampler))


class Opaque(Wrapped):
    """Cannot be tried on other batches."""

    def __copy__(self):
        raise RuntimeError("there is one of me")


def every(ranks):
    return slice(0, None, ranks)


PAIR = {"rank": 0, "world_size": 2}


@pytest.mark.parametrize("world", [{}, PAIR])
@pytest.mark.parametrize(
    "wrap",
    [
        Wrapped,
        lambda inner: Wrapped(inner, slice(2, None)),
        lambda inner: Wrapped(inner, slice(5, None)),
        lambda inner: Wrapped(Wrapped(Wrapped(inner), slice(3, None)), slice(1, None)),
    ],
    ids=["all", "skipped", "all_skipped", "of_wrappers"],
)
def test_wrappers_that_keep_the_order_pass_and_may_skip(wrap, world):
    given = sampler(**world)
    loader = DataLoader(DATA, batch_sampler=wrap(given))
    assert planned_sampler(loader) is given
    whole = list(given)
    given.set_epoch(0)
    assert [batch.tolist() for batch in loader] == whole[len(whole) - len(loader) :]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: Wrapped(inner, every(2)),
        lambda inner: Wrapped(Wrapped(inner), every(2)),
        lambda inner: Wrapped(inner, slice(None, 3)),
        Turned,
        Opaque,
    ],
    ids=["strided", "of_wrappers", "cut_off", "turned", "opaque"],
)
def test_batches_that_are_shared_twice_are_refused(wrap):
    loader = DataLoader(DATA, batch_sampler=wrap(sampler(**PAIR)))
    for ask in (planned_sampler, lambda loader: next(iter(loader)), windows_of):
        with pytest.raises(bw.errors.PlanError, match="already shared among 2 .*PlanLoader"):
            ask(loader)


def windows_of(loader):
    return next(windows(loader))


def test_a_sampler_of_one_rank_may_be_shared_in_equal_counts():
    alone = sampler(rank=0, world_size=1)
    for ranks in (2, 5):
        assert planned_sampler(DataLoader(DATA, batch_sampler=Wrapped(alone, every(ranks))))
    with pytest.raises(bw.errors.PlanError, match="10 batches among 3 .*PlanLoader"):
        planned_sampler(DataLoader(DATA, batch_sampler=Wrapped(alone, every(3))))
    with pytest.raises(bw.errors.PlanError, match="changes the order"):
        planned_sampler(DataLoader(DATA, batch_sampler=Turned(alone)))
    assert planned_sampler(DataLoader(DATA, batch_sampler=Opaque(alone))) is alone


def test_a_state_and_a_wrapper_do_not_skip_the_same_batches_twice():
    given = sampler()
    next(iter(given))
    given.load_state_dict(given.state_after(2))
    loader = DataLoader(DATA, batch_sampler=Wrapped(given, slice(2, None)))
    with pytest.raises(bw.errors.PlanError, match="skips 2 batches, and the loaded state"):
        next(iter(loader))


def test_weights_of_all_ranks_are_known_where_batches_are_skipped():
    lengths = np.arange(1, 41)
    planner = bw.Planner(lengths, max_tokens=120, accumulate=2)
    data = [{"labels": torch.ones(n, dtype=torch.int64)} for n in lengths]
    given = PlanBatchSampler(planner)
    whole = DataLoader(data, batch_sampler=given, collate_fn=PadCollator())
    skipping = DataLoader(
        data, batch_sampler=Wrapped(given, slice(4, None)), collate_fn=PadCollator()
    )
    expected = [each.global_tokens for each in windows(whole, sample_weights=lengths)]
    given.set_epoch(0)
    found = [each.global_tokens for each in windows(skipping, sample_weights=lengths)]
    assert found == expected[2:]
