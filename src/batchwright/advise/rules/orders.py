"""In which order samples are seen."""

from batchwright._format import percent
from batchwright.advise.advice import Advice, Gain
from batchwright.advise.evidence import Evidence
from batchwright.advise.rules.wording import (
    how_to_try,
    more_runs,
    says,
    sooner,
    unclear,
    why_untried,
)

MUCH, LITTLE = 0.2, 0.05
"""Shares of wrong labels from which orders by difficulty help, and below which they do not."""

_CURRICULUM_GAIN = Gain(
    *(1.0, None, None),
    "the final metric, with clean data and a full budget",
    "published",
    "Wu, Dyer, Neyshabur, When Do Curricula Work?, 2021, arXiv:2012.03107",
)


def curriculum(evidence: Evidence) -> Advice:
    """Easy samples first: for noisy labels, or a short budget; not for clean data.

    Source: Wu, Dyer and Neyshabur, *When Do Curricula Work?*, 2021, arXiv:2012.03107: with clean
    data and a full budget, curricula, anticurricula and random orders end with the same result.
    Short samples first helped in some of our applications (benchmarks/results/applications). With a
    task: short runs of it, judged by the time to the same metric.
    """
    if evidence.has_task and (evidence.difficulties or not evidence.data.is_constant):
        return _of_task(evidence)
    return _of_data(evidence)


def _of_task(evidence: Evidence) -> Advice:
    name = next(iter(evidence.difficulties), "length")
    scores, epochs = _scores(evidence, name), "EPOCHS / 2"
    if evidence.epochs is not None:
        epochs = f"{evidence.epochs / 2:g}"
    settings = {"order": f"Curriculum({scores}, epochs={epochs})"}
    strategy = f"curriculum:{name}"
    untested = (
        "whether adding samples in random order does as well (run batchwright compare "
        f"--strategies planned,planned+{strategy},planned+control:{name})"
    )
    trial = evidence.learning.get("curriculum")
    if trial is None:
        why = f"No short run shows whether an order by {name} helps. "
        why += why_untried(evidence, "curriculum")
        untested = f"an order by {name} ({how_to_try(evidence, 'curriculum')})"
        return says(
            "cannot tell",
            f"an order by {name} was not tried",
            why,
            None,
            settings,
            untested=untested,
        )
    why = f"Easy samples first, by {name}, compared with your order: {sooner(trial)}."
    short = f"by {name}: {trial.sooner.ratio:.2f} × as fast to the same metric"
    if trial.verdict == "cannot tell":
        short += f" in short runs{unclear(trial)}"
    elif trial.verdict == "do not use":
        settings, short = {}, f"{short} in short runs"
    return says(
        *(trial.verdict, short, why + more_runs(trial), trial.sooner, settings),
        untested=untested,
        strategy=strategy,
        action="show short samples first" if name == "length" else f"order samples by {name}",
    )


def _of_data(evidence: Evidence) -> Advice:
    """Advise without short runs: by the share of wrong labels, if that is known."""
    noise = None if evidence.labels is None else evidence.labels.noise
    known = evidence.duplicates
    contradicting = (known.contradicting_share or 0.0) if known is not None else 0.0
    untested = f"your own scores ({how_to_try(evidence, 'curriculum')})"
    helps = (
        "An order by difficulty can help if at least a fifth of the labels is wrong, or if "
        "training is cut short."
    )
    least = max(contradicting, noise.low if noise is not None and noise.is_trusted else 0.0)
    if least >= MUCH:
        why = f"{helps} Here at least {percent(least)} are wrong, and hard to learn."
        settings = {"order": "Curriculum(difficulty.out_of_fold(labels, features).loss)"}
        untested = "the metric (run batchwright compare, with such scores as difficulties)"
        short = f"at least {percent(least)} of the labels are wrong: an order by loss may help"
        return says("cannot tell", short, why, None, settings, untested=untested)
    if least >= LITTLE:
        why = f"{helps} Here at least {percent(least)} are wrong."
        short = f"at least {percent(least)} of the labels are wrong"
        return says("cannot tell", short, why, untested=untested)
    if noise is not None and noise.high < LITTLE:
        why = (
            f"At most {percent(noise.high)} of the labels are wrong. With clean labels and a full "
            "budget, no order by difficulty is known to help."
        )
        short = "labels are clean: no order by difficulty is known to help"
        return says("do not use", short, why, _CURRICULUM_GAIN, untested=untested)
    if noise is None:
        untested = f"{untested}; how many labels are wrong"
    if evidence.data.is_constant:
        why = f"{helps} Nothing here suggests either, and there is no order by length."
        return says("do not use", "nothing here suggests one", why, untested=untested)
    why = (
        f"{helps} Short samples first helped in some of our applications and not in others: short "
        "runs of your job can show it."
    )
    return says("cannot tell", "needs short runs of your job", why, untested=untested)


def _scores(evidence: Evidence, name: str) -> str:
    """Return the expression for the scores of samples."""
    if name != "length":
        return name
    return "lengths" if len(evidence.data.columns) == 1 else "lengths.sum(axis=1)"
