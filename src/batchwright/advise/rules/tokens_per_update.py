"""How much an update learns from."""

from batchwright.advise.advice import Advice, Verdict
from batchwright.advise.rules.evidence import Evidence, learnt

BATCHES = 8
"""Batches of an update from which on stratified updates mix at least as well as a shuffle."""


def tokens_per_update(evidence: Evidence) -> Advice:
    """Half or twice the tokens an update: from the loss at equal time, never from what fits.

    Source: McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018,
    arXiv:1812.06162; on a short run 60 large updates ended 0.8 nats above 800 small ones of the
    same tokens, more than any batching gains. With a task: short runs of it, with its own learning
    rate.
    """
    data = evidence.data
    technique = "other tokens per update"
    if evidence.learning and evidence.step_tokens is not None:
        return _tried(evidence, technique, evidence.step_tokens)
    why = (
        "Tokens per update are the optimizer's, not the memory's. Keep those that your learning "
        f"rate was tuned for; if you are free, {BATCHES} batches an update or more mix lengths at "
        "least as evenly as a plain shuffle."
    )
    position = next((each for each in data.dial if each.mixing == "stratified"), None)
    if position is not None:
        why += f" With {BATCHES} the dispersion of updates is {position.dispersion:.2f} here."
    settings = {"step_tokens": f"at least {BATCHES * data.max_tokens}, or max_tokens smaller"}
    untested = "the loss at equal time: advise on a task"
    return Advice(technique, "cannot tell", why, None, settings, untested)


def _tried(evidence: Evidence, technique: str, step_tokens: int) -> Advice:
    sizes = {"half": step_tokens // 2, "twice": 2 * step_tokens}
    trials = {name: evidence.learning[name] for name in sizes if name in evidence.learning}
    if not trials:
        why = f"There was no time to try others than your {step_tokens:,}, or no metric moved."
        return Advice(technique, "cannot tell", why)
    best = max(trials, key=lambda name: trials[name].sooner.ratio)
    verdicts = [learnt(trial) for trial in trials.values()]
    said = "; ".join(
        f"with {sizes[name]:,} an update it was {trial.sooner.ratio:.2f} times as soon at the same "
        f"metric ({trial.least:.2f} to {trial.most:.2f} along the way)"
        for name, trial in trials.items()
    )
    share = next(iter(trials.values())).share
    why = f"Beside your {step_tokens:,}, in short runs of {share:.0%} of yours: {said}."
    untested = "other learning rates, which want tuning along with it"
    if learnt(trials[best]) == "use":
        settings = {"step_tokens": str(sizes[best])}
        return Advice(technique, "use", why, trials[best].sooner, settings, untested)
    verdict: Verdict = (
        "do not use" if all(each == "do not use" for each in verdicts) else "cannot tell"
    )
    return Advice(technique, verdict, why, trials[best].sooner, {}, untested)
