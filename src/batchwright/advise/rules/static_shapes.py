"""A few padded shapes: do they pay?"""

from batchwright._format import percent
from batchwright.advise.advice import Advice, Gain
from batchwright.advise.data_profile import NUM_SHAPES
from batchwright.advise.rules.evidence import Evidence


def static_shapes(evidence: Evidence) -> Advice:
    """A few padded shapes: for compilers, which compile each shape anew.

    Source: compilations equal the number of shapes, with torch.compile and JAX
    (`python -m benchmarks.static_shapes`).
    """
    data = evidence.data
    technique = "static shapes"
    if data.is_constant:
        return Advice(technique, "do not use", "All samples are equally long: one shape.")
    if "buckets" not in data.efficiency:
        return Advice(technique, "cannot tell", f"No {NUM_SHAPES} shapes hold these samples.")
    ratio = data.efficiency["buckets"] / data.efficiency["planned"]
    gain = Gain(ratio, None, None, "as many real tokens a cell", "computed from the plan")
    why = (
        f"{NUM_SHAPES} padded shapes leave {percent(1 - data.efficiency['buckets'])} padding. That "
        "pays if the model is compiled for each shape (JAX, torch.compile without dynamic shapes), "
        "and only then."
    )
    settings = {"batching": f"Buckets({NUM_SHAPES}, max_tokens={data.max_tokens})"}
    return Advice(technique, "cannot tell", why, gain, settings, "whether the model is compiled")
