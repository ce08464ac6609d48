"""What a loader's data set and collator have to do for a plan to hold."""

import functools
import pickle
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from torchdata.stateful_dataloader import StatefulDataLoader

import batchwright as bw
from batchwright.torch import (
    PackCollator,
    PadCollator,
    PieceDataset,
    PlanBatchSampler,
    StreamDataset,
    planned_sampler,
    windows,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

LENGTHS = [10] * 30 + [50]
TRUNCATING = bw.Planner(LENGTHS, batching=bw.TokenBudget(40, oversize="truncate"))
SPLITTING = bw.Planner(LENGTHS, batching=bw.Packing(40, oversize="split"))


class Tokens(Dataset):
    """Samples of those lengths."""

    def __init__(self, lengths=LENGTHS):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        return {"input_ids": torch.arange(self.lengths[index])}


class Silent(Tokens):
    """A data set that does not know how long it is."""

    def __len__(self):
        raise RuntimeError("ask the server")


class Wrapped(Dataset):
    """A data set around another."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


def planner(size=31):
    return bw.Planner([10] * size, batching=bw.TokenBudget(50))


def loader_of(plans, dataset, collate=None, *, kind=DataLoader, **options):
    return kind(
        dataset,
        batch_sampler=PlanBatchSampler(plans),
        collate_fn=collate or PadCollator(),
        **options,
    )


@pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("planned", [30, 32])
def test_another_number_of_samples_than_lengths_is_refused(kind, workers, planned):
    for plans in (planner(planned), planner(planned)(0)):
        loader = loader_of(plans, Tokens(), kind=kind, num_workers=workers)
        with pytest.raises(bw.errors.PlanError, match=f"{planned} lengths, .* 31 samples"):
            next(iter(loader))
        with pytest.raises(bw.errors.PlanError, match="31 samples"):
            planned_sampler(loader)
    loader = loader_of(planner(30), Subset(Tokens(), range(30)), num_workers=workers)
    assert len(list(loader)) == len(planned_sampler(loader))


class Inside(Dataset):
    """A data set that goes through a plan of its own."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return len(list(PlanBatchSampler(planner(5))))


class Around:
    """What accelerate makes of a batch sampler."""

    def __init__(self, batch_sampler):
        self.batch_sampler = batch_sampler

    def __iter__(self):
        yield from self.batch_sampler


def test_only_the_loader_of_the_sampler_counts():
    sampler = PlanBatchSampler(planner(3))
    assert [int(each.sum()) for each in DataLoader(Inside(), batch_sampler=sampler)] == [3]
    wrapped = DataLoader(Tokens(), batch_sampler=Around(PlanBatchSampler(planner(30))))
    with pytest.raises(bw.errors.PlanError, match="30 lengths"):
        next(iter(wrapped))


def test_a_data_set_that_gets_whole_batches_is_counted_as_well():
    loader = DataLoader([0] * 5, sampler=PlanBatchSampler(planner()), batch_size=None)
    with pytest.raises(bw.errors.PlanError, match="5 samples"):
        next(iter(loader))


def test_a_plan_of_ones_own_may_use_fewer_samples_than_there_are():
    plan = bw.Plan(torch.arange(4).numpy(), torch.tensor([0, 2, 4]).numpy())
    assert len(list(loader_of(plan, Tokens()))) == 2
    plan = bw.Plan(torch.tensor([0, 40]).numpy(), torch.tensor([0, 2]).numpy())
    with pytest.raises(bw.errors.PlanError, match="sample 40, .* 31 samples"):
        list(loader_of(plan, Tokens()))


def test_where_a_length_is_not_known_nothing_is_said():
    class Unsized(Dataset):
        def __getitem__(self, index):
            return torch.ones(10)

    for dataset in (Silent(), Unsized()):
        assert len(list(loader_of(planner(), dataset))) == len(planner())


def test_a_sampler_on_its_own_checks_nothing():
    assert len(list(PlanBatchSampler(TRUNCATING))) == len(TRUNCATING)


@pytest.mark.parametrize(
    "collate",
    [
        PadCollator(),
        PadCollator(max_length=41),
        PackCollator(),
        functools.partial(PadCollator()),
    ],
)
def test_a_collator_that_does_not_truncate_as_planned_is_refused(collate):
    loader = loader_of(TRUNCATING, Tokens(), collate)
    for ask in (planned_sampler, lambda loader: next(iter(loader))):
        with pytest.raises(bw.errors.PlanError, match=r"truncates samples to 40 tokens .*=40\)"):
            ask(loader)


def test_a_collator_that_truncates_keeps_the_budget():
    loader = loader_of(
        TRUNCATING, Tokens(), PadCollator(max_length=TRUNCATING(0).layout.max_length)
    )
    assert max(batch["input_ids"].numel() for batch in loader) == 40
    assert planned_sampler(loader) is loader.batch_sampler


def test_columns_are_truncated_each():
    pairs = [[5, 9], [20, 30], [6, 2]]
    plans = bw.Planner(pairs, batching=bw.Packing((12, 16), oversize="truncate"))
    assert plans(0).layout.max_length == (12, 16)
    columns = {"source": "encoder", "target": "decoder"}
    data = [{"source": [1] * a, "target": [2] * b} for a, b in pairs]
    options = {"columns": columns, "labels": "target"}
    for wrong in (None, (12, 17), 13):
        collate = (
            PackCollator(max_length=wrong, **options) if wrong != 13 else PadCollator(max_length=13)
        )
        with pytest.raises(bw.errors.PlanError, match="truncates"):
            next(iter(loader_of(plans, data, collate)))
    list(loader_of(plans, data, PackCollator(max_length=(12, 16), **options)))


@pytest.mark.parametrize(
    "dataset",
    [
        Tokens(),
        [torch.arange(10)] * 31,
        Subset(PieceDataset(Tokens()), range(31)),
        Wrapped(Tokens()),
        torch.zeros(31, 5, 50),
    ],
)
def test_whole_samples_where_pieces_are_planned_are_refused(dataset):
    loader = loader_of(SPLITTING, dataset, PackCollator())
    for ask in (planned_sampler, lambda loader: next(iter(loader))):
        with pytest.raises(bw.errors.PlanError, match=r"Wrap it: PieceDataset\(dataset\)"):
            ask(loader)


class OwnPieces(Dataset):
    takes_pieces = True

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, piece):
        stop = min(piece.stop, LENGTHS[piece.sample])
        return {"input_ids": torch.arange(piece.start, stop)}


