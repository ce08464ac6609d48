"""Streams in data loaders: workers, ranks, resuming, a run that is killed."""

import functools
import json
import pickle
import signal
import time
from collections import Counter
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

import batchwright as bw
from batchwright._states import sealed
from batchwright.errors import PlanError
from batchwright.torch import PackCollator, PadCollator, StreamDataset
from tests import fork_server
from tests.patience import PATIENCE
from tests.streams import killed_run
from tests.streams.killed_run import (
    BUDGET,
    LENGTHS,
    PAIRS,
    dataset_of,
    from_start,
    numbers_of,
    sample,
    size,
)

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


def passed(loader):
    return [numbers_of(batch) for batch in loader]


def refuses(loader, match):
    """See a loader refuse, and end its workers: the garbage collector would wait for each of them."""
    batches = iter(loader)
    with pytest.raises(PlanError, match=match):
        next(batches)
    batches._shutdown_workers()


def every_one_once(batches):
    return Counter(n for batch in batches for n in batch) == Counter(range(LENGTHS.size))


def test_a_plain_loader_takes_batches():
    loader = DataLoader(dataset_of(), batch_size=None)
    batches = list(loader)
    assert every_one_once(map(numbers_of, batches))
    assert max(batch["input_ids"].numel() for batch in batches) <= BUDGET
    for batch in batches:
        rows, numbers = batch["input_ids"], numbers_of(batch)
        assert [(row >= 0).sum().item() for row in rows] == LENGTHS[numbers].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_keep_the_budget_of_each_column(workers):
    loader = DataLoader(dataset_of(**PAIRS), batch_size=None, num_workers=workers)
    batches = list(loader)
    assert every_one_once(map(numbers_of, batches))
    for batch in batches:
        numbers = numbers_of(batch)
        for name, cap, lengths in (
            ("input_ids", BUDGET, LENGTHS),
            ("labels", BUDGET + 20, LENGTHS[::-1]),
        ):
            assert batch[name].numel() <= cap
            assert [(row >= 0).sum().item() for row in batch[name]] == lengths[numbers].tolist()


def test_the_loader_may_collate():
    by_loader = DataLoader(
        dataset_of(collate=None), batch_size=None, collate_fn=PadCollator(pad=-1)
    )
    assert passed(by_loader) == passed(DataLoader(dataset_of(), batch_size=None))


def test_packed_and_split():
    dataset = dataset_of(batching=bw.Packing(16, oversize="split"), collate=PackCollator())
    rows = [row["input_ids"].flatten() for row in DataLoader(dataset, batch_size=None)]
    assert max(map(len, rows)) <= 16
    assert torch.equal(torch.bincount(torch.cat(rows)), torch.from_numpy(LENGTHS))


def test_epochs():
    dataset = dataset_of()
    loader = DataLoader(dataset, batch_size=None)
    first = passed(loader)
    dataset.set_epoch(0)
    assert passed(loader) == first
    dataset.set_epoch(1)
    second = passed(loader)
    assert second != first
    assert every_one_once(second)
    for wrong in (-1, 1.5, None):
        with pytest.raises(bw.errors.PlanError, match="set_epoch"):
            dataset.set_epoch(wrong)


@pytest.mark.parametrize(
    ("consumed", "of"),
    [(0, {}), (1, {}), (50, PAIRS), (10_000, {})],
    ids=["0", "1", "50-pairs", "10000"],
)
def test_resume_without_workers(consumed, of):
    dataset = dataset_of(**of)
    dataset.set_epoch(2)
    whole = passed(DataLoader(dataset, batch_size=None))
    dataset.set_epoch(2)
    batches = iter(DataLoader(dataset, batch_size=None))
    seen = [numbers_of(batch) for batch in islice(batches, consumed)]
    assert seen == whole[:consumed]
    state = json.loads(json.dumps(dataset.state_dict()))
    resumed = dataset_of(**of)
    resumed.load_state_dict(state)
    assert resumed.epoch == 2
    assert resumed.state_dict() == state
    assert passed(DataLoader(resumed, batch_size=None)) == whole[len(seen) :]
    # What was loaded is used once.
    resumed.set_epoch(2)
    assert passed(DataLoader(resumed, batch_size=None)) == whole


def test_a_loaded_state_of_another_epoch_is_forgotten():
    dataset = dataset_of()
    next(iter(dataset))
    state = dataset.state_dict()
    other = dataset_of()
    other.load_state_dict(state)
    other.set_epoch(1)
    assert every_one_once(map(numbers_of, other))


def test_a_wrong_state_is_refused_at_once():
    state = dataset_of().state_dict()
    for wrong in (None, {}, {"epoch": -1}, state | {"seed": 4}, state | {"shard": [1, 2]}):
        with pytest.raises(bw.errors.PlanError):
            dataset_of().load_state_dict(wrong)


