"""Cures: they run, in the framework that was seen, and plan what the gain says."""

import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from batchwright.doctor.cures import cure_of, settings_of
from batchwright.doctor.gains import Gain, gain_of, save_lengths
from batchwright.doctor.records import Products, Run
from batchwright.doctor.scripts import diff_of, with_loader, with_use_plan
from tests.docs.blocks import ROOT, blocks_of
from tests.doctor.runs import run_of, shared, shuffles
from tests.patience import PATIENCE

LENGTHS = np.array([3, 9, 4, 12, 5, 7, 2, 8] * 20)


def run(**options) -> Run:
    framework = options.pop("framework", "torch")
    options = {"lengths": LENGTHS, "batch_size": 16, "rank": {"framework": framework}} | options
    return run_of(*shuffles(len(LENGTHS), 2), **options)


def uncut(run: Run) -> Gain:
    """Leave updates of one batch as they are."""
    gain = gain_of(run)
    assert gain is not None
    return replace(gain, planned_batch_size=gain.batch_size, planned_accumulate=gain.accumulate)


def script_of(page: str, title: str) -> str:
    text = (ROOT / "docs" / "frameworks" / page).read_text(encoding="utf-8")
    return next(
        block.code
        for block in blocks_of(text)
        if block.title == title and block.language == "python"
    )


def executed(code, **names):
    """Run lines to copy with what is the user's."""
    exec("\n".join(code), names)  # noqa: S102 -- that they run is what is shown
    return names


# Lines to copy


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_lengths(run(), "lengths.npy")
    return tmp_path


def test_lines_for_a_loop_plan_the_same_updates(here: Path) -> None:
    torch = pytest.importorskip("torch")
    seen = run()
    cure = cure_of(seen, uncut(seen))
    assert not cure.is_diff
    assert "PlanLoader" in cure.text
    dataset = [torch.full((n,), n) for n in LENGTHS]
    collate = torch.nn.utils.rnn.pad_sequence
    names = executed(cure.code, dataset=dataset, collate=lambda each: collate(each, True), epochs=2)
    names["loader"].set_epoch(2)
    assert len(names["loader"]) == 10
    assert sum(int((each > 0).sum()) for each in names["loader"]) == LENGTHS.sum()


def test_lines_for_a_loop_that_accumulates_have_the_exact_gradient(here: Path) -> None:
    torch = pytest.importorskip("torch")
    seen = run()
    gain = gain_of(seen)
    assert gain is not None
    assert gain.is_cut
    cure = cure_of(seen, gain)
    assert f"{gain.planned_batch_size} samples × {gain.planned_accumulate}" in cure.text
    model = torch.nn.Sequential(torch.nn.Embedding(16, 4), torch.nn.Linear(4, 16))
    pad = torch.nn.utils.rnn.pad_sequence

    def collate(samples):
        return {"tokens": pad(samples, True), "labels": pad(samples, True, -100)}

    def loss_sum(model, batch):
        scores = model(batch["tokens"]).transpose(1, 2)
        return torch.nn.functional.cross_entropy(scores, batch["labels"], reduction="sum")

    names = executed(
        cure.code,
        dataset=[torch.full((n,), n) for n in LENGTHS],
        collate=collate,
        epochs=1,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        LOSS_SUM=loss_sum,
    )
    assert names["precision"].applied * gain.planned_accumulate == len(names["loader"])


def test_lines_of_a_script_that_is_not_in_sight_ask_for_what_is_unknown() -> None:
    part = run(loader={"num_samples": 5_000})
    code = "\n".join(cure_of(part, uncut(part)).code)
    assert "lengths = [LENGTH(sample) for sample in dataset]" in code
    assert "numpy" not in code
    assert "lengths.npy" not in code


