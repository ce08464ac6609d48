"""Of several optimizers, the steps of one are updates; those of the others are counted apart."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import mse_loss

from batchwright.doctor.checks.loss import division, mean_of_means, not_cleared
from batchwright.doctor.checks.precision import clipping, schedules
from batchwright.doctor.reading import read_run
from batchwright.doctor.records import Run
from batchwright.doctor.watch.recorder import Recorder
from batchwright.doctor.watch.updates import Updates
from tests.doctor.watched import run_script

CHECKS = (division, mean_of_means, not_cleared)


class Loop:
    """A loop that records what hooks in torch record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.recorder = Recorder(folder, {})
        self.updates = Updates(self.recorder)
        self._batches = 0

    def batch(self, rows: int = 4) -> None:
        contents = {"rows": rows, "width": 1}
        self.recorder.add("batch", 0, 1, float(self._batches), 0.0, [self._batches], None, contents)
        self._batches += 1

    def backward(self, loss: torch.Tensor) -> None:
        self.updates.before_backward(loss)
        loss.backward()
        self.updates.after_backward()

    def step(self, optimizer: torch.optim.Optimizer, *, clears: bool = True) -> None:
        optimizer.step()
        self.updates.applied(optimizer)
        if clears:
            optimizer.zero_grad()

    def run(self) -> Run:
        self.recorder.flush()
        return read_run(self._folder)


def model() -> torch.nn.Linear:
    return torch.nn.Linear(3, 1)


def loss_of(*models: torch.nn.Module) -> torch.Tensor:
    out = torch.ones(4, 3)
    for each in models:
        out = each(out).expand(4, 3)
    return mse_loss(out, torch.zeros(4, 3))


def counts(run: Run) -> list[tuple[int, int]]:
    return [(len(each.batches), len(each.backwards)) for each in run.ranks[0].updates]


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path)


@pytest.fixture
def pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    return model(), model()


def optimizers_of(*models: torch.nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(each.parameters(), 0.01) for each in models]


@pytest.mark.parametrize("critics", [1, 2])  # backward passes of it: real and made up apart
def test_an_update_of_a_gan_is_one_of_its_critic(loop, pair, critics):
    maker, critic = pair
    of_maker, of_critic = optimizers_of(maker, critic)
    for _ in range(12):
        loop.batch()
        of_critic.zero_grad()
        for _ in range(critics):
            loop.backward(loss_of(critic))
        loop.step(of_critic, clears=False)
        of_maker.zero_grad()
        loop.backward(loss_of(maker, critic))
        loop.step(of_maker, clears=False)
    run = loop.run()
    assert counts(run) == [(1, critics)] * 12
    assert run.ranks[0].optimizers == (("SGD", 12), ("SGD", 12))
    for check in CHECKS:
        assert list(check(run)) == []


def test_two_batches_a_turn_are_no_accumulation(loop, pair):
    maker, critic = pair
    of_maker, of_critic = optimizers_of(maker, critic)
    for _ in range(12):
        for optimizer, models in ((of_critic, (critic,)), (of_maker, (maker, critic))):
            loop.batch()
            optimizer.zero_grad()
            loop.backward(loss_of(*models))
            loop.step(optimizer, clears=False)
    run = loop.run()
    assert len(run.ranks[0].updates) == 12
    for check in CHECKS:
        assert list(check(run)) == []


def test_gradients_of_a_critic_that_are_never_cleared_are_found(loop, pair):
    maker, critic = pair
    of_maker, of_critic = optimizers_of(maker, critic)
    for _ in range(12):
        loop.batch()
        loop.backward(loss_of(critic))
        loop.step(of_critic, clears=False)
        loop.backward(loss_of(maker, critic))
        loop.step(of_maker)
    assert [each.name for each in not_cleared(loop.run())] == ["gradients not cleared"]