def test_wrong_settings_are_told_when_made():
    with pytest.raises(bw.errors.BudgetError):
        dataset_of(buffer_size=0)
    for place in ({"rank": 0}, {"world_size": 2}, {"rank": 2, "world_size": 2}):
        with pytest.raises(bw.errors.PlanError):
            dataset_of(**place)


def test_the_rank_is_fixed_on_the_way_to_a_worker():
    dataset = pickle.loads(pickle.dumps(dataset_of(rank=1, world_size=2)))  # noqa: S301
    assert passed(dataset) == passed(dataset_of(rank=1, world_size=2))


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_share_the_stream(persistent):
    dataset = dataset_of()
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=persistent)
    passes = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        passes.append(passed(loader))
    assert all(map(every_one_once, passes))
    assert passes[0] == passes[2] != passes[1]
    with pytest.raises(bw.errors.PlanError, match="StatefulDataLoader"):
        dataset.state_dict()


@pytest.mark.slow
def test_prefetching_makes_no_difference():
    def batches(**options):
        return passed(DataLoader(dataset_of(), batch_size=None, num_workers=2, **options))

    assert batches(prefetch_factor=1) == batches(prefetch_factor=7)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "of"), [(0, PAIRS), (2, {})], ids=["0-pairs", "2-one column"])
def test_ranks_get_the_same_number(workers, of):
    per_rank = [
        passed(
            DataLoader(
                dataset_of(**of, rank=rank, world_size=3, accumulate=2, buffer_size=120),
                batch_size=None,
                num_workers=workers,
            )
        )
        for rank in range(3)
    ]
    assert len({len(batches) for batches in per_rank}) == 1
    assert len(per_rank[0]) % 2 == 0
    assert every_one_once([batch for batches in per_rank for batch in batches])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "of", "places"),
    [(0, PAIRS, [1, 2, 33, -1]), (2, {}, [1, 2, 33, -1]), (2, PAIRS, [2])],
    ids=["no workers, pairs", "2 workers, one column", "2 workers, pairs"],
)
def test_resume_in_a_stateful_loader(workers, of, places):
    def loader_of(epoch):
        dataset = dataset_of(**of)
        dataset.set_epoch(epoch)
        return StatefulDataLoader(dataset, batch_size=None, num_workers=workers)

    whole, following = passed(loader_of(1)), passed(loader_of(2))
    for place in places:
        consumed = place % len(whole)
        loader = loader_of(1)
        batches = iter(loader)
        seen = [numbers_of(next(batches)) for _ in range(consumed)]
        state = pickle.loads(pickle.dumps(loader.state_dict()))  # noqa: S301
        del batches
        assert seen == whole[:consumed]
        resumed = loader_of(1)
        resumed.load_state_dict(state)
        assert passed(resumed) == whole[consumed:]
    resumed.dataset.set_epoch(2)
    assert passed(resumed) == following


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_of_the_end_begins_the_next_epoch(workers):
    loader = StatefulDataLoader(dataset_of(), batch_size=None, num_workers=workers)
    passed(loader)
    state = loader.state_dict()
    resumed = StatefulDataLoader(dataset_of(), batch_size=None, num_workers=workers)
    resumed.load_state_dict(state)
    resumed.dataset.set_epoch(1)
    other = dataset_of()
    other.set_epoch(1)
    following = passed(StatefulDataLoader(other, batch_size=None, num_workers=workers))
    assert passed(resumed) == following


class Whole(IterableDataset):
    def __iter__(self):
        return from_start(0)

    def __len__(self):
        return LENGTHS.size


class Sharded(Whole):
    def __iter__(self):
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (sample(number) for number in range(first, LENGTHS.size, step))


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "presharded"), [(Whole(), False), (Sharded(), True)])
def test_iterable_data_sets_say_whether_they_are_shared_out(samples, presharded):
    for workers, said in ((0, None), (0, presharded), (2, presharded)):
        dataset = dataset_of(samples, presharded=said)
        assert every_one_once(passed(DataLoader(dataset, batch_size=None, num_workers=workers)))
    refuses(DataLoader(dataset_of(samples), batch_size=None, num_workers=2), "presharded")


class OwnPart(IterableDataset):
    """A stream that gives each rank its own part."""

    def __init__(self, rank):
        self.rank = rank

    def __iter__(self):
        return (sample(number) for number in range(self.rank, LENGTHS.size, 2))


class Node(OwnPart):
    """What `WebDataset(nodesplitter=split_by_node)` looks like."""

    def __init__(self, *stages):
        super().__init__(0)
        self.pipeline = [["shards"], *stages]


