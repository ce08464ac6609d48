"""Advice on a real task: its price is announced first, and it advises against what does not help.

Seconds are counted in work (`tests.work_clock`), so that what is found is the same on any machine.
"""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.datasets import load_digits  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402
from torch.utils.data import default_collate  # noqa: E402

from batchwright.advise import (  # noqa: E402
    Hardware,
    Range,
    advise,
    configuration,
    examine_task,
    headline,
    price_trials,
    task_evidence,
)
from batchwright.advise.machine import profile_model  # noqa: E402
from batchwright.advise.task_evidence import SECONDS, SHARE  # noqa: E402
from batchwright.compare import Task  # noqa: E402
from batchwright.difficulty import out_of_fold  # noqa: E402
from batchwright.errors import TaskError  # noqa: E402
from tests.compare.conftest import make_task  # noqa: E402
from tests.work_clock import install  # noqa: E402

UPDATE = 5.0
"""Seconds that no update of these tasks takes, in work."""


MACHINE = Hardware("cpu", "a processor", 2**36, 2, {"bf16": {512: Range(1.2, 1.4)}})

SLOW = Hardware("cpu", "a processor", 2**36, 2, {"bf16": {512: Range(0.05, 0.1)}})


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine whose bf16 is worth a trial."""
    monkeypatch.setattr(task_evidence, "profile_hardware", lambda: MACHINE)


@pytest.fixture
def clock(monkeypatch):
    return install(monkeypatch)


@pytest.fixture(scope="module")
def found():
    """What is found out about a narrow net, and when its price was announced."""
    task = make_task(num_samples=2_000, max_tokens=200, step_tokens=800, epochs=2)
    events = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        monkeypatch.setattr(task_evidence, "profile_hardware", lambda: MACHINE)
        found = examine_task(
            task,
            seconds=300.0,
            announce=lambda price: events.append(("price", price)),
            watch=lambda what, share: events.append((what, share)),
        )
    return found, events


@pytest.mark.slow
def test_the_price_is_announced_before_trials_and_kept(found):
    seen, events = found
    names = [name for name, _ in events]
    assert names.index("price") < names.index("trying speed")
    assert "trying other updates" in names
    assert seen.price.seconds == 300.0
    assert seen.price.is_given
    assert seen.seconds < 300.0 + UPDATE  # one that is under way is ended


@pytest.mark.slow
def test_a_narrow_net_wants_no_bf16_and_its_padding_gone(found):
    evidence = found[0].evidence
    given = {each.technique: each for each in advise(evidence)}
    assert evidence.trials["planned+bf16"].precision == "bf16"
    assert given["mixed precision"].verdict == "do not use"
    assert given["mixed precision"].gain.origin == "measured here"
    assert given["packing"].verdict == "do not use"
    assert "bf16" not in configuration(list(given.values()))


@pytest.mark.slow
def test_the_model_is_looked_at(found):
    model = found[0].evidence.model
    assert model.parameters == 3 * 8 + 8 * 2 + 2
    assert model.unknown == ()
    assert model.cost.a + model.cost.b + model.cost.c > 0
    assert 0 <= model.cost.quadratic <= 1
    assert all(size > model.memory.state_bytes for _, _, size in model.memory.shapes)
    assert sum(share for _, share, _ in model.memory.parts) == pytest.approx(1.0, abs=0.02)
    given = {each.technique: each for each in advise(found[0].evidence)}
    assert "MiB" in given["a larger memory budget"].why


@pytest.mark.slow
def test_samples_that_are_equally_long_want_no_batching_of_ours(clock, monkeypatch):
    samples = [
        {"tokens": torch.ones(8, dtype=torch.long), "labels": each % 2} for each in range(64)
    ]
    task = make_task(samples=samples, lengths=np.full(64, 8))
    found = examine_task(task, updates=8)
    given = {each.technique: each for each in advise(found.evidence)}
    for technique in ("dynamic batching", "packing", "static shapes"):
        assert given[technique].verdict == "do not use"
    assert set(found.evidence.trials) == {"plain", "plain+bf16"}
    monkeypatch.setattr(task_evidence, "profile_hardware", lambda: SLOW)
    slow = examine_task(task, updates=8)
    assert set(slow.evidence.trials) == {"plain"}
    given = {each.technique: each for each in advise(slow.evidence)}
    assert given["mixed precision"].verdict == "do not use"
    assert configuration(list(given.values())).startswith("plain")


@pytest.mark.slow
def test_trials_can_be_limited_in_updates():
    task = make_task(num_samples=240, epochs=2)
    found = examine_task(task, updates=5)
    assert (found.price.seconds, found.price.updates) == (None, 5)
    assert "at most 5 updates of each strategy" in str(found.price)
    assert {each.updates for each in found.evidence.trials.values()} == {5}
    assert found.evidence.learning == {}  # not a third of a run
    assert all(each.cure.startswith("--updates") for each in found.evidence.untried.values())
    assert found.evidence.model is not None
    whole = examine_task(task, updates=10**6)
    assert {(each.runs, each.share) for each in whole.evidence.learning.values()} == {(3, 1.0)}
    assert set(whole.evidence.learning) == {"curriculum", "half", "twice"}


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"seconds": float("inf")}, "seconds=inf"),
        ({"seconds": 0.0}, "seconds=0.0"),
        ({"updates": 0}, "updates=0"),
        ({"updates": 3, "seconds": 3.0}, "one of them"),
    ],
)
def test_limits_that_are_none_are_refused(limits, said):
    with pytest.raises(TaskError, match=said):
        price_trials(make_task(), **limits)


def test_trials_of_a_long_run_may_take_a_twentieth_of_it():
    short = price_trials(make_task())
    assert short.seconds == SECONDS
    assert f"{SECONDS:.0f} s" in str(short)
    long = price_trials(make_task(epochs=10**9))
    assert long.seconds == pytest.approx(SHARE * long.run_seconds)
    assert long.seconds > SECONDS
    assert price_trials(make_task(), seconds=5.0).seconds == 5.0


@pytest.mark.slow
def test_what_cannot_be_found_out_about_a_model_is_said():
    def loss_sum(model, batch):
        lengths = (batch["tokens"] > 0).sum(1).tolist()  # values, which fake tensors have not
        return model(batch["tokens"]).sum() * 0 + model.embed.weight.sum() * sum(lengths)

    model = profile_model(make_task(loss_sum=loss_sum))
    assert model.memory is None
    assert model.cost is not None
    assert [each.split(":")[0] for each in model.unknown] == ["memory"]
    assert "fake tensors" in model.unknown[0]


@pytest.mark.slow
def test_clean_digits_and_a_full_budget_want_no_curriculum(clock):
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32)
    train, test = images[:1_400], torch.from_numpy(images[1_400:])
    truth = torch.from_numpy(labels[1_400:])
    task = Task(
        samples=list(zip(torch.from_numpy(train), labels[:1_400].tolist(), strict=True)),
        collate=default_collate,
        model=lambda: torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        ),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), 2e-3),
        loss_sum=lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="sum"),
        evaluate=lambda model: float((model(test).argmax(1) == truth).float().mean()),
        max_tokens=64,
        step_tokens=64,
        epochs=10,
        metric="accuracy",
        better="higher",
        difficulties={"loss": lambda: out_of_fold(train, labels[:1_400], seed=0).loss},
        labels=labels[:1_400],
        features=train,
        device="cpu",
    )
    found = examine_task(task, updates=220)  # as many as a run
    given = {each.technique: each for each in advise(found.evidence)}
    assert found.evidence.learning["curriculum"].runs >= 1
    assert given["curriculum"].verdict != "use"
    assert given["self-paced"].verdict == "do not use"
    assert "curriculum" not in configuration(list(given.values()))


@pytest.mark.slow
def test_slow_updates_do_not_break_the_price(clock):
    # Two rounds of all strategies are over it; what was begun is ended, and nothing more.
    task = make_task(num_samples=400, max_tokens=200, step_tokens=800)
    found = examine_task(task, seconds=4.0)
    assert found.seconds < 4.0 + UPDATE
    assert found.evidence.trials == {}
    untried = found.evidence.untried
    assert set(untried) == {"speed", "curriculum", "half", "twice", "model"}
    assert all(each.needed > each.had == 4.0 for each in untried.values())
    advice = {each.technique: each for each in advise(found.evidence)}
    for technique in ("dynamic batching", "mixed precision", "other tokens per update"):
        assert re.search(r"--seconds \d+", advice[technique].untested)
    assert "to measure it" in headline(found.evidence, list(advice.values())).then.lower()


@pytest.mark.slow
def test_where_an_update_is_one_batch_what_is_learnt_decides_about_batches():
    task = make_task(num_samples=960, batch_size=32, max_tokens=None, step_tokens=None)
    found = examine_task(task, updates=10**3)
    mixes = found.evidence.mixes
    assert (mixes["planned"].accumulate, mixes["mixed"].accumulate) == (1, 8)
    assert mixes["mixed"].dispersion < 1.1
    assert mixes["planned"].dispersion > 2
    assert {"plain", "planned", "mixed"} <= set(found.evidence.trials)
    faster = {name for name in mixes if not found.evidence.is_slower(name)}
    assert faster <= {*found.evidence.learning, *found.evidence.untried}
    dynamic = next(each for each in advise(found.evidence) if each.technique == "dynamic batching")
    assert "speed and mix conflict" in dynamic.why
    assert dynamic.verdict != "use" or dynamic.strategy in found.evidence.learning
