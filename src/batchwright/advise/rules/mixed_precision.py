"""Products of fewer bits: do they pay?"""

from batchwright.advise.advice import Advice, Gain
from batchwright.advise.rules.evidence import Evidence, worthwhile
from batchwright.advise.trials import faster

_PUBLISHED = Gain(
    2.0,
    None,
    None,
    "less memory for activations (nearly) at equal accuracy",
    "published",
    "Micikevicius et al., Mixed Precision Training, 2018, arXiv:1710.03740",
)


def mixed_precision(evidence: Evidence) -> Advice:
    """Products in bf16 or fp16, weights in fp32: use it where it is measured to be faster here.

    Source: Micikevicius et al., *Mixed Precision Training*, 2018, arXiv:1710.03740; Kalamkar et
    al., *A Study of BFLOAT16*, 2019, arXiv:1905.12322; that narrow nets gain nothing, or lose:
    `python -m benchmarks.precision`.
    """
    technique = "mixed precision"
    kind = "planned" if "planned" in evidence.trials else "plain"
    fewer = {
        trial.precision: faster(trial.speeds, evidence.trials[kind].speeds)
        for name, trial in evidence.trials.items()
        if name.startswith(f"{kind}+") and trial.precision != "fp32"
    }
    if fewer:
        best = max(fewer, key=lambda precision: fewer[precision].ratio)
        told = ", ".join(
            f"in {precision} {gain.ratio:.2f} × as fast as in fp32"
            for precision, gain in fewer.items()
        )
        why = f"Your task trains {told}: its own updates, in turns."
        verdict = worthwhile(fewer[best])
        settings = {"precision": f'Precision("{best if verdict == "use" else "fp32"}")'}
        untested = "the metric: batchwright compare"
        return Advice(technique, verdict, why, fewer[best], settings, untested, strategy=best)
    if evidence.hardware is None:
        why = "Without torch no product could be timed; without a task no model is known."
        return Advice(technique, "cannot tell", why, _PUBLISHED)
    told = "; ".join(
        f"{name} products of width {width} take {1 / ratio:.2f} of fp32's time"
        for name, ratios in evidence.hardware.speed_over_fp32.items()
        for width, ratio in ratios.items()
    )
    why = f"On this {evidence.hardware.device} {told}. A model decides which counts."
    settings = {"precision": 'Precision("auto")'}
    return Advice(
        technique, "cannot tell", why, _PUBLISHED, settings, "your model: advise on a task"
    )
