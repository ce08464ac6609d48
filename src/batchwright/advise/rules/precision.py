"""At which precision to compute."""

from batchwright._format import interval, listed
from batchwright.advise.advice import Advice, Gain
from batchwright.advise.evidence import Evidence
from batchwright.advise.machine import Hardware
from batchwright.advise.rules.wording import METRIC, how_to_try, says
from batchwright.advise.trials import faster

_HALF_PRECISION_GAIN = Gain(
    *(2.0, None, None),
    "less activation memory (almost), at the same accuracy",
    "published",
    "Micikevicius et al., Mixed Precision Training, 2018, arXiv:1710.03740",
)


def mixed_precision(evidence: Evidence) -> Advice:
    """Products in bf16 or fp16, weights in fp32: use it if it is measured to be faster here.

    Source: Micikevicius et al., *Mixed Precision Training*, 2018, arXiv:1710.03740; Kalamkar et
    al., *A Study of BFLOAT16*, 2019, arXiv:1905.12322. Narrow nets gain nothing, or get slower:
    `python -m benchmarks.precision`.
    """
    gains = _gains(evidence)
    if gains:
        best = max(gains, key=lambda precision: gains[precision].ratio)
        gain, verdict = gains[best], gains[best].verdict
        speeds = [
            f"{name} is {interval(each.ratio, each.low, each.high)} times as fast"
            for name, each in gains.items()
        ]
        why = f"Measured on updates of your task, compared with fp32: {listed(speeds)}."
        if verdict == "cannot tell":
            why += " So few updates cannot show whether that is a gain."
        settings = {} if verdict == "do not use" else {"precision": f'Precision("{best}")'}
        return says(
            *(verdict, f"{best} trains {gain.ratio:.2f} × as fast as fp32", why, gain, settings),
            untested=METRIC,
            strategy=best,
            action=f"train in {best}",
        )
    if evidence.hardware is None:
        why = "Without torch, this machine cannot be measured."
        return says("cannot tell", "not measured: no torch", why, _HALF_PRECISION_GAIN)
    if evidence.hardware.speed_over_fp32 and not evidence.hardware.worth_trying:
        slow = listed(list(evidence.hardware.speed_over_fp32))
        why = f"{_of_products(evidence.hardware)}No model is faster with that."
        return says("do not use", f"this machine is slower in {slow}", why)
    return says(
        "cannot tell",
        "not tried on your model",
        f"{_of_products(evidence.hardware)}How fast your model is depends on its width.",
        _HALF_PRECISION_GAIN,
        {"precision": 'Precision("auto")'},
        untested=f"your model ({how_to_try(evidence, 'speed')})",
    )


def _gains(evidence: Evidence) -> dict[str, Gain]:
    """Return the speed of each precision over fp32, in batches of the same kind."""
    kinds = ("mixed", "planned", "plain")
    kind = next(each for each in kinds if each in evidence.trials) if evidence.trials else ""
    return {
        trial.precision: faster(trial.speeds, evidence.trials[kind].speeds)
        for name, trial in evidence.trials.items()
        if name.startswith(f"{kind}+") and trial.precision != "fp32"
    }


def _of_products(hardware: Hardware) -> str:
    """Describe matrix products by ranges that were measured; empty if there are none."""
    said = []
    for name, ratios in hardware.speed_over_fp32.items():
        speeds = [f"{ratio} the speed at width {width:,}" for width, ratio in ratios.items()]
        said += [f"in {name}, {listed(speeds)}"] if speeds else []
    return f"Matrix products here, over fp32: {'; '.join(said)}. " if said else ""