def split_by_node(source):
    return source


def split_by_worker(source):
    return source


class ResampledShards(IterableDataset):
    def __iter__(self):
        return iter(())


def test_a_stream_that_may_be_split_by_rank_is_refused():
    place = {"rank": 0, "world_size": 2}
    for samples, said in (
        (OwnPart(0), True),
        (Node(split_by_node, split_by_worker), None),
        (Node(functools.partial(split_by_node)), "workers"),
        (Node(ResampledShards()), False),
    ):
        with pytest.raises(bw.errors.PlanError, match="the whole stream"):
            next(iter(dataset_of(samples, presharded=said, **place)))
    for samples, said in ((Whole(), None), (Whole(), "workers"), (Node(split_by_worker), None)):
        next(iter(dataset_of(samples, presharded=said, **place)))
    next(iter(dataset_of(OwnPart(0), presharded=True, rank=0, world_size=1)))
    with pytest.raises(bw.errors.PlanError, match="expected None, True, False"):
        dataset_of(presharded="ranks")


def hugging_face(count=400):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"input_ids": [[i] * (1 + i % 9) for i in range(count)]})
    return rows.to_iterable_dataset(num_shards=8)


def test_a_hugging_face_stream_that_is_split_by_rank_is_refused():
    from datasets.distributed import split_dataset_by_node

    parts = [split_dataset_by_node(hugging_face(), rank=rank, world_size=2) for rank in (0, 1)]
    for part in parts:
        for said in (None, True, False):
            with pytest.raises(bw.errors.PlanError, match="split_dataset_by_node"):
                next(iter(dataset_of(part, presharded=said, rank=0, world_size=2)))
    alone = dataset_of(parts[0], rank=0, world_size=1)
    assert sum(len(numbers_of(batch)) for batch in alone) == 200


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_hugging_face_stream_comes_whole_to_all_ranks_and_learns_of_the_epoch(workers):
    stream = hugging_face().shuffle(seed=0, buffer_size=20)
    orders = []
    per_rank = [dataset_of(stream, rank=rank, world_size=2, buffer_size=40) for rank in (0, 1)]
    for epoch in (0, 1):
        seen = []
        for dataset in per_rank:
            dataset.set_epoch(epoch)
            seen.append(passed(DataLoader(dataset, batch_size=None, num_workers=workers)))
        assert len(seen[0]) == len(seen[1])
        numbers = [n for batches in seen for batch in batches for n in batch]
        assert sorted(numbers) == list(range(400))
        orders.append(numbers)
    assert orders[0] != orders[1]


class Epochs:
    """A stream that writes down which epochs it is set to."""

    def __init__(self):
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        assert self.epochs
        return from_start(0)