def test_lines_name_ranks_precision_and_the_accelerator() -> None:
    seen = run_of(
        *map(shared, shuffles(len(LENGTHS), 2)),
        lengths=LENGTHS,
        batch_size=16,
        rank={"framework": "accelerate", "products": Products(autocast="bf16")},
    )
    gain = uncut(seen)
    assert settings_of(gain) == "lengths, batch_size=16, world_size=2"
    code = "\n".join(cure_of(seen, gain).code)
    assert 'Precision("bf16")' in code
    assert "accelerator.prepare(model, optimizer, loader)" in code
    assert "world_size=2" in code


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*val_dataloader:UserWarning", "ignore::FutureWarning")
def test_lines_for_lightning_run(here: Path) -> None:
    lightning = pytest.importorskip("lightning")
    torch = pytest.importorskip("torch")
    seen = run(framework="lightning")
    gain = gain_of(seen)
    assert gain is not None
    names = runpy_of(script_of("lightning.md", "train.py").partition("\ntrainer.fit(")[0])
    loss_sum = torch.nn.functional.cross_entropy

    class Net(names["Net"]):
        def training_step(self, batch, _):
            scores = self.layers(batch["tokens"]).transpose(1, 2)
            loss = loss_sum(scores, batch["labels"], reduction="sum")
            return self.trainer.datamodule.mean(loss)

    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    given = {each: names[each] for each in ("dataset", "collate")}
    executed(cure_of(seen, gain).code, trainer=trainer, module=Net(), **given)
    assert trainer.accumulate_grad_batches == gain.planned_accumulate
    assert trainer.global_step == 10


def runpy_of(code: str):
    path = Path("script.py")
    path.write_text(code, encoding="utf-8")
    return runpy.run_path(str(path))


@pytest.mark.slow
def test_lines_for_keras_run(here: Path) -> None:
    seen = run(framework="keras")
    gain = gain_of(seen)
    assert gain is not None
    calls = []
    model = SimpleNamespace(fit=lambda *values, **options: calls.append((values, options)))
    code = cure_of(seen, gain).code
    assert any(f"gradient_accumulation_steps={gain.planned_accumulate}" in each for each in code)
    pytest.importorskip("keras")
    executed(
        code, FETCH=lambda indices: (indices, indices, np.ones(len(indices))), model=model, epochs=3
    )
    assert calls[0][1]["epochs"] == 3
    assert calls[0][1]["shuffle"] is False


def test_a_stream_is_planned_as_it_arrives() -> None:
    torch = pytest.importorskip("torch")
    seen = run(loader={"num_samples": None, "has_indices": False}, accumulate=8, batch_size=4)
    gain = gain_of(seen)
    assert gain is not None
    assert gain.is_stream
    cure = cure_of(seen, gain)
    assert "StreamDataset" in cure.text
    tokens = [torch.full((n,), n) for n in LENGTHS]
    names = executed(
        cure.code,
        dataset=tokens,
        collate=lambda each: torch.nn.utils.rnn.pad_sequence(each, True),
        epochs=1,
        NUM_WORKERS=0,
    )
    names["stream"].set_epoch(1)
    assert sum(int((each > 0).sum()) for each in names["loader"]) == LENGTHS.sum()


def test_rows_that_are_padded_to_one_width_come_first() -> None:
    seen = run(batch={"width": 128})
    gain = gain_of(seen)
    assert gain is not None
    assert cure_of(seen, gain).text.startswith(
        "Pad each batch to its longest sample, not every one to 128 tokens."
    )


# Diffs


def test_a_loop_gets_a_diff_that_runs(here: Path) -> None:
    pytest.importorskip("torch")
    script = here / "loop.py"
    script.write_text(script_of("torch.md", "loop.py"), encoding="utf-8")
    seen = run(command=("python", "loop.py"))
    cure = cure_of(seen, uncut(seen))
    assert cure.is_diff
    assert any(line.startswith("-loader = DataLoader(") for line in cure.code)
    changed = with_loader(script.read_text("utf-8"), settings_of(uncut(seen)), "lengths.npy")
    assert changed is not None
    assert patched(script, cure.code) == changed
    names = runpy_of(changed)
    assert type(names["loader"]).__name__ == "PlanLoader"
    assert names["loader"].epoch == 1


def patched(script: Path, code) -> str:
    """Apply a diff as people do."""
    Path("cure.diff").write_text("\n".join(code) + "\n", encoding="utf-8")
    copy = script.with_name(f"copy_of_{script.name}")
    copy.write_text(script.read_text("utf-8"), encoding="utf-8")
    subprocess.run(["patch", "--quiet", copy.name, "cure.diff"], check=True, timeout=PATIENCE)
    return copy.read_text("utf-8")


