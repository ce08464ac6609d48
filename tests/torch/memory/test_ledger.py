import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from batchwright.torch.memory.ledger import Ledger

CPU = torch.device("cpu")
KIBIBYTE = 256  # floats


def test_what_is_freed_no_longer_counts():
    with FakeTensorMode(), Ledger(CPU) as ledger:
        first = torch.zeros(KIBIBYTE)
        second = first + 1  # 2 KiB
        del first
        third = second * 2  # 2 KiB again
        del second, third
    line = ledger.timeline()
    assert line.peak == 2048
    assert [each.bytes for each in line.allocations] == [1024] * 3
    assert line.levels.tolist() == [1024, 2048, 1024, 2048, 1024, 0]


def test_views_and_changes_in_place_allocate_nothing():
    with FakeTensorMode(), Ledger(CPU) as ledger:
        base = torch.zeros(4, KIBIBYTE)
        base.t().reshape(KIBIBYTE, 4)[1:].add_(1)
        base.flatten().mul_(2)
    assert ledger.timeline().peak == 4096


def test_a_storage_lives_as_long_as_its_last_view():
    with FakeTensorMode(), Ledger(CPU) as ledger:
        base = torch.zeros(KIBIBYTE)
        view = base[:1]
        del base
        other = torch.zeros(KIBIBYTE)
        del view
    assert ledger.timeline().levels.tolist() == [1024, 2048, 1024]
    assert other.shape == (KIBIBYTE,)


def test_what_was_there_before_does_not_count_but_its_place_may_be_taken():
    with FakeTensorMode():
        before = torch.zeros(KIBIBYTE)
        with Ledger(CPU) as ledger:
            ledger.ignore([before])
            before.add_(1)
            del before
            after = [torch.zeros(KIBIBYTE) for _ in range(64)]
    assert ledger.timeline().peak == 64 * 1024
    assert len(after) == 64


def test_sizes_are_rounded_as_an_allocator_does():
    with FakeTensorMode(), Ledger(CPU, granule=512) as ledger:
        kept = torch.zeros(3)
    assert ledger.timeline().peak == 512
    assert kept.shape == (3,)


def test_sparse_tensors_count_with_both_of_their_parts():
    with Ledger(CPU) as ledger:
        diagonal = torch.eye(30).to_sparse()
        dense = diagonal.to_dense()
    live = ledger.timeline().levels[-1]
    assert live == 30 * 4 + 2 * 30 * 8 + dense.nbytes


def test_layouts_of_unknown_parts_are_not_counted_as_nothing():
    with (
        pytest.warns(UserWarning, match="Sparse CSR"),
        pytest.raises(NotImplementedError, match="layout torch.sparse_csr"),
        Ledger(CPU),
    ):
        torch.eye(3).to_sparse_csr()


def test_what_saved_tensors_keep_alive_counts_until_they_are_freed():
    with FakeTensorMode(), Ledger(CPU) as ledger:
        weight = torch.zeros(KIBIBYTE, requires_grad=True)
        loss = weight.exp().sin().sum()  # exp's and sin's inputs are kept: exp, and sin until sum
        ledger.phase = "backward"
        loss.backward()
    line = ledger.timeline()
    live = line.live(line.levels.size - 1)
    assert sorted(each.bytes for each in live) == [4, 1024, 1024]  # loss, weight, gradient
    assert {each.op for each in live} >= {"zeros", "sum"}
