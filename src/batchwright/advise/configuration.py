"""All that is advised, as one strategy that `compare` knows."""

from collections.abc import Sequence

from batchwright.advise.advice import Advice


def configuration(advice: Sequence[Advice]) -> str:
    """Name the strategy that does all that is advised, and nothing else.

    Args:
        advice: What was advised.

    Returns:
        A name such as ``"planned+bf16"``; ``"plain"`` where nothing is to be used.

    Example:
        >>> use = Advice("mixed precision", "use", "", strategy="bf16")
        >>> configuration([use, Advice("curriculum", "do not use", "", strategy="curriculum:loss")])
        'plain+bf16'
    """
    parts = [each.strategy for each in advice if each.verdict == "use" and each.strategy]
    kind = "planned" if "planned" in parts else "plain"
    return "+".join([kind, *(part for part in parts if part != "planned")])
