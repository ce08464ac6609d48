"""Easy samples first: does it pay?"""

from batchwright.advise.advice import Advice
from batchwright.advise.rules.evidence import Evidence


def curriculum(evidence: Evidence) -> Advice:
    """Easy samples first: for noisy labels, or a budget that is short; not for clean data.

    Source: Wu, Dyer and Neyshabur, *When Do Curricula Work?*, 2021, arXiv:2012.03107: with clean
    data and a full budget curricula, anticurricula and random orders end alike.
    """
    technique = "curriculum"
    why = (
        "With clean labels and a full budget no order of difficulty is known to help. It can where "
        "a fifth of the labels or more is wrong, or training is cut short; and then a set that "
        "grows in random order is the control to beat."
    )
    if not evidence.difficulties:
        return Advice(technique, "do not use", why, untested="how many labels are wrong")
    scores = ", ".join(evidence.difficulties)
    why += f" Your task has scores ({scores}): only whole runs tell what they are worth."
    settings = {"order": f"Curriculum({evidence.difficulties[0]})"}
    untested = "batchwright compare --strategies planned,planned+curriculum,planned+control"
    return Advice(technique, "cannot tell", why, None, settings, untested)