class Around(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_epoch_reaches_the_samples(wrapped):
    inner = Epochs()
    dataset = dataset_of(Around(Around(inner)) if wrapped else inner)
    for epoch in (3, 4):
        dataset.set_epoch(epoch)
        next(iter(dataset))
    state = dataset.state_dict()
    dataset.set_epoch(9)
    next(iter(dataset))
    assert inner.epochs == [3, 4, 9]
    dataset.load_state_dict(state)
    next(iter(dataset))  # what was held is read again in the sequence it came in
    assert inner.epochs == [3, 4, 9, 4]
    next(bw.stream(inner, batching=bw.TokenBudget(BUDGET), length=size, epoch=7))
    assert inner.epochs[-1] == 7


@pytest.mark.parametrize("whole", [True, False])
def test_an_epoch_that_begins_again_is_said_once(whole):
    dataset = dataset_of()
    for _ in range(1 if whole else 2):
        list(dataset) if whole else next(iter(dataset))
    with pytest.warns(UserWarning, match=r"epoch 0 of the stream is repeated"):
        list(dataset)
    list(dataset)
    dataset.set_epoch(1)
    list(dataset)


def test_no_pass_of_a_stream_begins_before_its_ranks_are_known(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    dataset = dataset_of()
    in_a_worker = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    for each in (dataset, in_a_worker):
        with pytest.raises(PlanError, match=r"WORLD_SIZE=2 .* StreamDataset"):
            next(iter(each))
    next(iter(dataset_of(rank=0, world_size=1)))


def test_streams_can_be_pickled_at_any_time():
    def copied(value):
        return pickle.loads(pickle.dumps(value))  # noqa: S301

    dataset = dataset_of()
    whole = passed(copied(dataset))
    live = iter(dataset)
    seen = [numbers_of(next(live)) for _ in range(5)]
    assert passed(live) == whole[5:]
    again = copied(dataset)
    again.set_epoch(0)
    assert passed(again) == whole
    batches = bw.stream(from_start, batching=bw.TokenBudget(BUDGET), length=size, buffer_size=100)
    for consumed in (0, 1, 5):
        list(islice(batches, consumed))
        assert [*map(numbers_in, copied(batches))] == [*map(numbers_in, copied(copied(batches)))]
    assert seen == whole[:5]
    rest = [*map(numbers_in, copied(batches))]
    assert rest == [*map(numbers_in, batches)]
    assert list(copied(batches)) == []


def numbers_in(batch):
    return [each["input_ids"][0].item() for each in batch]


@pytest.mark.slow
def test_workers_are_started_in_any_way():
    # One spawned worker shows what has to be pickled, and a second would import torch once more.
    first, second = (
        passed(
            DataLoader(dataset_of(), batch_size=None, num_workers=1, multiprocessing_context=way)
        )
        for way in ("fork", "spawn")
    )
    assert first == second


def test_an_edited_state_is_refused():
    dataset = dataset_of()
    next(iter(dataset))
    state = dataset.state_dict()
    for change in ({"epoch": 1}, {"emitted": 2}, {"ended": True}, {"read": None}):
        with pytest.raises(bw.errors.PlanError, match="changed after it was saved"):
            dataset_of().load_state_dict(state | change)
    for name in state:
        with pytest.raises(bw.errors.PlanError, match="not a state"):
            dataset_of().load_state_dict({key: state[key] for key in state if key != name})


def test_a_remainder_follows_the_policy():
    few = dataset_of([sample(number) for number in range(5)], rank=1, world_size=4, last="drop")
    assert len(list(few)) == 1
    few = dataset_of([sample(0)], rank=1, world_size=4, last="drop")
    assert list(few) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, workers):
    whole, out = tmp_path / "whole", tmp_path / "killed"
    finish(run(whole, workers))
    process = run(out, workers, stop_at=60)
    deadline = time.monotonic() + PATIENCE
    try:
        while len(log(out)) < 40:
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        fork_server.end(process)
    assert process.exitcode == -signal.SIGKILL
    kept = log(out)
    assert 40 <= len(kept) <= 60 < len(log(whole))
    finish(run(out, workers))
    assert log(out) == log(whole)
    for epoch in (0, 1):
        assert every_one_once([batch for each, batch in tagged(out) if each == epoch])


def run(out, workers, stop_at=0):
    out.mkdir(exist_ok=True)
    return fork_server.start(killed_run.__file__, out, workers, stop_at)


def finish(process):
    process.join(PATIENCE)
    code = process.exitcode
    fork_server.end(process)
    assert code == 0


def tagged(out):
    kept = out / "kept.pt"
    return torch.load(kept, weights_only=False)["seen"] if kept.exists() else []


def log(out):
    return [batch for _, batch in tagged(out)]


@pytest.mark.parametrize("epoch", [2**32 + 1, 2**63, 10**30])
def test_an_epoch_beyond_counting_is_refused(epoch):
    dataset = dataset_of()
    with pytest.raises(PlanError, match="set_epoch.*at most"):
        dataset.set_epoch(epoch)
    state = dataset.state_dict()
    with pytest.raises(PlanError):
        dataset.load_state_dict(sealed({**state, "epoch": epoch}, version=state["version"]))


def test_an_iterator_is_not_shared_by_workers(tmp_path):
    path = tmp_path / "lines"
    path.write_text("".join(f"{number} {'x' * 100}\n" for number in range(500)))
    whole = sorted(path.read_text().splitlines(keepends=True))

    def loader_of(workers, samples):
        dataset = StreamDataset(samples, batching=bw.TokenBudget(1_000), buffer_size=50)
        return DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=list)

    def lines(workers, samples):
        return sorted(line for batch in loader_of(workers, samples) for line in batch)

    def from_start(start):
        with path.open() as file:
            yield from islice(file, start, None)

    for workers in (0, 1):
        with path.open() as file:
            assert lines(workers, map(str, file)) == whole
    with path.open() as file:
        for samples in (file, map(str, file), (line for line in file)):
            refuses(loader_of(2, samples), r"iterator \(\w+\), and 2 workers")
    assert lines(2, from_start) == whole


def test_an_iterator_that_a_pass_left_in_its_middle_says_that_samples_are_lost():
    dataset = StreamDataset(iter(["x"] * 200), batching=bw.TokenBudget(10), buffer_size=20)
    next(iter(dataset))
    dataset.set_epoch(1)
    with pytest.warns(UserWarning, match=r"iterator \(list_iterator\).* is lost"):
        list(dataset)
    dataset.set_epoch(2)
    with pytest.raises(bw.errors.SourceError, match="gave no sample"):
        list(dataset)
