"""A watched run is the run that it would have been, and what it did is on record."""

from pathlib import Path

import numpy as np
import pytest

from tests.doctor.watched import run_alone, run_script, watched

SCRIPT = Path(__file__).with_name("plain_script.py")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The script as it is; what was seen, and what it printed."""
    return run_script(SCRIPT, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory):
    """The same on two ranks."""
    return run_script(SCRIPT, tmp_path_factory.mktemp("ranks"), "--distributed", ranks=2)


@pytest.mark.parametrize(
    ("words", "ranks"),
    [((), 1), (("--workers", 2), 1), (("--distributed",), 2)],
    ids=["one process", "two workers", "two ranks"],
)
def test_weights_and_random_numbers_are_the_same_to_the_bit(request, tmp_path, words, ranks):
    alone = run_alone(SCRIPT, *words, ranks=ranks)
    known = {(): "plain", ("--distributed",): "on_ranks"}
    if words in known:
        run, printed = request.getfixturevalue(known[words])
    else:
        run, printed = run_script(SCRIPT, tmp_path, *words, ranks=ranks)
        assert len(list(tmp_path.iterdir())) == 1  # what loads data for another writes nothing
    assert alone in printed
    assert run.exit_code == 0
    assert not run.notes
    assert sum(len(rank.updates) for rank in run.ranks) == 52


def test_every_batch_is_on_record(plain):
    run, _ = plain
    (rank,) = run.ranks
    loader = rank.trained
    assert (loader.num_samples, loader.batch_size, loader.sampler) == (203, 8, "RandomSampler")
    assert [each.is_complete for each in loader.passes] == [True, True]
    assert [sorted(each.samples.tolist()) for each in loader.passes] == [list(range(203))] * 2
    assert not np.array_equal(loader.passes[0].samples, loader.passes[1].samples)
    assert sum(not each.trains for each in rank.loaders) == 1  # the one to evaluate
    assert [len(each.batches) for each in rank.updates] == [1] * 52


def test_lengths_are_those_without_padding(plain):
    import torch

    run, _ = plain
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 41, (203,), generator=generator).numpy()
    known = [each for each in run.ranks[0].trained.batches if each.lengths is not None]
    assert len(known) > 40
    for batch in known:
        assert np.array_equal(batch.lengths, lengths[batch.samples])
        assert batch.width == batch.lengths.max()


def test_losses_are_known_with_their_weights(tmp_path):
    run, _ = run_script(SCRIPT, tmp_path, "--accumulate", 3)
    updates = run.ranks[0].updates
    assert all(len(each.backwards) in {3, 5} for each in updates)  # the rest of an epoch goes on
    for each in (one for update in updates for one in update.backwards):
        assert each.reduction == "mean"
        assert each.factor == pytest.approx(1 / 3)
        assert 0 < each.loss < 2
        assert 20 < each.counted < 8 * 40
    errors = [each.gradient_error for each in updates if each.gradient_error is not None]
    assert len(errors) == 1
    assert 0.001 < errors[0] < 0.5


def test_ranks_are_told_apart(on_ranks):
    run, _ = on_ranks
    assert [(each.rank, each.world_size) for each in run.ranks] == [(0, 2), (1, 2)]
    for passes in run.passes():
        seen = np.concatenate([each.samples for each in passes])
        assert set(seen.tolist()) == set(range(203))
        assert len(seen) == 204


@pytest.mark.parametrize(
    ("options", "updates"), [({"updates": 10}, 10), ({"epochs": 1}, 26), ({"kill": 7}, 7)]
)
def test_a_run_ends_when_that_was_asked_for(tmp_path, options, updates):
    run, _ = run_script(SCRIPT, tmp_path, **options)
    assert len(run.ranks[0].updates) == updates
    assert run.exit_code == (-9 if "kill" in options else 0)
    assert run.ranks[0].ended == ("killed" if "kill" in options else next(iter(options)))


def test_workers_can_be_set(tmp_path):
    run, _ = run_script(SCRIPT, tmp_path, "--epochs", 1, workers=2)
    assert run.ranks[0].trained.num_workers == 2
    assert sorted(run.ranks[0].trained.passes[0].samples.tolist()) == list(range(203))


def test_the_customization_of_the_user_runs_too(tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("print('as every day')\n")
    monkeypatch.setenv("PYTHONPATH", str(own))
    _, printed = watched(
        ["-c", "import sys; print([p for p in sys.path if p.endswith('site')])"],
        tmp_path / "events",
    )
    assert printed == "as every day\n[]\n"


def test_a_warning_names_the_line_of_the_script(tmp_path):
    script = tmp_path / "early.py"
    script.write_text(
        "import torch\n"
        "parameter = torch.nn.Parameter(torch.ones(1))\n"
        "optimizer = torch.optim.SGD([parameter], 0.1)\n"
        "schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)\n"
        "schedule.step()\n"
        "parameter.sum().backward()\n"
        "optimizer.step()\n"
        "schedule.step()\n"
        "parameter.sum().backward()\n"
        "optimizer.step()\n"
    )
    run, printed = run_script(script, tmp_path / "events")
    assert "early.py:5: UserWarning" in printed
    assert [each.schedules for each in run.ranks[0].updates] == [1, 0]
