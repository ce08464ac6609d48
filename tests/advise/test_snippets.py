"""The snippets of `advise` run as they are pasted, under the frameworks that they are for."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import batchwright as bw
from batchwright.advise import FRAMEWORKS, Advice, profile_data, snippet
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = np.random.default_rng(0).lognormal(3, 0.7, 60).clip(2, 64).astype(int)
DATA = profile_data(LENGTHS, max_tokens=256)

DYNAMIC = Advice("dynamic batching", "use", ".", settings={"batching": "TokenBudget(256)"})
CUT = Advice("cut", "use", ".", settings={"batching": 'TokenBudget(48, oversize="truncate")'})
BF16 = Advice("mixed precision", "use", ".", settings={"precision": 'Precision("bf16")'})
SHAPES = Advice("static shapes", "use", ".", settings={"batching": "Buckets(3, max_tokens=256)"})
EASY_FIRST = Advice(
    "curriculum", "use", ".", settings={"order": "Curriculum(scores, epochs=EPOCHS / 2)"}
)
SELF_PACED = Advice(
    "self-paced",
    "use",
    ".",
    settings={"order": "SelfPaced(LossTable(num_samples), noise_rate=0.20)"},
)
DISTINCT = Advice(
    "deduplication",
    "use",
    ".",
    settings={"lengths": "lengths[kept], where kept = first_of_each(samples)"},
)
TOKENS = Advice("other tokens per update", "use", ".", settings={"step_tokens": "700"})

# What a reader has before pasting, by framework; and what must hold behind the snippet.
BEFORE = """\
import numpy as np
import torch

torch.manual_seed(0)
lengths = np.random.default_rng(0).lognormal(3, 0.7, 60).clip(2, 64).astype(int)
scores = np.random.default_rng(1).random(60)
STEP_TOKENS, EPOCHS, OUTPUT_DIR = 500, 2, "trained"
seen = []


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return len(lengths)

    def __getitem__(self, index):
        seen.append(index)
        tokens = torch.arange(lengths[index]) % 30 + 1
        return {"input_ids": tokens, "labels": tokens}


dataset = Tokens()
"""

AFTER = """\
import sys

planned = [sample for epoch in range(EPOCHS) for batch in planner(epoch) for sample in batch]
assert [int(sample) for sample in seen] == planned, (len(seen), len(planned))
"""

JOBS = {
    "loop": (
        """\
model = torch.nn.Sequential(torch.nn.Embedding(32, 8), torch.nn.Linear(8, 32))
first = model[1].weight.clone()
optimizer = torch.optim.AdamW(model.parameters())
def loss_sum(model, batch):
    scores = model(batch["input_ids"]).transpose(1, 2)
    return torch.nn.functional.cross_entropy(scores, batch["labels"], reduction="sum")
""",
        """\
assert precision.applied == EPOCHS * len(planner) // planner.accumulate
assert not torch.equal(first, model[1].weight)
""",
    ),
    "transformers": (
        """\
from transformers import LlamaConfig, LlamaForCausalLM
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=64,
))
""",
        """\
assert trainer.state.global_step == EPOCHS * len(planner) // planner.accumulate
# use_plan looks at a few samples before.
del seen[: len(seen) - len(planned)]
""",
    ),
    "lightning": (
        """\
import lightning as L
class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Embedding(32, 8), torch.nn.Linear(8, 32))
    def training_step(self, batch, _):
        scores = self.layers(batch["input_ids"]).transpose(1, 2)
        loss = torch.nn.functional.cross_entropy(scores, batch["labels"], reduction="sum")
        return self.trainer.datamodule.mean(loss)
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())
module = Module()
""",
        """\
assert trainer.global_step == EPOCHS * len(planner) // planner.accumulate
""",
    ),
    "keras": (
        """\
import keras
def fetch(indices):
    seen.extend(indices.tolist())
    cut = lengths[indices].clip(max=planner(0).layout.max_length)
    width = 64 if width_is_fixed else cut.max()
    real = np.arange(width) < cut[:, None]
    tokens = np.where(real, np.arange(width) % 30 + 1, 0)
    return tokens, tokens[..., None].astype("float32"), real.astype("float32")
def BUILD_MODEL():
    model = keras.Sequential([keras.layers.Embedding(32, 8), keras.layers.Dense(1)])
    steps = planner.accumulate if planner.accumulate > 1 else None
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=steps)
    model.compile(optimizer, keras.losses.MeanSquaredError(reduction="sum"))
    return model
width_is_fixed = False
""",
        """\
