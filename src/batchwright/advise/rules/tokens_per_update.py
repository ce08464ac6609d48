"""How much an update learns from."""

from batchwright.advise.advice import Advice
from batchwright.advise.rules.evidence import Evidence

BATCHES = 8
"""Batches of an update from which on stratified updates mix at least as well as a shuffle."""


def tokens_per_update(evidence: Evidence) -> Advice:
    """What an update learns from: a setting of its own, never what fits into memory.

    Source: McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018,
    arXiv:1812.06162; on a short run 60 large updates ended 0.8 nats above 800 small ones of the
    same tokens, more than any batching gains.
    """
    data = evidence.data
    why = (
        "Tokens per update are the optimizer's, not the memory's. Keep those that your learning "
        f"rate was tuned for; if you are free, {BATCHES} batches an update or more mix lengths at "
        "least as evenly as a plain shuffle."
    )
    position = next((each for each in data.dial if each.mixing == "stratified"), None)
    if position is not None:
        why += f" With {BATCHES} the dispersion of updates is {position.dispersion:.2f} here."
    settings = {"step_tokens": f"at least {BATCHES * data.max_tokens}, or max_tokens smaller"}
    untested = "the loss at equal time: batchwright compare --target"
    return Advice("tokens per update", "cannot tell", why, None, settings, untested)
