"""A loader that knows its epoch, its position and its ranks, by itself and inside of trainers."""

import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler, PlanLoader, planned_sampler, windows
from tests.launched import launched

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
LENGTHS = np.random.default_rng(0).lognormal(2, 0.7, 120).clip(1, 30).astype(int)
DATA = [
    {"x": torch.full((int(n),), i), "labels": torch.ones(int(n))} for i, n in enumerate(LENGTHS)
]
PLANNER = bw.Planner(LENGTHS, batching=bw.TokenBudget(64), accumulate=2)


def loader_of(plans=PLANNER, dataset=DATA, **options):
    return PlanLoader(dataset, plans, **{"collate_fn": PadCollator()} | options)


def read(loader):
    return [batch["x"][:, 0].tolist() for batch in loader]


def planned(epoch=0, rank=0, ranks=1):
    plan = PLANNER.resized(ranks, 2)(epoch).shard(rank, ranks)
    return [batch.tolist() for batch in plan]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{}, {"persistent_workers": True}], ids=["new", "persistent"])
def test_each_epoch_is_its_plan(workers, options):
    loader = loader_of(num_workers=workers, **options if workers else {})
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert loader.epoch == epoch
        assert read(loader) == planned(epoch)
        assert len(loader) == len(planned(epoch))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_the_plan(ranks):
    for rank in range(ranks):
        loader = loader_of(rank=rank, world_size=ranks)
        assert read(loader) == planned(0, rank, ranks)
        assert isinstance(loader.sampler, DistributedSampler)
        samples = list(loader.sampler)
        assert samples == [sample for batch in planned(0, rank, ranks) for sample in batch]
        assert len(loader.sampler) == len(samples)
        loader.sampler.set_epoch(5)
        assert loader.epoch == 5


@pytest.mark.parametrize(
    "workers",
    [(0, 0), *(pytest.param(pair, marks=pytest.mark.slow) for pair in ((2, 0), (0, 2), (2, 1)))],
)
def test_a_state_counts_what_the_loop_took(workers):
    before, after = workers
    loader = loader_of(num_workers=before)
    loader.set_epoch(3)
    batches = iter(loader)
    for taken in range(1, 5):
        next(batches)
        state = json.loads(json.dumps(loader.state_dict()))
        assert state == loader.batch_sampler.state_after(taken)
    resumed = loader_of(num_workers=after)
    resumed.load_state_dict(state)
    assert (resumed.epoch, len(resumed)) == (3, len(loader))
    resumed.set_epoch(3)  # as trainers do
    assert read(resumed) == planned(3)[4:]
    assert len(resumed) == len(loader)
    resumed.set_epoch(4)
    assert read(resumed) == planned(4)


def test_a_state_is_exact_wherever_it_is_saved():
    loader = loader_of()

    def rest(state=None):
        resumed = loader_of()
        resumed.load_state_dict(loader.state_dict() if state is None else state)
        again = resumed.state_dict()
        assert again == (loader.state_dict() if state is None else state)
        return resumed.epoch, read(resumed)

    assert rest() == (0, planned())
    batches = iter(loader)
    assert rest() == (0, planned())
    next(batches)
    assert rest() == (0, planned()[1:])
    next(iter(loader))  # another pass
    assert rest() == (0, planned()[1:])
    loader.set_epoch(0)
    list(loader)
    assert rest() == (0, [])
    loader.set_epoch(1)
    assert rest() == (1, planned(1))
    loader.load_state_dict(loader_of().state_dict())
    assert rest() == (0, planned())
    batches = iter(loader)
    loader.set_epoch(7)  # the iterator begins with its first batch
    next(batches)
    assert rest() == (7, planned(7)[1:])


def test_a_resume_of_a_resume_goes_on():
    loader = loader_of()
    done = []
    for _ in range(4):
        for count, batch in enumerate(loader, start=1):
            done.append(batch["x"][:, 0].tolist())
            if count == 2:
                break
        state = loader.state_dict()
        loader = loader_of()
        loader.load_state_dict(state)
    assert done == planned()[:8]
    assert read(loader) == planned()[8:]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_other_ranks_resume(before, after):
    samples = []
    for rank in range(before):
        loader = loader_of(rank=rank, world_size=before)
        batches = iter(loader)
        for _ in range(4):
            samples += next(batches)["x"][:, 0].tolist()
    for rank in range(after):
        resumed = loader_of(rank=rank, world_size=after)
        resumed.load_state_dict(loader.state_dict())
        samples += [sample for batch in read(resumed) for sample in batch]
    assert sorted(samples) == list(range(len(LENGTHS)))


def test_sampler_and_loader_load_the_states_of_each_other():
    sampler = PlanBatchSampler(PLANNER)
    loader = loader_of()
    next(iter(loader))
    sampler.load_state_dict(loader.state_dict())
    assert list(sampler) == planned()[1:]
    loader.load_state_dict(sampler.state_after(3))
    assert read(loader) == planned()[4:]


