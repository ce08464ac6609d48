"""What a trainer with a plan logs of its training."""

from pathlib import Path
from typing import Any

import pytest

import batchwright as bw
from batchwright.integrations.transformers import use_plan
from tests.integrations.events import no_tensorflow, scalars  # noqa: F401 (a fixture)
from tests.integrations.trainers import LENGTHS, samples_of, trainer_of

pytestmark = pytest.mark.slow
PLANNER = bw.Planner(LENGTHS, max_tokens=96, accumulate=2)
UPDATES = len(PLANNER) // 2
LINE = 4  # updates
OPTIONS: dict[str, Any] = {
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "logging_strategy": "steps",
    "logging_steps": LINE,
}


def lines_of(trainer: Any) -> list[dict[str, float]]:
    return [line for line in trainer.state.log_history if "loss" in line]


def expected() -> list[dict[str, float]]:
    """Count by hand what each line is of: its updates, of one epoch or two."""
    batches = [batch for epoch in range(2) for batch in PLANNER(epoch)]
    found = []
    for first in range(0, len(batches), 2 * LINE):
        some = [LENGTHS[batch] for batch in batches[first : first + 2 * LINE]]
        real = sum(int(each.sum()) for each in some)
        cells = sum(int(each.max()) * each.size for each in some)
        found.append({"tokens": real / LINE, "padding": 1 - real / cells})
    return found


@pytest.mark.usefixtures("no_tensorflow")
def test_tensorboard_gets_the_figures_of_the_plan(tmp_path: Path) -> None:
    evaluation = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": samples_of("gpt2")}
    trainer = trainer_of("gpt2", tmp_path, report_to="tensorboard", **OPTIONS, **evaluation)
    use_plan(trainer, PLANNER)
    trainer.train()
    lines, logged = lines_of(trainer), scalars(tmp_path)
    assert UPDATES % LINE
    assert len(lines) == len(expected()) == 2 * UPDATES // LINE
    for line, figures in zip(lines, expected(), strict=True):
        assert {name: line[name] for name in figures} == pytest.approx(figures)
        assert line["tokens_per_second"] > 0
    for name in ("padding", "tokens", "tokens_per_second", "dispersion"):
        steps, values = zip(*logged[f"train/{name}"], strict=True)
        assert steps == tuple(line["step"] for line in lines)
        assert values == pytest.approx([line[name] for line in lines], rel=1e-5)
    assert "padding" not in trainer.state.log_history[-1]  # the end of training


def test_dispersion_is_that_of_the_plan(tmp_path: Path) -> None:
    trainer = trainer_of("gpt2", tmp_path, **OPTIONS | {"logging_strategy": "epoch"})
    use_plan(trainer, PLANNER)
    trainer.train()
    found = [line["dispersion"] for line in lines_of(trainer)]
    stats = [PLANNER(epoch).stats(LENGTHS).dispersion for epoch in range(2)]
    assert found == pytest.approx(stats, rel=1e-6)


def test_a_resumed_run_logs_what_is_left(tmp_path: Path) -> None:
    saves = {"save_strategy": "steps", "save_steps": 1}
    use_plan(trainer := trainer_of("gpt2", tmp_path, **OPTIONS, **saves), PLANNER)
    trainer.train()
    resumed = use_plan(trainer_of("gpt2", tmp_path, **OPTIONS), PLANNER)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{UPDATES - 1}"))
    batches = [batch for epoch in range(2) for batch in PLANNER(epoch)]
    left = [batches[2 * (UPDATES - 1) : 4 * LINE], batches[4 * LINE :]]
    found = [line["tokens"] for line in lines_of(resumed)]
    tokens = [sum(int(LENGTHS[batch].sum()) for batch in some) / (len(some) // 2) for some in left]
    assert found[-2:] == pytest.approx(tokens)
