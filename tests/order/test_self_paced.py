"""Orders that go by live losses: what is kept, what is drawn, and that a cut stays a cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from tests import strategies

ONES = np.ones(1000, dtype=np.int64)


def table_of(losses):
    table = bw.LossTable(len(losses))
    table.record(np.arange(len(losses)), losses)
    return table


@given(
    records=st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.floats(-5, 50)), max_size=12), max_size=8
    ),
    smoothing=st.sampled_from([0.0, 0.5, 0.9]),
)
def test_a_table_is_a_moving_average_of_means(records, smoothing):
    table = bw.LossTable(10, smoothing=smoothing)
    expected, when, calls = {}, {}, 0
    for record in records:
        table.record([index for index, _ in record], [loss for _, loss in record])
        calls += bool(record)
        for index in {index for index, _ in record}:
            mean = np.mean([loss for other, loss in record if other == index])
            old = expected.get(index)
            expected[index] = mean if old is None else smoothing * old + (1 - smoothing) * mean
            when[index] = calls
    for index in range(10):
        assert table.losses[index] == pytest.approx(
            expected.get(index, np.nan), nan_ok=True, abs=1e-4
        )
        assert table.recorded[index] == when.get(index, 0)


def test_a_loss_that_is_no_number_counts_as_the_hardest():
    table = bw.LossTable(3)
    table.record([0, 1, 2], [np.nan, np.inf, 3.0])
    order = bw.SelfPaced(table, noise_rate=0.6, epochs=1, reserve=0)
    assert order.split(1)[0].tolist() == [2]


def test_a_cut_is_what_the_losses_were_when_the_epoch_began():
    table = table_of([1.0, 2.0, 3.0])
    assert table.cut(4).losses.tolist() == [1, 2, 3]
    table.record([0], [9.0])
    assert table.cut(4).losses.tolist() == [1, 2, 3]
    other = bw.LossTable(3)
    other.load_state_dict(table.state_dict())
    assert other.cut(4).losses.tolist() == [1, 2, 3]
    assert other.losses.tolist() == [9, 2, 3]
    assert other.cut(5).losses.tolist() == [9, 2, 3]
    assert table.cut(5).losses.tolist() == [9, 2, 3]


def test_a_table_is_saved_beside_a_checkpoint(tmp_path):
    table = table_of([1.0, 2.0, 3.0])
    table.cut(4)
    table.record([0, 1], [9.0, 8.0])
    path = tmp_path / "losses.safetensors"
    table.save(path)
    other = bw.LossTable(3)
    other.load(path)
    assert other.losses.tolist() == [9, 8, 3]
    assert other.cut(4).losses.tolist() == [1, 2, 3]
    assert [each.name for each in tmp_path.iterdir()] == ["losses.safetensors"]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(bw.errors.LengthsError, match="truncated"):
        other.load(path)
    with pytest.raises(bw.errors.SourceNotFoundError, match="no such file"):
        other.load(tmp_path / "nowhere")
    table.save(path)
    with pytest.raises(bw.errors.LengthsError, match=r"float32\[3\], expected float32\[4\]"):
        bw.LossTable(4).load(path)


def test_losses_that_are_not_shared_yet_stop_the_next_epoch():
    table = table_of([1.0, 2.0])
    table.pending = 7
    with pytest.raises(bw.errors.PlanError, match="7 losses have not been shared"):
        table.cut(1)


@given(
    lengths=strategies.lengths(min_size=10),
    noise_rate=st.floats(0, 0.8),
    reserve=st.floats(0, 0.3),
    epoch=st.integers(0, 8),
    epochs=st.integers(1, 5),
)
def test_the_share_that_is_kept_has_the_smallest_losses(
    lengths, noise_rate, reserve, epoch, epochs
):
    losses = np.random.default_rng(0).random(lengths.size).astype(np.float32)
    order = bw.SelfPaced(
        table_of(losses), noise_rate=noise_rate, reserve=reserve, warm_up=2, epochs=epochs
    )
    pools = order(lengths, seed=0, epoch=epoch)
    if epoch < 2:
        assert np.array_equal(np.sort(pools.members), np.arange(lengths.size))
        return
    kept, left_out = order.split(epoch)
    share = 1 - noise_rate * min(1, (epoch - 1) / epochs)
    assert kept.size == max(1, round(share * lengths.size)) or abs(
        kept.size - share * lengths.size
    ) == pytest.approx(0.5)
    if left_out.size:
        assert losses[kept].max() <= losses[left_out].min()
    drawn = np.isin(pools.members, left_out).sum()
    assert drawn == min(left_out.size, round(reserve * lengths.size))
    times = np.bincount(pools.members, minlength=lengths.size)[kept]
    assert times.max() - times.min() <= 1
    total, drawn_tokens = int(lengths.sum()), int(lengths[pools.members].sum())
    assert abs(total - drawn_tokens) <= int(lengths.max()) * (1 + kept.size)


def test_those_left_out_come_back_oldest_first():
    table = bw.LossTable(100)
    losses = np.arange(100.0)
    for start in (60, 80, 0, 20, 40):  # 60 to 79 were seen first
        table.record(np.arange(start, start + 20), losses[start : start + 20])
    order = bw.SelfPaced(table, noise_rate=0.4, epochs=1, reserve=0.1)
    members = order(np.ones(100, dtype=int), seed=0, epoch=1).members
    assert sorted(members[members >= 60].tolist()) == list(range(60, 70))


def test_within_groups_no_class_is_thrown_away_as_a_whole():
    groups = np.repeat([0, 1], 50)
    losses = np.where(groups == 1, 10.0, 1.0) + np.random.default_rng(0).random(100)
    whole = bw.SelfPaced(table_of(losses), noise_rate=0.5, epochs=1)
    assert not (groups[whole.split(1)[0]] == 1).any()
    each = bw.SelfPaced(table_of(losses), noise_rate=0.5, epochs=1, groups=groups)
    assert np.bincount(groups[each.split(1)[0]]).tolist() == [25, 25]


def test_samples_that_were_never_seen_are_kept():
    table = bw.LossTable(4)
    table.record([0, 1], [5.0, 1.0])
    order = bw.SelfPaced(table, noise_rate=0.25, epochs=1)
    assert order.split(1)[0].tolist() == [1, 2, 3]


@given(lengths=strategies.lengths(min_size=30), seed=st.integers(0, 9))
def test_plans_keep_their_number_of_batches_whatever_the_losses(lengths, seed):
    table = bw.LossTable(lengths.size)
    order = bw.SelfPaced(table, noise_rate=0.4, epochs=2)
    planner = bw.Planner(lengths, batching=bw.TokenBudget(100), order=order, seed=seed)
    # The worst for it: losses that keep only long samples, or only short ones.
    for epoch, sign in enumerate([1, 1, -1, 1, -1]):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        assert plan.stats(lengths).max_batch_tokens <= 100
        table.record(np.arange(lengths.size), sign * lengths.astype(float))


def test_unbiased_dropping_keeps_every_samples_influence():
    rng = np.random.default_rng(0)
    losses = rng.random(1000) ** 3
    order = bw.UnbiasedDropping(table_of(losses), drop=0.5, until=2000)
    weights = order.loss_weights(1)
    influence = np.zeros(1000)
    for epoch in range(1, 401):
        members = order(ONES, seed=0, epoch=epoch).members
        assert abs(members.size - 1000) <= 1
        assert weights[members].mean() == pytest.approx(1, abs=2e-3)
        influence += np.bincount(members, weights[members], minlength=1000)
    assert influence / 400 == pytest.approx(np.ones(1000), abs=0.15)
    low, high = order.split(1)
    assert low.size > 600
    drawn = np.bincount(order(ONES, seed=0, epoch=1).members, minlength=1000)
    assert drawn[low].mean() == pytest.approx(drawn[high].mean() / 2, rel=0.01)


def test_unbiased_dropping_begins_and_ends_with_everything():
    order = bw.UnbiasedDropping(table_of(np.arange(1000.0)), until=3)
    for epoch in (0, 3, 4):
        assert np.array_equal(order(ONES, seed=0, epoch=epoch).members, np.arange(1000))
        assert (order.loss_weights(epoch) == 1).all()


def test_bad_input():
    table = bw.LossTable(3)
    with pytest.raises(bw.errors.LengthsError, match="2 indices for 1 losses"):
        table.record([0, 1], [1.0])
    with pytest.raises(bw.errors.LengthsError, match="samples 0 to 3, there are 0 to 2"):
        table.record([0, 3], [1.0, 1.0])
    with pytest.raises(bw.errors.LengthsError, match=r"float32\[4\], expected float32\[3\]"):
        table.load_state_dict(bw.LossTable(4).state_dict())
    with pytest.raises(bw.errors.LengthsError, match="not a state of LossTable"):
        table.load_state_dict({"losses": [1.0]})
    with pytest.raises(bw.errors.LengthsError, match="smoothing=1"):
        bw.LossTable(3, smoothing=1)
    with pytest.raises(bw.errors.PlanError, match="noise_rate=1"):
        bw.SelfPaced(table, noise_rate=1)
    with pytest.raises(bw.errors.PlanError, match="warm_up=0"):
        bw.SelfPaced(table, noise_rate=0.2, warm_up=0)
    with pytest.raises(bw.errors.LengthsError, match="groups has 2 entries for 3 samples"):
        bw.SelfPaced(table, noise_rate=0.2, groups=[0, 1])
    with pytest.raises(
        bw.errors.LengthsError, match="the loss table has 3 entries for 1,000 samples"
    ):
        bw.SelfPaced(table, noise_rate=0.2)(ONES, seed=0, epoch=0)
    with pytest.raises(bw.errors.PlanError, match="drop=1"):
        bw.UnbiasedDropping(table, drop=1, until=3)
