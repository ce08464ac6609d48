"""What fits into memory: a setting of its own."""

from batchwright._format import mebibytes
from batchwright.advise.advice import Advice, Verdict
from batchwright.advise.rules.evidence import WORTH, Evidence


def memory_budget(evidence: Evidence) -> Advice:
    """A larger budget for batches: what fits, and what the peak is made of.

    It is advised only if memory is what batches are short of: a larger budget makes batches fewer,
    not updates better. Tokens of an update are another setting.

    Source: what `MemoryModel` predicts of the user's own step (`python -m
    benchmarks.memory_prediction` shows how well).
    """
    technique = "a larger memory budget"
    data, model = evidence.data, evidence.model
    if model is None or model.memory is None:
        why = "What fits depends on the model."
        untested = "the memory of a step: advise on a task, or MemoryModel.fit"
        if model is not None:
            why = next((each for each in model.unknown if each.startswith("memory")), why)
            why = why[:1].upper() + why[1:]
            if model.peak_bytes is not None:
                why += f" The largest plain batches took {mebibytes(model.peak_bytes)} MiB."
        return Advice(technique, "cannot tell", why, untested=untested)
    memory = model.memory
    peak = max(size for _, _, size in memory.shapes)
    name, share, cure = memory.parts[0]
    why = (
        f"Batches of {data.max_tokens:,} tokens take up to {mebibytes(peak)} MiB, of which "
        f"{mebibytes(memory.state_bytes)} are there throughout; {share:.0%} of the peak is {name}."
    )
    if cure:
        why += f" Less of it: {cure}."
    if memory.max_tokens is None or memory.max_tokens <= data.max_tokens:
        return Advice(technique, "do not use", why)
    ratio = memory.max_tokens / data.max_tokens
    why += (
        f" {memory.max_tokens:,} tokens would fit into {mebibytes(memory.limit)} MiB. Batches "
        "need be no larger than keeps the device busy: smaller ones mix updates better."
    )
    verdict: Verdict = "cannot tell" if ratio >= WORTH else "do not use"
    untested = "the speed of larger batches: batchwright compare, with max_tokens in a strategy"
    return Advice(technique, verdict, why, untested=untested)