def test_accelerate_gets_a_diff_of_its_loader(here: Path) -> None:
    script = here / "train.py"
    script.write_text(script_of("accelerate.md", "train.py"), encoding="utf-8")
    seen = run(command=("accelerate", "launch", "train.py"), framework="accelerate")
    cure = cure_of(seen, uncut(seen))
    assert cure.is_diff
    lines = [
        '+    lengths = np.load("lengths.npy")',
        "+    loader = PlanLoader(dataset, bw.Planner(lengths, batch_size=16), collate_fn=collate)",
        "+        loader.set_epoch(epoch)",
    ]
    assert set(lines) <= set(cure.code)


@pytest.mark.slow
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_trainer_gets_a_diff_that_runs(here: Path, is_cut: bool) -> None:
    pytest.importorskip("transformers")
    script = here / "train.py"
    script.write_text(script_of("transformers.md", "train.py"), encoding="utf-8")
    seen = run(command=("python", "train.py"), framework="transformers", batch_size=8)
    gain = uncut(seen)
    if is_cut:
        gain = replace(gain, planned_batch_size=2, planned_accumulate=4)
    cure = cure_of(seen, gain)
    assert cure.is_diff
    assert "+use_plan(trainer)" in cure.code
    assert any("gradient_accumulation_steps=4" in line for line in cure.code) == is_cut
    script.write_text(patched(script, cure.code), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "train.py"],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nloader = make()\n",  # no loader
        "from x import DataLoader\na = DataLoader(d, shuffle=True)\nb = DataLoader(d, shuffle=True)\n",
        "from x import DataLoader\na = DataLoader(d, shuffle=True)\nfor b in a:\n    pass\n",  # no epochs
        "from x import DataLoader\na = DataLoader(d, shuffle=True)\nfor _ in r:\n  for b in a:\n    pass\n",
        "from x import DataLoader\na = DataLoader(d, **options)\n",
    ],
)
def test_a_loop_that_is_not_understood_is_left(source: str) -> None:
    assert with_loader(source, "lengths, batch_size=4", "lengths.npy") is None


@pytest.mark.parametrize(
    "source",
    [
        "from x import Trainer\ntrainer = make()\ntrainer.train()\n",
        "from x import Trainer\ntrainer = Trainer()\n",
        "from x import Trainer\na = Trainer()\nb = Trainer()\na.train()\nb.train()\n",
    ],
)
def test_a_trainer_that_is_not_understood_is_left(source: str) -> None:
    assert with_use_plan(source, {}) is None


def test_settings_of_a_trainer_are_changed_or_added() -> None:
    source = (
        "from x import SFTTrainer, SFTConfig\n"
        "def main():\n"
        '    args = SFTConfig("é", per_device_train_batch_size=opts.size,\n'
        "        lr=1)\n"
        "    trainer = SFTTrainer(args)\n"
        "    trainer.train()\n"
    )
    wanted = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8}
    assert with_use_plan(source, wanted) == (
        "from x import SFTTrainer, SFTConfig\n"
        "from batchwright.integrations.transformers import use_plan\n"
        "def main():\n"
        '    args = SFTConfig("é", per_device_train_batch_size=4,\n'
        "        lr=1, gradient_accumulation_steps=8)\n"
        "    trainer = SFTTrainer(args)\n"
        "    use_plan(trainer)\n"
        "    trainer.train()\n"
    )
    assert with_use_plan(source.replace("SFTConfig(", "make("), wanted) is not None
    several = source + "other = TrainingArguments(1)\n"
    assert with_use_plan(several, wanted) is None


@pytest.mark.parametrize(
    "text",
    [
        "x = (",
        "from x import Trainer; t = Trainer()\nif y: t.train()\n",
        "t = Trainer()\nt.train()\n",
    ],
)
def test_a_diff_is_of_what_can_be_read(tmp_path: Path, text: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(text, encoding="utf-8")
    assert diff_of([str(script)]) is None


def test_no_script_no_diff(tmp_path: Path) -> None:
    assert diff_of(["python", str(tmp_path / "absent.py")]) is None
    assert diff_of(["python", "-m", "train"]) is None
    assert diff_of([]) is None
