"""Rows filled without padding: do they pay?"""

from batchwright._format import percent
from batchwright.advise.advice import Advice, Gain
from batchwright.advise.rules.evidence import WORTH, Evidence


def packing(evidence: Evidence) -> Advice:
    """Several samples in a row without padding: for one fixed shape, with kernels that know it.

    Source: Krell et al., *Efficient Sequence Packing without Cross-contamination*, 2021,
    arXiv:2107.02027; on processors rows as long as a budget took 2 to 4 times the time of planned
    batches, as attention masks are dense there.
    """
    data = evidence.data
    technique = "packing"
    if "packed" not in data.efficiency or "planned" not in data.efficiency:
        return Advice(technique, "cannot tell", "These samples cannot be packed into such rows.")
    ratio = data.efficiency["packed"] / data.efficiency["planned"]
    gain = Gain(ratio, None, None, "as many real tokens a cell", "computed from the plan")
    why = (
        f"Packed rows are {percent(1 - data.efficiency['packed'])} padding, planned batches "
        f"{percent(1 - data.efficiency['planned'])}: there is little left to save."
    )
    if data.is_constant:
        return Advice(technique, "do not use", "All samples are equally long: nothing is padded.")
    if evidence.hardware is not None and evidence.hardware.device == "cpu":
        why += " On a processor attention over packed rows needs a dense mask, which costs more."
        return Advice(technique, "do not use", why, gain)
    settings = {"batching": f"Packing({data.max_tokens})"}
    if ratio > WORTH:
        return Advice(technique, "cannot tell", why, gain, settings, "kernels for variable lengths")
    why += " Pack only for rows of one fixed shape, with kernels for variable lengths."
    return Advice(technique, "do not use", why, gain, settings, "kernels for variable lengths")
