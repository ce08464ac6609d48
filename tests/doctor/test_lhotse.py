"""Cuts of lhotse, in batches of its sampler for buckets of durations."""

import pytest

from batchwright.doctor.diagnosis import diagnose
from batchwright.doctor.watch.loaders import hash_of
from tests.doctor.watched import run_script

pytest.importorskip("lhotse")

SCRIPT = """
import sys
import warnings

import torch
from lhotse import CutSet
from lhotse.dataset import DynamicBucketingSampler
from lhotse.testing.dummies import dummy_cut

warnings.simplefilter("ignore")  # that all cuts are in memory


class Speech(torch.utils.data.Dataset):
    def __getitem__(self, cuts):
        frames = [torch.rand(round(10 * cut.duration), 4) + 1 for cut in cuts]
        lengths = torch.tensor([len(each) for each in frames])
        inputs = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
        return {"inputs": inputs, "input_lens": lengths}


torch.manual_seed(0)
cuts = CutSet.from_cuts(dummy_cut(n, duration=1.0 + n * 7 % 19) for n in range(160))
sampler = DynamicBucketingSampler(
    cuts, max_duration=40.0, num_buckets=4, shuffle=True, seed=0, rank=0, world_size=1
)
loader = torch.utils.data.DataLoader(Speech(), sampler=sampler, batch_size=None)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for epoch in range(2):
    if "--tells" in sys.argv:
        sampler.set_epoch(epoch)
    for batch in loader:
        model(batch["inputs"]).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
"""


@pytest.fixture(scope="module", params=[False, True], ids=["forgets the epoch", "tells it"])
def watched(request, tmp_path_factory):
    """Return whether the loop calls `set_epoch`, and its run."""
    folder = tmp_path_factory.mktemp("lhotse")
    (folder / "train.py").write_text(SCRIPT)
    words = ["--tells"] if request.param else []
    run, printed = run_script(folder / "train.py", folder / "events", *words)
    assert (run.exit_code, run.notes) == (0, ()), printed
    return request.param, run


@pytest.mark.slow
def test_cuts_are_known_by_their_names_and_lengths(watched):
    (rank,) = watched[1].ranks
    loader = rank.trained
    assert (loader.sampler, loader.is_shuffled) == ("DynamicBucketingSampler", True)
    assert (loader.num_samples, loader.has_indices) == (None, False)
    assert [each.is_complete for each in loader.passes] == [True, True]
    assert [len(set(each.samples.tolist())) for each in loader.passes] == [160, 160]
    lengths = {hash_of(f"dummy-mono-cut-{n:04}"): 10 * (1 + n * 7 % 19) for n in range(160)}
    known = [each for each in loader.batches if each.lengths is not None]
    assert len(known) >= len(rank.updates) - 1  # the first has but one width
    for each in known:
        assert each.lengths.tolist() == [lengths[name] for name in each.samples.tolist()]
        assert each.width == each.lengths.max()
    assert [len(each.batches) for each in rank.updates] == [1] * len(rank.updates)


@pytest.mark.slow
def test_only_a_sampler_that_is_not_told_the_epoch_has_the_same_order(watched):
    is_told, run = watched
    errors = [each for each in diagnose(run).findings if each.level == "error"]
    assert [each.name for each in errors] == ["same order in every epoch"] * (not is_told)
    assert [each.code for each in errors] == [
        ("sampler.set_epoch(epoch)  # before each epoch",)
    ] * (not is_told)