@pytest.mark.parametrize(
    "dataset", [PieceDataset(Tokens()), Wrapped(PieceDataset(Tokens())), OwnPieces()]
)
def test_pieces_come_from_a_data_set_of_pieces(dataset):
    loader = loader_of(SPLITTING, dataset, PackCollator())
    planned_sampler(loader)
    assert sum(row["input_ids"].numel() for row in loader) == sum(LENGTHS)


def test_the_first_update_is_held_against_the_budget():
    def longer(samples):  # lengths were taken before something was added to each sample
        return PadCollator()([{"input_ids": torch.ones(30, dtype=torch.long)} for _ in samples])

    loader = loader_of(planner(), Tokens([10] * 31), longer)
    with pytest.warns(UserWarning, match=r"\d × 30 = \d+ tokens in 'input_ids', .* budget of 50"):
        list(windows(loader, weigh=len))
    as_planned = loader_of(planner(), Tokens([10] * 31))
    assert len(list(windows(as_planned, weigh=len))) == len(planner())


def test_features_are_no_tokens():
    def collate(samples):
        return {"features": torch.ones(len(samples), 10, 80), "labels": torch.ones(len(samples))}

    assert len(list(windows(loader_of(planner(), Tokens([10] * 31), collate)))) == len(planner())


def test_an_epoch_that_begins_again_is_said_once():
    sampler = PlanBatchSampler(planner())
    loader = loader_of(planner(), Tokens())
    for each in (sampler, loader):
        list(each)
        with pytest.warns(UserWarning, match="epoch 0 is repeated") as said:
            list(each)
        assert len(said) == 1
        list(each)
    sampler.set_epoch(1)
    list(sampler)


