"""Findings that were checked by hand: what was compared with what, and what came out."""

_COUNTED = "True: as counted in the tensors that a model without the doctor is given, to the token."

_FP32 = "fp32 on fast 16-bit hardware"


def _in_bf16(seconds: str) -> str:
    return f"True of the products. The script in bf16 took {seconds} of the processor's time."


CHECKED: dict[tuple[str, str], str] = {
    ("run_classification", _FP32): _in_bf16("0.87"),
    ("run_language_model", _FP32): _in_bf16("0.84"),
    ("run_translation", _FP32): _in_bf16("1.02"),
    ("nlp_example", _FP32): _in_bf16("0.92"),
    ("complete_nlp_example", _FP32): _in_bf16("0.94"),
    ("transformer", _FP32): _in_bf16("0.98"),
    ("run_classification", "padding"): f"{_COUNTED} `pad_to_max_length` is the default.",
    ("run_classification", "class mix"): "True: 590 and 2 labels of 4,800 in two epochs.",
    ("run_translation", "accumulation not divided"): (
        "True: T5 takes the mean of each batch and ignores `num_items_in_batch`; Trainer divides "
        "no loss of a model that takes it. One step of SGD is 4.05 times as long as with one batch "
        "of the same samples; with the cure 1.01 times."
    ),
    ("run_translation", "mean of means"): (
        "True: by the labels that are not −100, 1.90 times in the median, 10.6 % misplaced."
    ),
    ("run_translation", "padding"): _COUNTED,
    ("nlp_example", "padding"): _COUNTED,
    ("nlp_example", "last batch dropped"): "True: `drop_last=True`; 2,010 = 125 × 16 + 10.",
    ("complete_nlp_example", "padding"): (
        "True: to the token in the first epoch; in both, the real tokens are twice those of the "
        "data."
    ),
    ("transformer", "mean of means"): (
        "True: by the lengths of the tokenized articles, 1.55 times in the median; each batch is "
        "divided by 4."
    ),
    (
        "transformer",
        "padding",
    ): "True: as computed from the lengths of the articles, to the token in the first epoch.",
}
"""(script, finding) → how it was checked, as sentences."""
