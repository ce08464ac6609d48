"""What is known of streams before they are read."""

import pytest
from torch.utils.data import DataLoader, IterableDataset

from batchwright.doctor.watch.loaders import _facts, _is_shuffled

datasets = pytest.importorskip("datasets")


def test_a_stream_says_whether_it_shuffles():
    table = datasets.Dataset.from_dict({"number": list(range(20))})
    stream = table.to_iterable_dataset(num_shards=4)
    shuffled = stream.shuffle(seed=0, buffer_size=5)
    assert _is_shuffled([], stream) is None
    assert _is_shuffled([], shuffled) is True
    assert _is_shuffled([], shuffled.map(lambda row: {"next": row["number"] + 1}).take(3)) is True


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(20))


def test_the_loader_of_a_stream_has_samplers_without_a_length():
    facts = _facts(DataLoader(Stream(), batch_size=4))
    assert (facts["num_samples"], facts["num_batches"], facts["batch_size"]) == (None, None, 4)
    assert facts["batch_sampler"] == "BatchSampler"
