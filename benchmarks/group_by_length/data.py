"""The data of both jobs, tokenised once for all arms: what no hub is needed for."""

import json
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.group_by_length.setting import Setting

EXAMPLES = str(machine.REPOSITORY / "examples" / "applications")

sys.path.insert(0, EXAMPLES)
try:
    import language_model
    import text_classification
    from debian_packages import NoPackageError
finally:
    sys.path.remove(EXAMPLES)

__all__ = ["NoPackageError", "write_data"]

CONTEXT = 256
"""Longer functions are cut to this many tokens."""

HELD_OUT = {"functions": 200, "glosses": 1_000}
"""Samples that are never trained on."""


def write_data(setting: Setting, folder: Path) -> Path:
    """Tokenise a job's data, and write it; the same for all seeds.

    Raises:
        NoPackageError: If the glosses cannot be had.
    """
    count = HELD_OUT[setting.data]
    if setting.data == "functions":
        job = language_model.prepare(
            num_samples=setting.num_samples,
            num_validation=count,
            vocabulary=setting.vocabulary,
            context=CONTEXT,
        )
        samples = [
            {"input_ids": tokens.tolist(), "labels": tokens.tolist()}
            for tokens, _ in (*job.validation, *job.samples)
        ]
    else:
        found, _ = text_classification.prepare(
            num_samples=setting.num_samples, num_validation=count, vocabulary=setting.vocabulary
        )
        samples = [
            {"input_ids": each["tokens"].tolist(), "labels": int(each["labels"])} for each in found
        ]
    path = folder / f"{setting.data}.json"
    data = {"held_out": samples[:count], "train": samples[count:]}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
