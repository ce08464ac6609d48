"""Batches of like lengths: do they pay?"""

from batchwright._format import percent
from batchwright.advise.advice import Advice, Gain
from batchwright.advise.rules.evidence import Evidence, worthwhile


def dynamic_batching(evidence: Evidence) -> Advice:
    """Batches of like lengths, as many samples as fit: use it where padding is to be saved.

    Source: what plans of these lengths pad; with a task, updates of both in turns.
    """
    data = evidence.data
    technique = "dynamic batching"
    settings = {"batching": f"TokenBudget({data.max_tokens})"}
    if data.is_constant:
        return Advice(technique, "do not use", "All samples are equally long: nothing is padded.")
    plain, planned = data.efficiency["plain"], data.efficiency["planned"]
    gain = Gain(planned / plain, None, None, "as many real tokens a cell", "computed from the plan")
    why = (
        f"Random batches within {data.max_tokens:,} tokens are {percent(1 - plain)} padding, "
        f"planned ones {percent(1 - planned)}; sorting by length in megabatches, as trainers do, "
        f"leaves {percent(1 - data.efficiency['grouped'])}."
    )
    untested = "what a step of your model costs"
    trial = evidence.trials.get("planned")
    if trial is not None:
        gain, untested = trial.speed, "the metric: batchwright compare"
        why += f" On your task planned batches train {trial.speed.ratio:.2f} × as fast."
    return Advice(technique, worthwhile(gain), why, gain, settings, untested, strategy="planned")
