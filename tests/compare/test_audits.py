"""Audits of arms in half precision: after their runs, and without any trace in the outcomes."""

import json

import pytest
from torch.nn.functional import cross_entropy

from batchwright.compare import Settings, Strategy, compare
from batchwright.compare.arm import Arm
from batchwright.compare.probes import UPDATES, audited
from batchwright.compare.race import Race
from batchwright.torch import Precision
from tests.compare.conftest import Counter, make_task

SETTINGS = Settings(evaluations=2, peaks=False)


def comparison_of(task, *names):
    return compare(task, names, seeds=(0,), settings=SETTINGS)


@pytest.mark.slow
def test_only_half_precision_is_audited_layer_by_layer(task):
    result = comparison_of(task, "plain", "planned+bf16")
    assert list(result.audits) == ["planned+bf16"]
    audit = result.audits["planned+bf16"]
    assert json.loads(json.dumps(audit, allow_nan=False)) == audit
    assert (audit["mode"], audit["updates"]) == ("bf16", UPDATES)
    names = [each["name"] for each in audit["layers"]]
    assert names == ["embed", "decide.0", "decide.1"]
    assert audit["num_layers"] == 3
    linear = audit["layers"][-1]
    assert linear["activations"].keys() == {"zero", "flushed", "subnormal", "overflowed"}
    assert 0 <= linear["lost"] <= linear["lost_in_bf16"] <= 1


@pytest.mark.slow
def test_an_audit_leaves_no_trace_in_what_was_measured(task, monkeypatch):
    def learnt(run):
        return [
            (each.name, each.metric, each.spent.tokens, each.spent.updates, len(each.evaluations))
            for each in run
        ]

    names = ("plain", "planned+bf16")
    with_audit = compare(task, names, seeds=(0, 1), settings=SETTINGS)
    assert with_audit.audits
    monkeypatch.setattr(Race, "audits", lambda race: {})
    without = compare(task, names, seeds=(0, 1), settings=SETTINGS)
    assert [learnt(run) for run in with_audit.runs] == [learnt(run) for run in without.runs]
    for run in with_audit.runs:
        for outcome in run:
            assert outcome.spent.seconds >= max(each.seconds for each in outcome.evaluations[:3])


def test_what_is_lost_is_found(task):
    def loss_sum(model, batch):
        return cross_entropy(model(batch["tokens"]) * 1e-8, batch["labels"], reduction="sum")

    arm = Arm(make_task(loss_sum=loss_sum), Strategy.named("planned+bf16"), seed=0)
    audit = audited(arm)
    # Gradients so small vanish in fp16 at its usual scale; in bf16 they are kept.
    assert any("loss scale" in each for each in audit["advice_on_fp16"])
    assert audit["advice"] == []


def test_arms_that_failed_or_train_in_fp32_are_left_alone(task):
    arm = Arm(task, Strategy.named("planned"), seed=0)
    arm.precision = Precision("fp32")
    assert audited(arm) is None
    arm = Arm(task, Strategy.named("planned+bf16"), seed=0)
    arm.update()
    arm.loss = float("nan")
    assert audited(arm) is None


def test_an_audit_that_fails_costs_no_result():
    calls = []

    class Fragile(Counter):
        def forward(self, tokens):
            calls.append(1)
            if len(calls) > 60:
                raise RuntimeError("no memory left")
            return super().forward(tokens)

    arm = Arm(make_task(model=Fragile), Strategy.named("planned+bf16"), seed=0)
    arm.update()
    calls.extend([1] * 60)
    assert audited(arm) == {"mode": "bf16", "failed": "RuntimeError: no memory left"}
