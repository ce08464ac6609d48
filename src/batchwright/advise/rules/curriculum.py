"""Easy samples first: does it pay?"""

from batchwright.advise.advice import Advice, Gain
from batchwright.advise.rules.evidence import Evidence, learnt
from batchwright.advise.rules.label_noise import MUCH

_PUBLISHED = Gain(
    1.0,
    None,
    None,
    "as good a metric after a full budget of clean data",
    "published",
    "Wu, Dyer, Neyshabur, When Do Curricula Work?, 2021, arXiv:2012.03107",
)


def curriculum(evidence: Evidence) -> Advice:
    """Easy samples first: for noisy labels, or a budget that is short; not for clean data.

    Source: Wu, Dyer and Neyshabur, *When Do Curricula Work?*, 2021, arXiv:2012.03107: with clean
    data and a full budget curricula, anticurricula and random orders end alike. With a task that
    has scores: short runs of it, judged by the time to the same metric.
    """
    technique = "curriculum"
    why = (
        "With clean labels and a full budget no order of difficulty is known to help. It can where "
        "a fifth of the labels or more is wrong, or training is cut short."
    )
    if not evidence.difficulties:
        noise = None if evidence.labels is None else evidence.labels.noise
        if noise is not None and noise.is_trusted and noise.low >= MUCH:
            why += f" About {noise.rate:.0%} are wrong here, and what is wrong is hard to learn."
            settings = {"order": "Curriculum(difficulty.out_of_fold(features, labels).loss)"}
            untested = (
                "the metric: batchwright compare, with such scores as the task's difficulties"
            )
            return Advice(technique, "cannot tell", why, None, settings, untested)
        untested = "scores of your own"
        if noise is None:
            untested += ", and how many labels are wrong"
        return Advice(technique, "do not use", why, _PUBLISHED, untested=untested)
    name = evidence.difficulties[0]
    settings = {"order": f"Curriculum({name}, epochs=EPOCHS / 2)"}
    strategy = f"curriculum:{name}"
    untested = (
        "whether a set that grows in random order does as well: batchwright compare --strategies "
        f"planned,planned+{strategy},planned+control:{name}"
    )
    trial = evidence.learning.get("curriculum")
    if trial is None:
        scores = ", ".join(evidence.difficulties)
        why += (
            f" Your task has scores ({scores}); there was no time to try them, or no metric moved."
        )
        return Advice(technique, "cannot tell", why, _PUBLISHED, settings, untested)
    verdict = learnt(trial)
    runs = "one run" if trial.runs == 1 else f"{trial.runs} runs"
    why = (
        f"Easy first by {name}: in {runs} of {trial.share:.0%} of yours it was "
        f"{trial.sooner.ratio:.2f} times as soon at the same metric ({trial.least:.2f} to "
        f"{trial.most:.2f} along the way)."
    )
    if verdict == "cannot tell":
        why += " Seeds differ by as much: more of them, with --seconds, would tell."
    return Advice(
        technique,
        verdict,
        why,
        trial.sooner,
        settings if verdict != "do not use" else {},
        untested,
        strategy=strategy,
    )
