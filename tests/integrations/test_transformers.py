"""`use_plan` gives a Trainer planned batches: what its model reads, its gradient, its position."""

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback

import batchwright as bw
from batchwright.errors import ColumnNotFoundError, PlanError
from batchwright.integrations.transformers import use_plan
from batchwright.integrations.transformers.making import made_planner
from batchwright.torch import FlatTokens, PadCollator
from tests.integrations.trainers import (
    COLLATE,
    LENGTHS,
    model_of,
    samples_of,
    trainer_of,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers warns of is its own


def planner_of(**options: Any) -> bw.Planner:
    return bw.Planner(LENGTHS, max_tokens=120, **{"accumulate": 2} | options)


def planned(planner: bw.Planner, epochs: int) -> list[int]:
    return [int(each) for epoch in range(epochs) for batch in planner(epoch) for each in batch]


class Gradient(TrainerCallback):
    """Keeps the gradient of the first update."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if state.global_step == 0:
            self.found = [each.grad.clone() for each in model.parameters()]


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step == self.step


def test_the_model_reads_what_the_plan_says(tmp_path: Path) -> None:
    trainer = trainer_of("classifier", tmp_path, num_train_epochs=3, gradient_accumulation_steps=2)
    planner = planner_of()
    assert use_plan(trainer, planner) is trainer
    trainer.train()
    assert trainer.read == planned(planner, 3)
    assert trainer.state.global_step == 3 * len(planner) // 2
    assert trainer.state.epoch == 3


@pytest.mark.parametrize("kind", ["classifier", "tagger", "llama", "gpt2", "t5"])
def test_the_gradient_is_that_of_one_batch(kind: str, tmp_path: Path) -> None:
    look = Gradient()
    options = {"gradient_accumulation_steps": 4, "max_steps": 1, "callbacks": [look]}
    trainer = trainer_of(kind, tmp_path, **options)
    planner = planner_of(accumulate=4)
    use_plan(trainer, planner).train()
    model, samples = model_of(kind), samples_of(kind)
    together = itertools.chain.from_iterable(planner(0)[:4])
    model(**COLLATE([samples[index] for index in together])).loss.backward()
    for own, exact in zip(look.found, model.parameters(), strict=True):
        torch.testing.assert_close(own, exact.grad, rtol=1e-4, atol=1e-6)


def test_a_loss_of_the_users_keeps_its_own_count(tmp_path: Path) -> None:
    counts = []

    def loss(outputs, labels, num_items_in_batch=None):
        counts.append(int(num_items_in_batch))
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / (
            num_items_in_batch
        )

    look = Gradient()
    trainer = trainer_of(
        "classifier",
        tmp_path,
        gradient_accumulation_steps=4,
        max_steps=1,
        callbacks=[look],
        compute_loss_func=loss,
        eval_dataset=samples_of("classifier"),
    )
    planner = planner_of(accumulate=4)
    use_plan(trainer, planner)
    counts.clear()  # those of trying what the loss is
    trainer.train()
    together = list(itertools.chain.from_iterable(planner(0)[:4]))
    assert counts == [len(together)] * 4
    found = trainer.evaluate()["eval_loss"]
    whole = COLLATE(samples_of("classifier"))
    with torch.no_grad():
        assert found == pytest.approx(float(trainer.model(**whole).loss), abs=1e-6)


class OwnLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
        loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


def test_a_trainers_own_loss_is_left_as_it_is(tmp_path: Path) -> None:
    look, samples = Gradient(), samples_of("classifier")
    options = {"gradient_accumulation_steps": 4, "max_steps": 1, "callbacks": [look]}
    trainer = trainer_of("classifier", tmp_path, type=OwnLoss, eval_dataset=samples, **options)
    planner = planner_of(accumulate=4)
    use_plan(trainer, planner).train()
    model = model_of("classifier")
    together = itertools.chain.from_iterable(planner(0)[:4])
    model(**COLLATE([samples[index] for index in together])).loss.backward()
    for own, exact in zip(look.found, model.parameters(), strict=True):
        torch.testing.assert_close(own, exact.grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        exact = float(trainer.model.eval()(**COLLATE(samples)).loss)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("step", [2, 6])
def test_a_resumed_run_is_the_same_run(step: int, tmp_path: Path) -> None:
    planner = planner_of()
    updates = len(planner) // 2
    assert step % updates

    def trainer(*callbacks: Any) -> Any:
        options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": step}
        return use_plan(
            trainer_of(
                "classifier",
                tmp_path,
                dropout=0.1,
                gradient_accumulation_steps=2,
                callbacks=list(callbacks),
                **options,
            ),
            planner,
        )

    whole = trainer()
    whole.train()
    first = trainer(StopAt(step + 1))
    first.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-{step}")
    done = len([each for batch in _batches(planner, 2)[: 2 * step] for each in batch])
    assert first.read[:done] + resumed.read == whole.read == planned(planner, 2)
    assert resumed.state.epoch == 2
    assert resumed.state.global_step == whole.state.global_step == 2 * updates
    assert torch.equal(weights(resumed), weights(whole))


def _batches(planner: bw.Planner, epochs: int) -> list[Any]:
    return [batch for epoch in range(epochs) for batch in planner(epoch)]


def test_a_checkpoint_is_continued_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    planner = planner_of()
    options = {"gradient_accumulation_steps": 2, "save_strategy": "epoch"}
    use_plan(trainer_of("llama", tmp_path, num_train_epochs=1, **options), planner).train()
    resumed = use_plan(trainer_of("llama", tmp_path, num_train_epochs=2, **options), planner)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.read == planned(planner, 2)[len(LENGTHS) :]


def test_a_checkpoint_that_was_not_written_to_its_end_is_left_out(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    use_plan(trainer_of("llama", tmp_path, **options, max_steps=3)).train()
    Path(tmp_path, "checkpoint-3", "trainer_state.json").unlink()
    Path(tmp_path, "checkpoint-2", "trainer_state.json").write_text('{"epoch": 0.')
    resumed = use_plan(trainer_of("llama", tmp_path, **options))
    resumed.train(resume_from_checkpoint=True)
    whole = use_plan(trainer_of("llama", tmp_path / "whole", **options))
    whole.train()
    assert resumed.read == whole.read[-len(resumed.read) :]
    assert len(resumed.read) < len(whole.read)
    for path in tmp_path.glob("checkpoint-*/trainer_state.json"):
        path.unlink()
    with pytest.raises(PlanError, match="written to its end"):
        use_plan(trainer_of("llama", tmp_path, **options)).train(resume_from_checkpoint=True)


def test_what_cannot_be_continued_is_refused(tmp_path: Path) -> None:
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    use_plan(trainer_of("llama", tmp_path, **options, gradient_accumulation_steps=2)).train()
    path = f"{tmp_path}/checkpoint-2"
    other = trainer_of("llama", tmp_path, **options, gradient_accumulation_steps=3)
    with pytest.raises(PlanError, match="Resume with gradient_accumulation_steps="):
        use_plan(other, planner_of(accumulate=3)).train(resume_from_checkpoint=path)
    smaller = bw.Planner(LENGTHS, max_tokens=60, seed=42, accumulate=_saved(path)["accumulate"])
    options["gradient_accumulation_steps"] = smaller.accumulate
    with pytest.raises(PlanError, match="Trainer would count wrongly"):
        use_plan(trainer_of("llama", tmp_path, **options), smaller).train(
            resume_from_checkpoint=path
        )
    plain = trainer_of("llama", tmp_path / "plain", **options)
    plain.train()
    with pytest.raises(PlanError, match="written without this plan"):
        use_plan(trainer_of("llama", tmp_path, **options)).train(
            resume_from_checkpoint=f"{tmp_path}/plain/checkpoint-2"
        )


def _saved(checkpoint: str) -> Any:
    state = json.loads(Path(checkpoint, "trainer_state.json").read_text())
    return state["stateful_callbacks"]["PlanCallback"]["attributes"]


def test_a_planner_is_made_of_the_present_batch_size(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(samples_of("classifier")).add_column(
        "text", ["some words"] * len(LENGTHS)
    )
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    trainer = trainer_of("classifier", tmp_path, train_dataset=data, num_train_epochs=1, **options)
    use_plan(trainer)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].numel() <= 4 * LENGTHS.max()
    assert "text" not in batch
    trainer.train()
    assert sorted(trainer.read) == list(range(len(LENGTHS)))
    assert trainer.state.global_step == -(-len(LENGTHS) // 12)  # as many updates as now


def test_a_planner_is_made_of_a_budget(tmp_path: Path) -> None:
    trainer = trainer_of("t5", tmp_path, num_train_epochs=1, gradient_accumulation_steps=2)
    use_plan(trainer, max_tokens=90).train()
    assert trainer.args.gradient_accumulation_steps == 2
    assert sorted(trainer.read) == list(range(len(LENGTHS)))


def test_texts_are_refused(tmp_path: Path) -> None:
    texts = datasets.Dataset.from_dict({"text": ["a b", "c"], "label": [0, 1]})
    trainer = trainer_of("classifier", tmp_path, train_dataset=texts)
    with pytest.raises(ColumnNotFoundError, match="Tokenise the texts first"):
        use_plan(trainer)


def test_settings_that_contradict_the_plan_are_refused(tmp_path: Path) -> None:
    trainer = trainer_of("llama", tmp_path, gradient_accumulation_steps=3)
    with pytest.raises(PlanError, match="gradient_accumulation_steps=3"):
        use_plan(trainer, planner_of())
    with pytest.raises(PlanError, match="give either a Planner or what to make one from"):
        use_plan(trainer, planner_of(), max_tokens=90)
    with pytest.raises(PlanError, match="got a Plan, not a Planner"):
        use_plan(trainer, planner_of()(0))
    use_plan(trainer, planner_of(accumulate=3))
    with pytest.raises(PlanError, match="has a plan already"):
        use_plan(trainer, planner_of(accumulate=3))
    with pytest.raises(PlanError, match="expected a transformers.Trainer"):
        use_plan(None)
    short = trainer_of("llama", tmp_path, train_dataset=samples_of("llama")[:9])
    with pytest.raises(PlanError, match="61 lengths"):
        use_plan(short, planner_of(accumulate=1)).train()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_documents_do_not_read_one_another(kind: str, tmp_path: Path) -> None:
    found = []
    for name in ("packed", "padded"):
        look = Gradient()
        trainer = trainer_of(kind, tmp_path, max_steps=1, callbacks=[look])
        if name == "packed":
            use_plan(trainer, pack=int(LENGTHS.sum()))
        else:
            use_plan(trainer, max_tokens=int(LENGTHS.max()) * len(LENGTHS))
        trainer.train()
        found.append(look.found)
        if name == "packed":
            assert trainer.read == [int(trainer.read[0])]  # one row
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-6)


def test_packing_is_refused_where_documents_would_be_read_together(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="read one another in a BertForTokenClassification"):
        use_plan(trainer_of("tagger", tmp_path), pack=100)


@pytest.mark.parametrize("kind", ["classifier", "tagger", "llama", "gpt2"])
def test_evaluation_is_that_of_one_batch(kind: str, tmp_path: Path) -> None:
    samples, seen = samples_of(kind), []

    def measure(given: Any) -> dict[str, float]:
        seen.append(given)
        return {"rows": float(len(given.predictions))}

    trainer = trainer_of(
        kind,
        tmp_path,
        per_device_eval_batch_size=4,
        eval_dataset=samples,
        compute_metrics=measure,
        include_for_metrics=["inputs", "loss"],
    )
    use_plan(trainer)
    metrics = trainer.evaluate()
    predicted = trainer.predict(samples)
    with torch.no_grad():
        whole = trainer.model.eval()(**COLLATE(samples))
    assert metrics["eval_loss"] == pytest.approx(float(whole.loss), abs=1e-6)
    assert metrics["eval_rows"] == len(samples)
    assert predicted.metrics["test_loss"] == pytest.approx(float(whole.loss), abs=1e-6)
    for index, sample in enumerate(samples):
        assert seen[0].inputs[index][0] == sample["input_ids"][0]
        row = len(sample["input_ids"]) if kind != "classifier" else None
        own, exact = predicted.predictions[index][:row], whole.logits[index][:row].numpy()
        np.testing.assert_allclose(own, exact, atol=1e-5)
        assert np.all(np.atleast_1d(predicted.label_ids[index])[:row] == sample["labels"])


def test_a_sequence_trainer_generates_in_the_order_of_the_data(tmp_path: Path) -> None:
    samples = samples_of("t5")[:20]
    trainer = trainer_of("t5", tmp_path, train_dataset=samples, eval_dataset=samples)
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, use_cpu=True, report_to="none"
    )
    own = Seq2SeqTrainer(trainer.model, arguments, train_dataset=samples, data_collator=COLLATE)
    expected = own.predict(samples, max_length=6)
    found = use_plan(own).predict(samples, max_length=6)
    assert found.predictions.tolist() == expected.predictions.tolist()
    with torch.no_grad():
        exact = float(own.model.eval()(**COLLATE(samples)).loss)
    assert found.metrics["test_loss"] == pytest.approx(exact, abs=1e-6)
    own.train()


def test_flat_tokens_are_trained_on(tmp_path: Path) -> None:
    offsets = np.append(0, np.cumsum(LENGTHS))
    tokens = np.repeat(np.arange(1, LENGTHS.size + 1, dtype=np.uint16), LENGTHS)
    dataset = FlatTokens(tokens, offsets, labels=True)
    trainer = trainer_of("llama", tmp_path, train_dataset=dataset, num_train_epochs=1)
    use_plan(trainer, max_tokens=128)
    trainer.train()
    assert sorted(trainer.read) == list(range(LENGTHS.size))


def test_a_collator_can_be_given(tmp_path: Path) -> None:
    trainer = trainer_of("llama", tmp_path)
    use_plan(trainer, collator=PadCollator(attention_mask=True, pad_to_multiple_of=8))
    assert next(iter(trainer.get_train_dataloader()))["input_ids"].shape[1] % 8 == 0


def test_prompts_that_only_the_trainers_collator_knows_are_not_packed(tmp_path: Path) -> None:
    samples = [
        {"input_ids": each["input_ids"], "completion_mask": [1] * len(each["input_ids"])}
        for each in samples_of("llama")
    ]
    with pytest.raises(PlanError, match="add a column 'labels'"):
        use_plan(trainer_of("llama", tmp_path, train_dataset=samples), pack=200)


def test_the_last_update_may_have_fewer_batches(tmp_path: Path) -> None:
    samples = samples_of("llama", [30] * 7)
    planner = bw.Planner([30] * 7, max_tokens=30, accumulate=2)
    options = {"num_train_epochs": 2, "gradient_accumulation_steps": 2, "save_strategy": "steps"}
    options |= {"save_steps": 1, "train_dataset": samples}
    whole = use_plan(trainer_of("llama", tmp_path, **options), planner)
    whole.train()
    for step in (3, 5):
        resumed = use_plan(trainer_of("llama", tmp_path / "resumed", **options), planner)
        resumed.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-{step}")
        assert resumed.read == whole.read[-len(resumed.read) :]
        assert torch.equal(weights(resumed), weights(whole))


def test_a_trainer_can_be_used_again(tmp_path: Path) -> None:
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = use_plan(trainer_of("classifier", tmp_path, **options, ignore_data_skip=True))
    trainer.train()
    whole = list(trainer.read)
    trainer.read.clear()
    trainer.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")
    assert trainer.read == whole[-len(trainer.read) :]
    assert 0 < len(trainer.read) < len(whole)


def test_evaluation_data_without_lengths_is_evaluated_as_before(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from samples_of("llama")[:8]

    trainer = use_plan(trainer_of("llama", tmp_path, eval_dataset=Stream()))
    with torch.no_grad():
        exact = float(trainer.model.eval()(**COLLATE(samples_of("llama")[:8])).loss)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(exact, abs=1e-6)


def test_updates_of_similar_lengths_are_warned_of_with_a_cure(tmp_path: Path) -> None:
    lengths = np.random.default_rng(1).lognormal(3, 0.8, 1_200).clip(2, 60).astype(int)
    data = samples_of("llama", lengths)

    def made(**options: Any) -> Any:
        trainer = trainer_of("llama", tmp_path, **options)
        trainer.train_dataset = data
        return trainer

    with pytest.warns(UserWarning, match="samples of similar length") as seen:
        use_plan(made(per_device_train_batch_size=32))
    (said,) = [str(each.message) for each in seen if "similar length" in str(each.message)]
    assert "per_device_train_batch_size=4, gradient_accumulation_steps=8" in said


@pytest.mark.parametrize("spread", [0.5, 0.8, 1.1])
def test_a_trainer_that_accumulates_keeps_its_batches_where_fewer_do_not_mix(
    tmp_path: Path, spread: float
) -> None:
    lengths = np.random.default_rng(1).lognormal(3, spread, 1_200).clip(2, 300).astype(int)
    trainer = trainer_of(
        "llama", tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=8
    )
    trainer.train_dataset = samples_of("llama", lengths)
    planner = made_planner(
        trainer, max_tokens=None, batch_size=None, pack=None, joins=False, compares=False
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        use_plan(trainer)
    assert not [each for each in seen if "similar length" in str(each.message)]
    assert trainer.args.gradient_accumulation_steps == planner.accumulate <= 8
    updates = planner(0).stats(lengths)
    assert updates.dispersion <= 1
    assert updates.step_tokens_mean == pytest.approx(32 * lengths.mean(), rel=0.1)
