"""What the pages of grain and torchdata.nodes say of ranks, epochs and resuming."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import batchwright as bw
from batchwright.torch import PlanBatchSampler
from tests.docs.blocks import ROOT, blocks_of

LENGTHS = np.random.default_rng(0).lognormal(3, 0.8, 203).clip(2, 200).astype(int)


def names_of(page, **given):
    """Run the first block of a page, and those blocks that define something."""
    names = {"__name__": "__main__", "lengths": LENGTHS} | given
    blocks = blocks_of((ROOT / f"docs/frameworks/{page}.md").read_text(encoding="utf-8"))
    for number, block in enumerate(blocks):
        if block.language == "python" and (not number or "class " in block.code):
            exec(block.code, names)  # noqa: S102
    return names


@pytest.fixture(scope="module")
def grains():
    pytest.importorskip("grain")
    return names_of("grain", samples=range(LENGTHS.size))


def planned(planner, epochs, rank=0, ranks=1):
    return [batch.tolist() for epoch in epochs for batch in planner(epoch).shard(rank, ranks)]


@pytest.mark.slow
def test_grain_reads_the_plan_on_each_rank_in_every_epoch(grains):
    for ranks in (1, 2):
        for rank in range(ranks):
            read = list(grains["dataset_of"](rank, ranks))
            assert read == planned(grains["planner"], range(3), rank, ranks)


def test_grain_goes_on_where_it_was_also_on_fewer_ranks(grains):
    dataset_of, taken = grains["dataset_of"], len(grains["planner"]) // 2 + 2  # in mid-epoch
    read, states = [], []
    for rank in range(2):
        batches = iter(dataset_of(rank, 2))
        read.append([next(batches) for _ in range(taken)])
        states.append(batches.get_state())
        again = iter(dataset_of(rank, 2))
        again.set_state(states[rank])
        assert read[rank] + list(again) == planned(grains["planner"], range(3), rank, 2)
    assert states == [{"next_index": taken}] * 2
    one = iter(dataset_of(0, 1))
    one.set_state({"next_index": 2 * taken})
    before = [batch for both in zip(*read, strict=True) for batch in both]
    assert before + list(one) == planned(grains["planner"], range(3))


@pytest.mark.slow
def test_grain_goes_on_with_as_many_workers_and_refuses_others(grains):
    from absl import flags

    flags.FLAGS([""])  # as grain's own main does
    dataset, expected = grains["dataset_of"](0, 1), planned(grains["planner"], range(3))

    def batches_of(workers):
        options = grains["grain"].MultiprocessingOptions(num_workers=workers)
        return iter(dataset.mp_prefetch(options))

    batches = batches_of(2)
    before = [next(batches) for _ in range(7)]
    again = batches_of(2)
    again.set_state(batches.get_state())
    assert before + list(again) == expected
    other, state = batches_of(1), batches.get_state()
    with pytest.raises(IndexError):
        other.set_state(state)
    for each in (batches, again, other):
        each.close()


def test_ranks_of_torchtitan_read_the_rows_of_a_plan(grains):
    for rank in range(2):
        place = SimpleNamespace(dp_rank=rank, dp_world_size=2)
        rows = grains["PlannedRows"]().build(context=None, dataset_iteration_policy=place)
        expected = planned(grains["rows"], range(2), rank, 2)
        assert [rows[number] for number in range(len(expected))] == expected
        assert all(LENGTHS[row].sum() <= 256 for row in expected)


@pytest.fixture(scope="module")
def nodes():
    pytest.importorskip("torchdata.nodes")
    return names_of("nodes", dataset=[{"x": torch.full((n,), i)} for i, n in enumerate(LENGTHS)])


def read(batches):
    return [batch["x"][:, 0].tolist() for batch in batches]


@pytest.mark.filterwarnings("ignore")
def test_nodes_read_the_plan_on_each_rank_in_every_epoch(nodes):
    planner = bw.Planner(LENGTHS, max_tokens=2_048, world_size=2)
    for rank in range(2):
        loader = nodes["loader_of"](PlanBatchSampler(planner, rank=rank, world_size=2))
        for epoch in range(2):
            assert read(loader) == planned(planner, [epoch], rank, 2)


@pytest.mark.filterwarnings("ignore")
def test_nodes_go_on_where_they_were_also_on_more_ranks(nodes):
    loader_of, planner = nodes["loader_of"], bw.Planner(LENGTHS, max_tokens=512, accumulate=2)
    loader = loader_of(PlanBatchSampler(planner))
    read(loader)
    batches = iter(loader)
    before = read(next(batches) for _ in range(4))
    again = loader_of(PlanBatchSampler(planner), workers=1)
    again.load_state_dict(loader.state_dict())
    assert before + read(again) == planned(planner, [1])
    assert read(again) == planned(planner, [2])
    saved = PlanBatchSampler(planner)
    saved.set_epoch(1)
    state, rest = saved.state_after(4), []
    for rank in range(2):
        sampler = PlanBatchSampler(planner, rank=rank, world_size=2)
        sampler.load_state_dict(state)
        rest += read(loader_of(sampler, epoch=sampler.epoch))
    samples = [sample for batch in before + rest for sample in batch]
    assert sorted(samples) == list(range(LENGTHS.size))
