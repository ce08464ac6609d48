"""Constraints hold in what is read through loaders, also by other ranks that go on in mid-epoch."""

import numpy as np
import pytest
from torch.utils.data import Dataset

import batchwright as bw
from batchwright.torch import PlanLoader
from tests import reference

SIZE = 120
LENGTHS = np.random.default_rng(0).integers(3, 40, SIZE)
GROUPS = np.arange(SIZE) // 3
KEYS = np.random.default_rng(1).integers(0, 50, SIZE)


class Numbers(Dataset):
    """Samples that say which they are, once for each token."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> list[int]:
        return [int(index)] * int(LENGTHS[index])


def first_tokens(samples: list[list[int]]) -> list[int]:
    assert len(samples) * max(map(len, samples)) <= 400
    return [sample[0] for sample in samples]


@pytest.mark.parametrize(
    "constraints",
    [
        {"together": GROUPS},
        {"unique": KEYS},
        {"together": GROUPS, "unique": KEYS},
        {"within": GROUPS % 4, "together": GROUPS},
    ],
    ids="+".join,
)
def test_what_is_read_keeps_constraints_after_resuming_on_other_ranks(constraints):
    def loaders(world_size: int, max_tokens: int) -> list[PlanLoader]:
        planner = bw.Planner(LENGTHS, max_tokens=max_tokens, world_size=world_size, **constraints)
        return [
            PlanLoader(
                Numbers(), planner, collate_fn=first_tokens, rank=rank, world_size=world_size
            )
            for rank in range(world_size)
        ]

    began = loaders(2, 400)
    ranks = [iter(loader) for loader in began]
    seen = [next(rank) for _ in range(2) for rank in ranks]
    state = began[0].state_dict()
    listed = {name: values.tolist() for name, values in constraints.items()}
    for world_size in (1, 3):
        resumed = loaders(world_size, 300)
        for loader in resumed:
            loader.load_state_dict(state)
        read = seen + [batch for loader in resumed for batch in loader]
        assert sorted(sum(read, [])) == list(range(SIZE))
        assert not reference.broken(read, **listed)
