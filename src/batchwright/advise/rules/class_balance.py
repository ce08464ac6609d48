"""Rare classes more often: does it pay?"""

from batchwright.advise.advice import Advice
from batchwright.advise.rules.evidence import Evidence

EVEN = 1.5
"""Imbalance below which classes are taken for equal."""


def class_balance(evidence: Evidence) -> Advice:
    """Draw rare classes more often: for a metric that counts classes alike, not for accuracy.

    Source: Cao et al., *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss*,
    2019, arXiv:1906.07413: balance pays late in training (deferred, from epoch 160 of 200), for
    classes counted alike; Kang et al., *Decoupling Representation and Classifier*, 2020,
    arXiv:1910.09217: plain shuffles learn the better features. Over the distribution as it is,
    drawing by another one moves the decision away from what is frequent, and accuracy usually
    falls.
    """
    technique = "balanced sampling"
    labels = evidence.labels
    if labels is None:
        why = "No labels were given: how even the classes are is not known."
        return Advice(technique, "cannot tell", why, untested="the labels")
    if labels.num_classes == 1 or labels.imbalance < EVEN:
        why = (
            f"The {labels.num_classes:,} classes are even: {labels.smallest:,} to "
            f"{labels.largest:,} samples each."
            if labels.num_classes > 1
            else "There is one class."
        )
        return Advice(technique, "do not use", why)
    why = (
        f"The largest of {labels.num_classes:,} classes has {labels.imbalance:,.1f} times the "
        f"samples of the smallest ({labels.largest:,} and {labels.smallest:,}). Balance can pay "
        "where all classes count alike (macro averages); accuracy over data as they come usually "
        "falls."
    )
    settings = {"order": "ClassBalanced(labels, temperature=2, after=4 * EPOCHS // 5)"}
    return Advice(technique, "cannot tell", why, None, settings, "your metric")