def test_updates_are_those_of_the_optimizer_that_steps_most(loop, pair):
    maker, critic = pair
    of_maker, of_critic = optimizers_of(maker, critic)
    for turn in range(15):
        loop.batch()
        if turn % 5 == 0:  # the first of all steps is the maker's
            loop.backward(loss_of(maker))
            loop.step(of_maker)
        loop.backward(loss_of(critic))
        loop.step(of_critic)
    run = loop.run()
    assert run.ranks[0].optimizers == (("SGD", 3), ("SGD", 15))
    assert counts(run)[2:] == [(1, 1)] * (len(counts(run)) - 2)
    assert len(counts(run)) == 15  # the maker's first, and those of the critic but one


def test_an_optimizer_that_is_made_anew_goes_on(loop):
    trained = model()
    for _phase in range(3):
        (optimizer,) = optimizers_of(trained)
        for _ in range(5):
            loop.batch()
            loop.backward(loss_of(trained))
            loop.step(optimizer)
    run = loop.run()
    assert counts(run) == [(1, 1)] * 15
    assert run.ranks[0].optimizers == (("SGD", 5),) * 3


def test_an_optimizer_of_other_parameters_takes_over_with_its_second_step(loop, pair):
    for trained in pair:
        (optimizer,) = optimizers_of(trained)
        for _ in range(5):
            loop.batch()
            loop.backward(loss_of(trained))
            loop.step(optimizer)
    run = loop.run()
    assert len(run.ranks[0].updates) == 9
    assert run.ranks[0].optimizers == (("SGD", 5), ("SGD", 5))


def test_optimizers_of_one_backward_pass_make_one_update(loop, pair):
    both = optimizers_of(*pair)
    for _ in range(6):
        loop.batch()
        loop.backward(loss_of(*pair))
        for optimizer in both:
            loop.step(optimizer)
    run = loop.run()
    assert counts(run) == [(1, 1)] * 6
    assert run.ranks[0].optimizers == (("SGD", 6),)


def test_schedules_are_those_of_the_optimizer(loop, pair):
    both = optimizers_of(*pair)
    own = [torch.optim.lr_scheduler.ConstantLR(each) for each in both]
    loop.updates.schedules.update(own)
    for _ in range(6):
        loop.batch()
        for optimizer, trained in zip(both, pair, strict=True):
            loop.backward(loss_of(trained))
            loop.step(optimizer)
        own[1].step()
    run = loop.run()
    assert [each.schedules for each in run.ranks[0].updates] == [0] * 6


GAN = """
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as loss_of
from torch.utils.data import DataLoader

torch.manual_seed(0)
loader = DataLoader(torch.randn(256, 8), batch_size=16, shuffle=True)
maker = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
critic = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
of_critic = torch.optim.Adam(critic.parameters(), 1e-3)
of_maker = torch.optim.SGD(maker.parameters(), 1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for epoch in range(2):
    for real in loader:
        made = maker(torch.randn(len(real), 4))
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        of_maker.zero_grad()
        scaler.scale(loss_of(critic(made), ones)).backward()
        of_critic.zero_grad()
        right, wrong = loss_of(critic(real), ones), loss_of(critic(made.detach()), zeros)
        scaler.scale(right + wrong).backward()
        scaler.unscale_(of_critic)
        scaler.unscale_(of_maker)
        torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        scaler.step(of_critic)
        torch.nn.utils.clip_grad_norm_(maker.parameters(), 1.0)
        scaler.step(of_maker)
        scaler.update()
"""


@pytest.mark.slow
def test_a_gan_under_a_scaler_is_seen_as_it_is(tmp_path):
    script = tmp_path / "gan.py"
    script.write_text(GAN)
    run, printed = run_script(script, tmp_path / "events")
    assert run.exit_code == 0, printed
    (rank,) = run.ranks
    assert [len(each.batches) for each in rank.updates] == [1] * 32
    assert rank.optimizers == (("Adam", 32),)  # both losses come before both steps
    for check in (*CHECKS, clipping, schedules):
        assert list(check(run)) == []