def test_where_another_loader_goes_through_the_plan_no_state_is_made_up():
    loader = loader_of()
    skipping = DataLoader(DATA, batch_sampler=loader.batch_sampler, collate_fn=PadCollator())
    next(iter(skipping))
    with pytest.raises(bw.errors.PlanError, match=r"skip_first_batches.*state_after\(count\)"):
        loader.state_dict()
    next(iter(loader))
    loader.state_dict()
    loader.set_epoch(0)
    next(iter(skipping))
    with pytest.raises(bw.errors.PlanError, match="another loader"):
        loader.state_dict()
    loader.set_epoch(1)
    sampler = PlanBatchSampler(PLANNER)
    sampler.set_epoch(1)
    assert loader.state_dict() == sampler.state_after(0)


@pytest.mark.parametrize(
    "option",
    [
        {"batch_size": 32},
        {"shuffle": True},
        {"sampler": range(120)},
        {"batch_sampler": BatchSampler(range(120), 4, drop_last=False)},
        {"drop_last": True},
        {"in_order": False},
    ],
    ids=lambda option: next(iter(option)),
)
def test_what_contradicts_a_plan_is_refused(option):
    with pytest.raises(bw.errors.PlanError, match=re.escape(f"PlanLoader({next(iter(option))}=")):
        loader_of(**option)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


class ReadsAhead:
    """As the loader that Ray's `prepare_data_loader` returns."""

    def __init__(self, loader):
        self._dataloader = loader

    def __iter__(self):
        self.batches = iter(self._dataloader)
        self.following = next(self.batches, None)
        return self

    def __next__(self):
        batch = self.following
        if batch is None:
            raise StopIteration
        self.following = next(self.batches, None)
        return batch


ReadsAhead.__name__, ReadsAhead.__module__ = "_WrappedDataLoader", "ray.train.torch.anything"


def test_windows_begin_a_loader_once_that_is_its_own_iterator():
    loader = loader_of()
    taken = 0
    for window in windows(ReadsAhead(loader)):
        assert [batch["x"][:, 0].tolist() for batch in window] == planned()[taken : taken + 2]
        taken += len(window)
        assert loader.state_dict() == loader.batch_sampler.state_after(taken)
    assert taken == len(loader)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_rays_loader_has_read_ahead_does_not_count(workers):
    loader = loader_of(num_workers=workers)
    for epoch in (1, 2):
        loader.set_epoch(epoch)
        batches = iter(ReadsAhead(loader))
        for taken in range(len(loader) + 1):
            assert loader.state_dict() == loader.batch_sampler.state_after(taken)
            next(batches, None)
    loader.set_epoch(3)
    batches = iter(loader)  # without Ray again
    for taken in range(1, 4):
        next(batches)
        assert loader.state_dict() == loader.batch_sampler.state_after(taken)


def test_data_of_another_length_and_streams_are_refused_at_once():
    with pytest.raises(bw.errors.PlanError, match="120 lengths, and the list 119 samples"):
        loader_of(dataset=DATA[1:])
    with pytest.raises(bw.errors.PlanError, match="Stream, a stream.*Use StreamDataset"):
        loader_of(dataset=Stream())
    with pytest.raises(bw.errors.PlanError, match=r"a list_iterator, a stream.*has __getitem__"):
        loader_of(dataset=iter(DATA))
    with pytest.raises(bw.errors.PlanError, match="119 samples"):
        read(loader_of(PLANNER(0), DATA[1:]))
    with pytest.raises(bw.errors.PlanError, match="expected a Planner"):
        loader_of([[0, 1]])


def test_a_planner_without_some_samples_keeps_the_data_set():
    loader = loader_of(PLANNER.without([3, 5]))
    samples = [sample for batch in read(loader) for sample in batch]
    assert sorted(samples) == [each for each in range(len(LENGTHS)) if each not in {3, 5}]


def test_a_plan_is_the_same_in_every_epoch():
    loader = loader_of(PLANNER(4))
    assert read(loader) == read(loader) == planned(4)


def test_a_repeated_epoch_is_warned_of():
    loader = loader_of()
    read(loader)
    with pytest.warns(UserWarning, match=r"epoch 0 is repeated.*Call set_epoch\(epoch\)"):
        read(loader)


def test_a_batch_over_budget_is_warned_of_once():
    def longer(samples):
        return {"x": torch.zeros(len(samples), 100, dtype=torch.int64)}

    for batches_of in (list, lambda loader: list(windows(loader, weigh=len))):
        with pytest.warns(UserWarning, match="a budget of 64") as warned:
            batches_of(loader_of(collate_fn=longer))
        assert len(warned) == 1


