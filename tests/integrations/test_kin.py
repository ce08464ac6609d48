"""`use_plan` on trainers of TRL, PEFT and sentence-transformers: gradients, evaluation, refusals."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import Trainer, TrainerCallback
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

import batchwright as bw
from batchwright.errors import PlanError
from batchwright.integrations.transformers import use_plan
from batchwright.integrations.transformers.training import _Training
from batchwright.torch import PackCollator
from tests.integrations.kin import completions, kin_of, pairs, sentences_of, sft_of
from tests.integrations.trainers import (
    COLLATE,
    LENGTHS,
    model_of,
    samples_of,
    trainer_of,
    weights,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEP = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}


class First(TrainerCallback):
    """Keeps the first update's gradient, with the parameters that it is of."""

    def on_train_begin(self, args, state, control, model=None, **_):
        self.began = {name: value.clone() for name, value in model.state_dict().items()}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if state.global_step == 0:
            named = model.named_parameters()
            self.found = {name: each.grad.clone() for name, each in named if each.grad is not None}


def loss_of(kind: str, trainer: Any, samples: list[Any]) -> Any:
    """Compute the loss of one batch of samples, as the library defines it."""
    if kind in {"rows", "reward", "dpo"}:
        return type(trainer).compute_loss(trainer, trainer.model, trainer.data_collator(samples))
    whole = []  # documents, where TRL has packed them
    for each in samples:
        ends = list(itertools.accumulate(each.get("seq_lengths", [len(each["input_ids"])])))
        for begin, end in itertools.pairwise([0, *ends]):
            whole.append({name: each[name][begin:end] for name in ("input_ids", "labels")})
    return trainer.model(**DataCollatorForLanguageModeling(0)(whole)).loss


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sft": ("sft", {}, {}),
    "lora": ("lora", {}, {}),
    "checkpointing": ("lora", {"gradient_checkpointing": True}, {}),
    "packed": ("sft", {}, {"pack": 60}),
    "gpt2": ("sft", {"model": "gpt2"}, {"pack": 60}),
    "own rank's tokens": ("sft", {"average_tokens_across_devices": False}, {}),
    "padding-free": ("sft", {"padding_free": True, "max_length": None}, {}),
    "packed by TRL": ("sft", {"packing": True, "max_length": 100}, {}),
    "rows": ("rows", {}, {"max_tokens": 300}),
    "reward": ("reward", {"center_rewards_coefficient": 0.1}, {}),
    "dpo": ("dpo", {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_one_batch(case: str, tmp_path: Path) -> None:
    kind, options, plan = CASES[case]
    look = First()
    trainer = use_plan(kin_of(kind, tmp_path, callbacks=[look], **STEP, **options), **plan)
    loader = trainer.get_train_dataloader()
    accumulate = trainer.args.gradient_accumulation_steps
    assert accumulate > 1
    update = itertools.chain(*list(loader.planned)[:accumulate])
    trainer.train()
    trainer.model.load_state_dict(look.began)
    trainer.model.zero_grad()
    loss_of(kind, trainer, [trainer.train_dataset[int(each)] for each in update]).backward()
    exact = {name: each.grad for name, each in trainer.model.named_parameters()}
    largest = max(float(each.abs().max()) for each in exact.values() if each is not None)
    for name, own in look.found.items():
        torch.testing.assert_close(own, exact[name], rtol=1e-4, atol=2e-6 * largest)


@pytest.mark.parametrize("kind", ["classifier", "llama"])
def test_an_adapter_is_trained_evaluated_and_resumed(kind: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    task = {"classifier": "SEQ_CLS", "llama": "CAUSAL_LM"}[kind]
    targets = {"classifier": ["query", "value"], "llama": ["q_proj", "v_proj"]}[kind]
    settings = LoraConfig(task_type=task, r=4, target_modules=targets, lora_dropout=0.1)
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3}
    options |= {"gradient_accumulation_steps": 4}

    def trainer() -> Any:
        torch.manual_seed(0)
        model = get_peft_model(model_of(kind), settings)
        made = trainer_of(kind, tmp_path, model=model, eval_dataset=samples_of(kind), **options)
        return use_plan(made, max_tokens=120)

    whole, resumed = trainer(), trainer()
    whole.train()
    resumed.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-3")
    assert 0 < len(resumed.read) < len(whole.read) == 2 * len(LENGTHS)
    assert resumed.read == whole.read[-len(resumed.read) :]
    assert torch.equal(weights(resumed), weights(whole))
    with torch.no_grad():
        exact = float(whole.model.eval()(**COLLATE(samples_of(kind))).loss)
    assert whole.evaluate()["eval_loss"] == pytest.approx(exact, abs=1e-6)


def test_evaluation_is_that_of_one_batch(tmp_path: Path) -> None:
    def evaluated(size: int, *, plan: bool) -> Any:
        trainer = sft_of(tmp_path, eval_dataset=completions(), per_device_eval_batch_size=size)
        (use_plan(trainer) if plan else trainer).evaluate()
        names = ("eval_loss", "eval_entropy", "eval_mean_token_accuracy")
        return {name: trainer.state.log_history[0][name] for name in names}

    whole = evaluated(len(LENGTHS), plan=False)
    assert evaluated(4, plan=True) == pytest.approx(whole, abs=1e-6)
    assert evaluated(4, plan=False) != pytest.approx(whole, abs=1e-6)
    trainer = use_plan(sentences_of(tmp_path, "CosineSimilarityLoss", eval_dataset=pairs()))
    batch = trainer.data_collator(list(pairs()))
    with torch.no_grad():
        exact = float(type(trainer).compute_loss(trainer, trainer.model.eval(), batch))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("kind", ["sft", "rows", "dpo", "reward"])
def test_no_batch_exceeds_the_budget(kind: str, tmp_path: Path) -> None:
    trainer = use_plan(kin_of(kind, tmp_path), max_tokens=200)
    sizes = [
        sum(each.numel() for name, each in batch.items() if name.endswith("input_ids"))
        for batch in trainer.get_train_dataloader()
    ]
    assert 150 < max(sizes) <= 200


def test_predictions_are_in_the_order_of_the_data(tmp_path: Path) -> None:
    trainer = sft_of(tmp_path, lora=True)
    data = trainer.train_dataset
    found = use_plan(trainer).predict(data).predictions
    for index in (0, 30, 60):
        batch = trainer.data_collator([data[index]])
        with torch.no_grad():
            own = trainer.model.eval()(**batch).logits[0]
        torch.testing.assert_close(torch.tensor(found[index][: len(own)]), own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("own", ["args", "collator"])
def test_packed_rows_are_evaluated_as_documents(own: str, tmp_path: Path) -> None:
    samples = sft_of(tmp_path).train_dataset.select_columns(["input_ids", "labels"])
    options = {"train_dataset": samples, "eval_dataset": samples, "use_cache": True}
    trainer = trainer_of("llama", tmp_path, **options)
    with torch.no_grad():
        exact = float(trainer.model.eval()(**DataCollatorForLanguageModeling(0)(samples)).loss)
    trainer = trainer_of("llama", tmp_path, data_collator=PackCollator(), **options)
    if own == "args":
        use_plan(trainer)
    else:
        use_plan(trainer, collator=DataCollatorForLanguageModeling(0))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(exact, abs=1e-6)


def test_what_contradicts_a_plan_is_refused(tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from trl import GRPOConfig, GRPOTrainer

    with pytest.raises(PlanError, match=r"packing=True\) has packed the data already"):
        use_plan(sft_of(tmp_path, packing=True, max_length=100), pack=100)
    for sampler in ("no_duplicates", "group_by_label"):
        trainer = sentences_of(tmp_path, "CosineSimilarityLoss", batch_sampler=sampler)
        with pytest.raises(PlanError, match=f"batch_sampler='{sampler}' says what shares a batch"):
            use_plan(trainer)
    with pytest.raises(PlanError, match="documents to pack are 'input_ids'"):
        use_plan(kin_of("dpo", tmp_path), pack=100)
    several = datasets.DatasetDict({"one": pairs(), "two": pairs()})
    with pytest.raises(PlanError, match=r"a DatasetDict of \['one', 'two'\]"):
        use_plan(sentences_of(tmp_path, "CosineSimilarityLoss", train_dataset=several))
    stream = completions().to_iterable_dataset()
    with pytest.raises(PlanError, match="is a stream"):
        use_plan(sft_of(tmp_path, train_dataset=stream, max_steps=1))
    prompted = sft_of(tmp_path)
    prompted.model = get_peft_model(
        prompted.model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with pytest.raises(PlanError, match="puts its prompt before the first document"):
        use_plan(prompted, pack=100)
    settings = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    other = sft_of(tmp_path)
    chooses = GRPOTrainer(
        other.model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=settings,
        train_dataset=completions(),
        processing_class=other.processing_class,
    )
    with pytest.raises(PlanError, match=r"GRPOTrainer\.get_train_dataloader chooses batches"):
        use_plan(chooses)


def test_a_loss_that_compares_rows_keeps_their_number(tmp_path: Path) -> None:
    trainer = kin_of("batch", tmp_path, per_device_train_batch_size=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use_plan(trainer)
    sizes = [len(batch) for batch in trainer.get_train_dataloader().planned]
    assert max(sizes) == 5
    assert sizes.count(5) >= 10
    with pytest.warns(UserWarning, match="depends on what shares a batch"):
        use_plan(kin_of("batch", tmp_path), max_tokens=400)


class Network(torch.nn.Module):
    """Returns a loss of its own kind."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.scores = kind, torch.nn.Embedding(80, 80)

    def forward(self, input_ids, labels=None, attention_mask=None):
        scores = self.scores(input_ids)
        losses = torch.nn.functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none")
        count = (labels != -100).sum(dim=1)
        rows = losses.sum(dim=1) / count
        loss = {
            "labels": losses.sum() / count.sum(),
            "rows": rows.mean(),
            "own": losses.sum(),
            "batch": torch.logsumexp(rows[:, None] - rows, dim=1).mean(),
        }
        return {"loss": loss[self.kind], "logits": scores}


@pytest.mark.parametrize("kind", ["labels", "rows", "own", "batch"])
def test_what_a_loss_is_a_mean_over_is_found(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = trainer_of("llama", tmp_path)
    for count in (len(LENGTHS), 3):
        data = trainer.train_dataset[:count]
        other = Trainer(
            Network(kind), trainer.args, train_dataset=data, data_collator=trainer.data_collator
        )
        assert _Training(other).kind == kind


class Mean(Trainer):
    """Has a mean of its own, and takes no account of the others."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.seen = getattr(self, "seen", 0) + 1
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


class Forgetful(Mean):
    def training_step(self, model, inputs, num_items_in_batch=None):
        return super().training_step(model, inputs)


class Sampling(Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def test_a_mean_of_the_trainers_own_is_weighted(tmp_path: Path) -> None:
    look = First()
    trainer = trainer_of(
        "classifier", tmp_path, type=Mean, callbacks=[look], gradient_accumulation_steps=4
    )
    planner = bw.Planner(LENGTHS, max_tokens=120, accumulate=4)
    generator = torch.get_rng_state()
    use_plan(trainer, planner)
    assert not hasattr(trainer, "seen")  # trying it has left no trace
    assert torch.equal(torch.get_rng_state(), generator)
    trainer.train()
    plain = trainer_of("classifier", tmp_path)
    together = [plain.train_dataset[int(each)] for each in itertools.chain(*planner(0)[:4])]
    plain.model(**plain.data_collator(together)).loss.backward()
    for name, each in plain.model.named_parameters():
        torch.testing.assert_close(look.found[name], each.grad, rtol=1e-4, atol=1e-6)


def test_a_trainer_that_would_be_planned_wrongly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="does not pass num_items_in_batch on"):
        use_plan(trainer_of("classifier", tmp_path, type=Forgetful)).train()
    with pytest.raises(PlanError, match=r"Sampling\._get_train_sampler chooses batches"):
        use_plan(trainer_of("classifier", tmp_path, type=Sampling))


def test_a_sequence_that_is_asked_for_is_kept(tmp_path: Path) -> None:
    trainer = trainer_of("classifier", tmp_path, train_sampling_strategy="sequential")
    use_plan(trainer).train()
    assert trainer.read[: len(LENGTHS)] == list(range(len(LENGTHS)))
