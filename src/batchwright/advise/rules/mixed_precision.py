"""Products of fewer bits: do they pay?"""

from batchwright.advise.advice import Advice
from batchwright.advise.rules.evidence import Evidence, over, worthwhile


def mixed_precision(evidence: Evidence) -> Advice:
    """Products in bf16 or fp16, weights in fp32: use it where it is measured to be faster here.

    Source: Micikevicius et al., *Mixed Precision Training*, 2018, arXiv:1710.03740; Kalamkar et
    al., *A Study of BFLOAT16*, 2019, arXiv:1905.12322; that narrow nets gain nothing, or lose:
    `python -m benchmarks.precision`.
    """
    technique = "mixed precision"
    measured, plain = evidence.trials.get("planned+auto"), evidence.trials.get("planned")
    if measured is not None and plain is not None:
        if measured.precision == "fp32":
            why = "Steps of your model in fewer bits were not faster than in fp32, measured here."
            return Advice(technique, "do not use", why, None, {"precision": "fp32"})
        gain = over(measured, plain)
        why = (
            f"In {measured.precision} your task trains {gain.ratio:.2f} × as fast as in fp32, "
            "measured here in turns."
        )
        settings = {"precision": f'Precision("{measured.precision}")'}
        untested = "the metric: batchwright compare"
        return Advice(technique, worthwhile(gain), why, gain, settings, untested)
    if evidence.hardware is None:
        why = "Without torch no product could be timed; without a task no model is known."
        return Advice(technique, "cannot tell", why)
    told = [
        f"{name} products of width {width} take {1 / ratio:.2f} of fp32's time"
        for name, ratios in evidence.hardware.speed_over_fp32.items()
        for width, ratio in ratios.items()
    ]
    why = f"On this {evidence.hardware.device} {'; '.join(told)}. A model decides which counts."
    settings = {"precision": 'Precision("auto")'}
    return Advice(technique, "cannot tell", why, None, settings, "your model: advise on a task")