def test_batches_are_moved_where_the_user_says():
    batch = next(iter(loader_of(device="meta")))
    assert {value.device.type for value in batch.values()} == {"meta"}


def test_windows_are_the_updates_of_the_plan():
    loader = loader_of(PLANNER)
    shared = list(windows(loader))
    assert [len(each) for each in shared] == [2] * (len(loader) // 2)
    assert sum(each.tokens for each in shared) == LENGTHS.sum()
    assert planned_sampler(loader) is loader.batch_sampler


def test_loaders_can_be_pickled():
    loader = loader_of()
    next(iter(loader))
    copied = pickle.loads(pickle.dumps(loader))  # noqa: S301
    assert copied.state_dict() == loader.state_dict()
    assert len(copied.sampler) == len(LENGTHS)
    assert read(copied) == planned()


def test_lightning_is_told_where_it_would_end_an_epoch_early():
    loader = loader_of(rank=0, world_size=1)
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    names = {"__name__": "lightning.pytorch.utilities.combined_loader"}
    exec("def load(loader, state): loader.load_state_dict(state)", names)  # noqa: S102
    names["load"](loader_of(rank=0, world_size=1), loader.state_dict())
    more = loader_of(rank=0, world_size=2)
    with pytest.raises(bw.errors.PlanError, match="on more ranks than before"):
        names["load"](more, loader.state_dict())
    more.load_state_dict(loader.state_dict())


@pytest.fixture
def accelerator():
    accelerate = pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState, GradientState

    def made(**options):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        return accelerate.Accelerator(cpu=True, **options)

    yield made
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.slow
def test_accelerate_leaves_the_loader_as_it_is(accelerator, monkeypatch):
    for ask in ("prepare", "prepare_data_loader"):
        loader = loader_of()
        here = accelerator()
        assert getattr(here, ask)(loader) is loader
        assert read(loader) == planned()
    from accelerate import PartialState

    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("meta"))
    loader.set_epoch(0)
    assert next(iter(loader))["x"].device.type == "meta"
    assert next(iter(loader_of()))["x"].device.type == "cpu"  # not prepared
    staying = accelerator().prepare(loader_of(device="cpu"))
    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("meta"))
    assert next(iter(staying))["x"].device.type == "cpu"


@pytest.mark.slow
def test_what_accelerate_would_do_otherwise_is_said(accelerator, monkeypatch):
    here = accelerator(gradient_accumulation_steps=7)
    loader = here.prepare(loader_of())
    with pytest.warns(UserWarning, match="accumulate=7"):
        next(iter(loader))
    with torch.no_grad():
        next(iter(loader))  # an evaluation
    loader.set_epoch(0)
    from accelerate.state import AcceleratorState

    class Parallel:
        non_data_parallel_size = 2
        tp_enabled = cp_enabled = False

    here = accelerator()
    split, placed = here.prepare(loader_of(), loader_of(rank=0, world_size=1))
    monkeypatch.setitem(AcceleratorState._shared_state, "parallelism_config", Parallel())
    with pytest.raises(bw.errors.PlanError, match=r"among 2 ranks.*rank= and world_size="):
        next(iter(split))
    next(iter(placed))


@pytest.mark.slow
def test_what_accelerate_makes_of_one_rank_passes(accelerator):
    from accelerate.data_loader import DataLoaderShard

    here = accelerator()
    loader = loader_of()
    plain = DataLoader(DATA, batch_sampler=loader.batch_sampler, collate_fn=PadCollator())
    shard = DataLoaderShard(DATA, batch_sampler=loader.batch_sampler, collate_fn=PadCollator())
    skipping = here.skip_first_batches(here.skip_first_batches(shard, 2), 2)
    for each, skipped in ((here.prepare(plain), 0), (shard, 0), (skipping, 4)):
        assert planned_sampler(each) is loader.batch_sampler
        loader.set_epoch(0)
        assert read(each) == planned()[skipped:]
        loader.set_epoch(0)
        assert len(list(windows(each))) == (len(loader) - skipped) // 2


@pytest.mark.slow
def test_accelerate_saves_and_loads_the_position(accelerator, tmp_path):
    here = accelerator()
    loader = here.prepare(loader_of())
    here.register_for_checkpointing(loader)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    here.save_state(tmp_path)
    here = accelerator()
    resumed = here.prepare(loader_of())
    here.register_for_checkpointing(resumed)
    here.load_state(tmp_path)
    assert read(resumed) == planned()[3:]


def run(folder, script, *arguments, launcher=()):
    variables = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    done = launched(
        [sys.executable, *launcher, str(SCRIPTS / script), *arguments],
        cwd=folder,
        env=os.environ | variables,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_ranks_of_accelerate_read_the_plan(tmp_path):
    run(tmp_path, "accelerated.py", "state.json", launcher=TORCHRUN)
    run(tmp_path, "accelerated.py", "state.json")  # goes on where two ranks were
