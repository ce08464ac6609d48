"""Resuming in loaders: torch's own, and torchdata's stateful one."""

import json
from collections.abc import Sequence

import pytest
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

import batchwright as bw
from batchwright.torch import PlanBatchSampler
from tests.torch.planners import log_normal, through_json

pytestmark = [
    # torchdata 0.11 calls it whenever a StatefulDataLoader is made.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    # More workers than cores are slow, and what is tested here.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

PLANNER = bw.Planner(log_normal(80), batching=bw.TokenBudget(120), seed=1, accumulate=2)
NUM_BATCHES = len(PLANNER)

WORKERS = [
    pytest.param({"num_workers": 0}, id="0"),
    pytest.param({"num_workers": 2}, id="2", marks=pytest.mark.slow),
    pytest.param(
        {"num_workers": 3, "prefetch_factor": 4, "persistent_workers": True},
        id="3x4",
        marks=pytest.mark.slow,
    ),
]
PAIRS = [(0, 2), (2, 0), (1, 3)]


class Indices(Dataset[int]):
    """Its sample i is i: what a loader yields is what the sampler asked for."""

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> int:
        assert type(index) is int
        return index


def as_list(samples: Sequence[int]) -> list[int]:
    return list(samples)


def loader_of(kind=DataLoader, *, planner=PLANNER, rank=0, world_size=1, **options):
    sampler = PlanBatchSampler(planner, rank=rank, world_size=world_size)
    return kind(Indices(), batch_sampler=sampler, collate_fn=as_list, **options)


def planned(epoch: int) -> list[list[int]]:
    return [batch.tolist() for batch in PLANNER(epoch)]


def run(loader, epoch: int) -> list[list[int]]:
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def take(loader, count: int) -> list[list[int]]:
    batches = []
    if count:
        for batch in loader:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


@pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
@pytest.mark.parametrize("options", WORKERS)
def test_epochs_come_in_plan_order(kind, options):
    loader = loader_of(kind, **options)
    assert len(loader) == NUM_BATCHES
    assert [run(loader, epoch) for epoch in (0, 1, 0)] == [planned(0), planned(1), planned(0)]


@pytest.mark.parametrize("options", WORKERS)
@pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
def test_an_epoch_set_while_a_loader_runs_is_for_the_next_pass(kind, options):
    loader = loader_of(kind, **options)
    batches = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == 2:
            loader.batch_sampler.set_epoch(1)
    assert batches == planned(0)
    assert list(loader) == planned(1)


@pytest.mark.parametrize(
    ("options", "consumed"),
    [
        pytest.param(*each.values, consumed, marks=each.marks, id=f"{consumed}-{each.id}")
        for each in WORKERS
        for consumed in (0, 1, 5, NUM_BATCHES - 1, NUM_BATCHES)
        # Workers have their own way with a beginning, a middle and an end.
        if each.id == "0" or consumed in {0, 5, NUM_BATCHES}
    ],
)
def test_a_stateful_loader_resumes_exactly(options, consumed):
    first = loader_of(StatefulDataLoader, **options)
    first.batch_sampler.set_epoch(1)
    assert take(first, consumed) == planned(1)[:consumed]
    state = first.state_dict()

    second = loader_of(StatefulDataLoader, **options)
    second.load_state_dict(state)
    assert run(second, 1) == planned(1)[consumed:]
    assert run(second, 2) == planned(2)


@pytest.mark.parametrize("options", WORKERS)
def test_a_stateful_loader_resumes_in_the_epoch_of_its_state(options):
    first = loader_of(StatefulDataLoader, **options)
    first.batch_sampler.set_epoch(3)
    take(first, 4)
    second = loader_of(StatefulDataLoader, **options)
    second.load_state_dict(first.state_dict())
    assert list(second) == planned(3)[4:]  # nobody told it the epoch
    assert second.batch_sampler.epoch == 3
    assert run(second, 3) == planned(3)


@pytest.mark.parametrize("options", WORKERS)
def test_a_stateful_loader_that_had_finished_begins_the_next_epoch(options):
    first = loader_of(StatefulDataLoader, **options)
    run(first, 0)
    second = loader_of(StatefulDataLoader, **options)
    second.load_state_dict(first.state_dict())
    assert run(second, 1) == planned(1)
    assert run(second, 2) == planned(2)


@pytest.mark.parametrize("options", WORKERS)
def test_a_stateful_loader_resumes_twice_in_an_epoch(options):
    loader, seen = loader_of(StatefulDataLoader, **options), []
    for _ in range(3):
        seen += take(loader, 4)
        state = loader.state_dict()
        loader = loader_of(StatefulDataLoader, **options)
        loader.load_state_dict(state)
    assert seen + list(loader) == planned(0)


@pytest.mark.parametrize("options", WORKERS[:2])
def test_a_stateful_loader_that_snapshots_seldom_resumes_exactly(options):
    first = loader_of(StatefulDataLoader, snapshot_every_n_steps=4, **options)
    take(first, 6)
    second = loader_of(StatefulDataLoader, snapshot_every_n_steps=4, **options)
    second.load_state_dict(first.state_dict())
    assert list(second) == planned(0)[6:]


@pytest.mark.parametrize("options", WORKERS[:2])
def test_sampler_and_stateful_loader_may_both_be_loaded(options):
    """The state counts once: the sampler adds nothing of its own to what the loader keeps."""
    first = loader_of(StatefulDataLoader, **options)
    take(first, 5)
    second = loader_of(StatefulDataLoader, **options)
    second.batch_sampler.load_state_dict(first.batch_sampler.state_after(5))
    second.load_state_dict(first.state_dict())
    assert list(second) == planned(0)[5:]
    assert run(second, 0) == planned(0)


@pytest.mark.parametrize("options", WORKERS[:2])
def test_a_stateful_loader_resumes_under_another_world_size(options):
    seen, states = [], []
    for rank in range(2):
        loader = loader_of(StatefulDataLoader, rank=rank, world_size=2, **options)
        seen.append(take(loader, 3))
        states.append(loader.state_dict())
    before = [index for step in zip(*seen, strict=True) for batch in step for index in batch]
    alone = loader_of(StatefulDataLoader, **options)
    alone.load_state_dict(states[1])
    after = [index for batch in alone for index in batch]
    assert before + after == PLANNER.resized(2)(0).indices.tolist()


@pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
@pytest.mark.parametrize("options", WORKERS)
@pytest.mark.parametrize("consumed", [0, 3, NUM_BATCHES])
def test_a_plain_loader_resumes_after_what_the_loop_consumed(kind, options, consumed):
    first = loader_of(kind, **options)
    first.batch_sampler.set_epoch(2)
    assert take(first, consumed) == planned(2)[:consumed]
    state = through_json(first.batch_sampler.state_after(consumed))

    second = loader_of(kind, **options)
    second.batch_sampler.load_state_dict(state)
    assert second.batch_sampler.epoch == 2
    assert run(second, 2) == planned(2)[consumed:]
    assert run(second, 3) == planned(3)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), PAIRS)
@pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
def test_the_number_of_workers_may_change(kind, before, after):
    first = loader_of(kind, num_workers=before)
    seen = take(first, 4)
    state = json.loads(json.dumps(first.batch_sampler.state_after(4)))
    second = loader_of(kind, num_workers=after)
    second.batch_sampler.load_state_dict(state)
    assert seen + list(second) == planned(0)
    assert run(second, 1) == planned(1)


def test_the_loaders_state_is_small():
    loader = loader_of(StatefulDataLoader)
    take(loader, 4)
    assert len(json.dumps(loader.state_dict())) < 1024


def test_a_sampler_may_also_give_whole_batches_to_a_data_set():
    class Batches(Dataset):
        def __getitem__(self, batch):
            return sum(batch)

    loader = DataLoader(Batches(), sampler=PlanBatchSampler(PLANNER), batch_size=None)
    assert list(loader) == [sum(batch) for batch in planned(0)]