# Keras fetches one batch more, to learn the shapes.
del seen[: len(seen) - len(planned)]
""",
    ),
}


def code_of(framework: str, *advice: Advice) -> str:
    before, after = JOBS[framework]
    pasted = snippet(list(advice), DATA, framework)
    planned, check = AFTER.split("assert", 1)
    return "\n".join([BEFORE, before, pasted, planned, after, "assert" + check])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "advice"),
    [
        ("loop", (DYNAMIC, SELF_PACED, TOKENS)),
        *((each, (DYNAMIC, BF16, EASY_FIRST)) for each in FRAMEWORKS if each != "keras"),
        *((each, (CUT,)) for each in FRAMEWORKS if each != "keras"),
        ("keras", (CUT, BF16, EASY_FIRST)),
    ],
)
def test_a_snippet_trains_what_the_plan_says(framework, advice, tmp_path):
    code = code_of(framework, *advice)
    # Keras chooses its backend when it is imported; GPUs are hidden from a process.
    if framework == "keras" or torch.cuda.is_available():
        _run_alone(code, tmp_path)
        return
    random = torch.get_rng_state()
    try:
        with contextlib.chdir(tmp_path), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the frameworks warn of is theirs
            exec(compile(code, framework, "exec"), {"__name__": "__main__"})  # noqa: S102
    finally:
        torch.set_rng_state(random)


def _run_alone(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(ROOT / "src"), "KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_advised_order_is_written(framework):
    code = snippet([DYNAMIC, EASY_FIRST], DATA, framework)
    assert "order=bw.Curriculum(scores, epochs=EPOCHS / 2)" in code
    assert "# scores: one value for each sample" in code
    unsure = dataclasses.replace(EASY_FIRST, verdict="cannot tell")
    assert "order=" not in snippet([DYNAMIC, unsure], DATA, framework)


def test_an_order_by_live_losses_is_written():
    code = snippet([SELF_PACED], DATA)
    assert "order=bw.SelfPaced(table, noise_rate=0.20)" in code
    assert "table = bw.LossTable(len(lengths))" in code


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_of_several_equal_samples_is_kept(framework):
    code = snippet([DISTINCT, EASY_FIRST], DATA, framework)
    compile(code, framework, "exec")
    assert "kept = first_of_each(texts)" in code
    assert "bw.Curriculum(np.asarray(scores)[kept]" in code
    assert ("fetch(kept[indices])" if framework == "keras" else "Subset(dataset, kept") in code


def test_the_loop_without_duplicates_trains_on_the_others():
    texts = [str(min(index, 50)) for index in range(60)]
    names = {"__name__": "__main__", "texts": texts}
    pasted = snippet([DYNAMIC, DISTINCT], DATA, epochs=1)
    code = f"{BEFORE}\n{JOBS['loop'][0]}\n{pasted}"
    exec(compile(code, "loop", "exec"), names)  # noqa: S102
    assert sorted(map(int, names["seen"])) == list(range(51))


def test_tokens_per_update_are_written():
    assumed = snippet([DYNAMIC], DATA)
    assert f"step_tokens={DATA.step_tokens}" in assumed
    assert f"# step_tokens: those of {DATA.batch_size} samples, assumed" in assumed
    assert "step_tokens=700" in snippet([TOKENS], DATA)
    assert "step_tokens=600" in snippet([DYNAMIC], DATA, step_tokens=600)
    assert "step_tokens=700" in snippet([TOKENS], DATA, step_tokens=600)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_updates_keep_their_tokens_whatever_is_advised(framework):
    lengths = np.array([17] * 20_000 + [100_000])
    data = profile_data(lengths, batch_size=8)
    within = Advice("", "use", "", settings={"batching": f"TokenBudget({data.budget})"})
    for advice in ([], [within]):
        lines = snippet(advice, data, framework).splitlines()
        (code,) = (line for line in lines if line.startswith("planner = "))
        planner = eval(code.removeprefix("planner = "), {"bw": bw, "lengths": lengths})  # noqa: S307
        updates = len(planner) / planner.accumulate
        assert updates == pytest.approx(len(lengths) / 8, rel=0.01)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_a_task_says_is_filled_in(framework):
    code = snippet([DYNAMIC, BF16], DATA, framework, step_tokens=600, epochs=7)
    assert "EPOCHS" not in code
    assert "STEP_TOKENS" not in code
    assert "7" in code


def test_an_order_by_length_needs_no_scores():
    order = {"order": "Curriculum(lengths, epochs=2)"}
    code = snippet([Advice("curriculum", "use", ".", settings=order)], DATA)
    assert "order=bw.Curriculum(lengths, epochs=2)" in code
    assert "higher is harder" not in code


@pytest.mark.parametrize("framework", ["loop", "transformers", "lightning"])
def test_advised_shapes_reach_the_collator(framework):
    code = snippet([DYNAMIC, SHAPES], DATA, framework)
    assert "bw.Buckets(3, max_tokens=256)" in code
    assert "shapes=planner(0).layout.shapes" in code
    assert "shapes=" not in snippet([DYNAMIC], DATA, framework)


@pytest.mark.parametrize(
    ("mode", "written"),
    [
        ("bf16", ("bf16=True", '"bf16-mixed"', '"mixed_bfloat16"')),
        ("fp16", ("fp16=True", '"16-mixed"', '"mixed_float16"')),
        ("auto", ("bf16=False", '"32-true"', '"float32"')),
    ],
)
def test_each_framework_has_its_name_for_a_precision(mode, written):
    advice = dataclasses.replace(BF16, settings={"precision": f'Precision("{mode}")'})
    for framework, name in zip(("transformers", "lightning", "keras"), written, strict=True):
        assert name in snippet([DYNAMIC, advice], DATA, framework)


def test_the_orders_that_are_written_exist():
    for name in ("Curriculum", "SelfPaced", "LossTable", "Mixture"):
        assert hasattr(bw, name)