def test_a_look_at_some_batches_is_no_epoch():
    sampler = PlanBatchSampler(planner())
    next(iter(sampler))
    next(iter(sampler))
    with pytest.warns(UserWarning, match="is repeated"):  # a loop that leaves each epoch early
        next(iter(sampler))


def test_epochs_that_are_set_or_plans_that_are_fixed_come_again_in_silence():
    sampler = PlanBatchSampler(planner())
    for epoch in (0, 0, 1, 2):
        sampler.set_epoch(epoch)
        list(sampler)
    fixed = PlanBatchSampler(planner()(0))
    for _ in range(3):
        list(fixed)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("order", [bw.Sequential(), lambda lengths, **_: range(lengths.size)])
def test_epochs_that_are_all_alike_come_again_in_silence(order, ranks):
    alike = bw.Planner(LENGTHS, batching=bw.TokenBudget(50), order=order)
    sampler = PlanBatchSampler(alike, rank=0, world_size=ranks)
    sampler.set_epoch(2**32)
    for _ in range(3):
        assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_shard_of_a_plan_is_not_shared_again(ranks, tmp_path):
    planned = bw.Planner(LENGTHS, batching=bw.TokenBudget(50), world_size=2)(0)
    shard = planned.shard(1, 2)
    shard.save(tmp_path / "shard")
    for each in (shard, bw.Plan.load(tmp_path / "shard"), shard.shard(0, 1), shard[:]):
        sampler = PlanBatchSampler(each, rank=0, world_size=ranks)
        if ranks == 1:
            assert list(sampler) == [batch.tolist() for batch in shard]
            continue
        with pytest.raises(bw.errors.PlanError, match="one rank's part of a plan already"):
            len(sampler)
    whole = PlanBatchSampler(planner()(0).shard(0, 1), rank=0, world_size=ranks)
    assert len(list(whole)) == len(whole)


def test_callers_that_are_no_loaders_are_not_looked_into():
    class Trainer:
        def __getattr__(self, name):
            raise KeyError(name)

        def batches(self, sampler):
            return list(sampler)

    assert len(Trainer().batches(PlanBatchSampler(planner()))) == len(planner())


def test_a_pass_that_is_finished_is_the_epoch_and_the_next_of_it_is_said():
    sampler = PlanBatchSampler(planner())
    sampler.load_state_dict(sampler.state_after(2))
    list(sampler)
    with pytest.warns(UserWarning, match="is repeated"):
        list(sampler)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_an_epoch_does_not_begin_before_its_ranks_are_known(monkeypatch, name):
    monkeypatch.setenv(name, "2")
    sampler = PlanBatchSampler(planner())
    repr(sampler)
    for use in (lambda: len(sampler), lambda: sampler.rank):
        with pytest.warns(UserWarning, match=f"{name}=2 .*every process would get all"):
            use()
    stream = StreamDataset([torch.ones(3)] * 8, batching=bw.TokenBudget(6))
    for samples in (sampler, stream, loader_of(planner(), Tokens())):
        with pytest.raises(bw.errors.PlanError, match=f"{name}=2 .*every process would get all"):
            next(iter(samples))
    list(PlanBatchSampler(planner(), rank=0, world_size=1))
    for alone in ("1", "", "two"):
        monkeypatch.setenv(name, alone)
        next(iter(PlanBatchSampler(planner())))


def test_samplers_and_their_iterators_can_be_pickled_at_any_time():
    whole = list(PlanBatchSampler(planner()))
    sampler = PlanBatchSampler(planner(), rank=0, world_size=1)

    def copied(value):
        return pickle.loads(pickle.dumps(value))  # noqa: S301

    assert list(copied(sampler)) == whole
    live = iter(copied(sampler))
    assert next(copied(live)) == whole[0]
    assert [next(live), next(live)] == whole[:2]
    assert list(copied(live)) == whole[2:]
    assert list(live) == whole[2:]
    ended = copied(live)
    assert list(ended) == []
    sampler.load_state_dict(sampler.state_after(3))
    again = copied(sampler)
    assert list(again) == list(sampler) == whole[3:]
    assert again.state_after(1) == sampler.state_after(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert list(copied(sampler)) == whole
    assert len(said) == 1
