"""Each way in which a task can be wrong is refused in a line, before long work starts."""

import math

import pytest
import torch

from batchwright.compare import check_task
from batchwright.errors import TaskError
from batchwright.torch import PadCollator
from tests.compare.conftest import Counter, loss_sum, make_task


def test_a_good_task_passes_and_random_states_stay(task):
    before = torch.random.get_rng_state()
    check_task(task)
    assert torch.equal(torch.random.get_rng_state(), before)


def of_mean(model, batch):
    return loss_sum(model, batch) / len(batch["labels"])


def of_nothing(model, batch):
    return loss_sum(model, batch) * math.nan


class ReturnsNaN(Counter):
    def forward(self, tokens):
        return super().forward(tokens) * math.nan


MADE = Counter()


class Silent:
    """No module at all."""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_sum": of_mean}, "loss_sum looks like a mean"),
        ({"loss_sum": of_nothing}, "loss_sum returned nan"),
        ({"model": ReturnsNaN}, "loss_sum returned nan"),
        ({"loss_sum": lambda model: 0}, "cannot be called as loss_sum(model, batch)"),
        ({"loss_sum": lambda model, batch: 1.5}, "expected a tensor of one number"),
        ({"loss_sum": lambda model, batch: batch["words"]}, "loss_sum failed with KeyError"),
        ({"model": Silent}, "model returned Silent, expected a torch.nn.Module"),
        ({"model": lambda: MADE}, "model returned the same weights twice"),
        ({"model": lambda: 1 / 0}, "model failed with ZeroDivisionError"),
        ({"optimizer": lambda model: 3}, "optimizer returned int"),
        (
            {"optimizer": lambda model: torch.optim.SGD(Counter().parameters(), 0.1)},
            "optimizer holds no parameter of the model",
        ),
        ({"evaluate": lambda model: None}, "evaluate returned NoneType"),
        ({"evaluate": lambda model: math.nan}, "evaluate returned nan"),
        ({"evaluate": lambda model: model.missing}, "evaluate failed with AttributeError"),
        ({"collate": lambda samples: 1 / 0}, "collate failed with ZeroDivisionError"),
        ({"weigh": lambda batch: 0.0}, "weigh returned 0.0"),
        ({"weigh": lambda batch: "many"}, "weigh returned 'many'"),
    ],
)
def test_a_wrong_task_is_refused_in_a_line(changes, said):
    with pytest.raises(TaskError) as caught:
        check_task(make_task(**changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lengths_of_other_samples_are_refused():
    task = make_task()
    with pytest.raises(TaskError, match="lengths do not match the samples"):
        check_task(make_task(lengths=task.sizes[::-1]))


def test_batches_padded_to_one_length_are_refused():
    task = make_task()

    def to_forty(samples):
        batch = PadCollator()(samples)
        tokens = torch.nn.functional.pad(batch["tokens"], (0, 40 - batch["tokens"].shape[1]))
        return batch | {"tokens": tokens}

    with pytest.raises(TaskError, match="does collate pad to the longest only"):
        check_task(make_task(collate=to_forty))
    check_task(make_task(collate=to_forty, lengths=[40] * len(task.sizes)))


def test_each_column_is_looked_at():
    lengths = make_task().sizes
    with pytest.raises(TaskError, match="lengths, column 1, do not match"):
        check_task(make_task(lengths=[(each, 1 + (i * 7) % 13) for i, each in enumerate(lengths)]))


def test_a_long_sample_that_decides_the_baseline_is_named():
    word = torch.ones(700, dtype=torch.long)
    samples = [*make_task().samples, {"tokens": word, "labels": 1}]
    lengths = [len(sample["tokens"]) for sample in samples]
    options = {"samples": samples, "lengths": lengths, "max_tokens": 800, "step_tokens": 800}
    said = "plain batches hold 1 sample, .* sample 240 of 700 tokens.* Give batch_size"
    with pytest.warns(UserWarning, match=said):
        check_task(make_task(**options))
    check_task(make_task(**options, batch_size=8))
