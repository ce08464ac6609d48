"""The examples of mixed precision: what they compute, and the whole of them in the quick form."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gpt_mixed_precision
import language_model
import numpy as np
import precision_command
import pytest
import torch
import vision_transformer
import vit_mixed_precision
from language_model import GPT
from precision_parity import Experiment, learning_rate_at, parity, timing
from rich.console import Console
from torch.nn.functional import scaled_dot_product_attention

from batchwright.torch import Precision
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples" / "studies"

FALLING = np.linspace(4.0, 2.0, 10)


def seeds(*, deviation: float, seed: int) -> np.ndarray:
    """Draw loss curves of three seeds, float[3, 10]."""
    levels = np.random.default_rng(seed).normal(scale=deviation, size=(3, 1))
    return FALLING * np.exp(levels)


def test_curves_agree_with_themselves():
    curves = seeds(deviation=0.02, seed=0)
    same = parity(curves, curves)
    assert same.agrees
    assert same.difference == 0
    assert same.per_seed == same.final == [0, 0, 0]


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_difference_that_all_seeds_share_is_no_noise(factor):
    curves = seeds(deviation=0.02, seed=0)
    other = parity(factor * curves, curves)
    assert not other.agrees
    assert other.difference == pytest.approx(abs(math.log(factor)))
    assert other.per_seed == pytest.approx([abs(math.log(factor))] * 3)
    assert other.final == pytest.approx(((factor - 1) * curves[:, -1]).tolist())


def test_noise_is_what_independent_runs_differ_by():
    drawn = [seeds(deviation=0.02, seed=seed) for seed in range(400)]
    pairs = [parity(a, b) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    differences = np.sqrt(np.mean([each.difference**2 for each in pairs]))
    noise = np.sqrt(np.mean([each.noise**2 for each in pairs]))
    assert noise == pytest.approx(0.02 * math.sqrt(2 / 3), rel=0.15)
    assert differences == pytest.approx(noise, rel=0.15)
    assert np.mean([each.agrees for each in pairs]) > 0.75


def test_differences_of_either_sign_cancel_but_are_shown():
    curves = np.tile(FALLING, (2, 1))
    other = parity(curves * [[1.1], [1 / 1.1]], curves)
    assert other.difference == pytest.approx(0, abs=1e-12)
    assert other.per_seed == pytest.approx([math.log(1.1)] * 2)


def test_one_seed_says_nothing_of_noise():
    one = parity([FALLING * 1.01], [FALLING])
    assert one.noise is None
    assert one.agrees is None


def test_a_loss_that_is_no_number_does_not_agree():
    curves = seeds(deviation=0.02, seed=0)
    broken = curves.copy()
    broken[1, 4:] = np.nan
    assert parity(broken, curves).agrees is False


def test_times_are_compared_update_by_update_without_the_first():
    reference = [SimpleNamespace(seconds=[9.0, 1.0, 2.0, 4.0])]
    runs = [SimpleNamespace(seconds=[50.0, 0.5, 1.0, 4.0])]
    compared = timing(runs, reference)
    assert compared.ratio == 0.5
    assert compared.middle == (0.5, 0.75)
    assert compared.milliseconds == 1000


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    rates = [learning_rate_at(progress) for progress in np.linspace(0.01, 1, 100)]
    assert np.argmax(rates) == 9
    assert max(rates) == pytest.approx(1)
    assert rates[-1] == pytest.approx(0.1)


def test_attention_of_the_vision_transformer_is_attention():
    torch.manual_seed(0)
    block = vision_transformer.Block(64, heads=2)
    x = torch.randn(3, 16, 64)
    projected = block.attend(block.norm_attention(x)).view(3, 16, 3, 2, 32)
    query, key, value = projected.permute(2, 0, 3, 1, 4)
    attended = scaled_dot_product_attention(query, key, value)
    after = x + block.attended(attended.transpose(1, 2).reshape(3, 16, 64))
    expected = after + block.fed(torch.nn.functional.gelu(block.feed(block.norm_feed(after))))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_digits_are_split_and_none_is_in_both_parts():
    pytest.importorskip("sklearn")
    job = vision_transformer.prepare(num_validation=360, seed=3)
    assert (len(job.samples), len(job.validation)) == (1437, 360)
    images = {image.numpy().tobytes() for image, _ in job.samples}
    assert not any(image.numpy().tobytes() in images for image, _ in job.validation)
    every = torch.stack([image for image, _ in [*job.samples, *job.validation]])
    assert every.mean().item() == pytest.approx(0, abs=1e-4)
    assert every.std().item() == pytest.approx(1, abs=1e-3)
    assert {digit for _, digit in job.validation} == set(range(10))


def tiny_text() -> gpt_mixed_precision.Job:
    drawn = np.random.default_rng(0)
    texts = [torch.from_numpy(drawn.integers(0, 50, size)) for size in (9, 17, 30)]
    samples = [(text[:-1], text[1:]) for text in texts]
    return gpt_mixed_precision.Job(samples, samples[:1], vocabulary=50, context=32)


def test_the_last_product_of_the_gpt_is_computed_in_bf16():
    job = tiny_text()
    model: GPT = job.model()
    types = []
    model.head.register_forward_hook(lambda *passed: types.append(passed[-1].dtype))
    precision, optimizer = Precision("bf16", check_loss=False), job.optimizer(model)
    with precision.update(model, optimizer, weight=53) as update:
        update.backward(job.loss_sum, job.collate(list(job.samples)))
    assert types == [torch.bfloat16]
    assert model.head.weight.dtype == model.head.weight.grad.dtype == torch.float32
    assert update.loss == pytest.approx(math.log(50), rel=1e-3)


def test_guessing_by_frequency_is_what_it_says():
    text = torch.tensor([1, 1, 2])
    job = gpt_mixed_precision.Job([(text, text)], [(text, text)], vocabulary=3, context=4)
    expected = -(2 * math.log(3 / 6) + math.log(2 / 6)) / 3
    assert job.loss_by_frequency() == pytest.approx(expected)


@pytest.mark.slow
def test_a_missing_package_is_one_line():
    script = str(EXAMPLES / "vit_mixed_precision.py")
    code = (
        "import runpy, sys; sys.modules['sklearn'] = None; "
        f"sys.path.insert(0, {str(EXAMPLES)!r}); sys.argv = [{script!r}, '--quick']; "
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install scikit-learn" in done.stderr


def smaller(name: str, *, quick: bool, seed: int) -> Experiment:
    """Make the experiment of an example, of a narrower model: bf16 is slow on many processors."""
    module = {
        "vit_mixed_precision": vit_mixed_precision,
        "gpt_mixed_precision": gpt_mixed_precision,
    }
    whole = module[name].experiment(quick=quick, seed=seed)
    if name == "vit_mixed_precision":
        job = replace(whole.job, width=32, layers=2, learning_rate=4e-3)
        return replace(whole, job=job, epochs=3, num_evaluations=3)
    samples = whole.job.samples[:600]
    job = replace(whole.job, samples=samples, width=32, layers=1, learning_rate=1e-2)
    return replace(whole, job=job, num_evaluations=3)


@pytest.mark.slow
def test_over_several_seeds_the_verdict_is_computed():
    pytest.importorskip("sklearn")
    short = smaller("vit_mixed_precision", quick=True, seed=0)
    short = replace(short, epochs=1, num_evaluations=2, modes=("fp32", "bf16"))
    result = precision_command.run(short, range(2), Console(quiet=True))
    fp32, bf16 = result["results"]
    assert fp32["parity"]["difference"] == 0
    assert fp32["timing"]["ratio"] == 1
    verdict = bf16["parity"]
    assert verdict["difference"] > 0
    assert verdict["noise"] > 0
    assert verdict["agrees"] == (verdict["difference"] < 2 * verdict["noise"])
    assert any("within noise" in sentence for sentence in result["said"])
    # Two epochs of one seed cannot be alike for another reason than the seed.
    assert bf16["curves"][0] != bf16["curves"][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_mixed_precision", "gpt_mixed_precision"])
def test_the_quick_form_learns_and_tells_its_figures(
    name, tmp_path, monkeypatch, one_thread, library
):
    if name == "vit_mixed_precision":
        pytest.importorskip("sklearn")
    monkeypatch.setattr(language_model, "functions", lambda: library)
    output = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--threads", "1", "--json", str(output)])
    with pytest.raises(SystemExit) as ended:
        precision_command.command(partial(smaller, name), name, "What it does.")
    assert not ended.value.code
    text = output.read_text(encoding="utf-8")
    assert str(REPOSITORY) not in text
    result = json.loads(text)
    assert {"command", "commit", "machine", "seeds", "said", "seconds"} <= result.keys()
    fp32, bf16, auto = result["results"]
    assert [each["asked"] for each in result["results"]] == ["fp32", "bf16", "auto"]
    for each in result["results"]:
        (curve,) = each["curves"]
        assert curve[0] == fp32["curves"][0][0]
        assert curve[-1] < result["baseline"]
        assert each["skipped"] == [0]
        assert each["parity"]["per_seed"][0] < 0.2
        assert each["parity"]["agrees"] is None
        assert each["timing"]["ratio"] > 0
        if name == "vit_mixed_precision":
            assert each["accuracies"][0] > 0.5
    (evidence,) = auto["evidence"]
    assert evidence["trials"][0]["mode"] == "fp32"
    assert {"tf32", "fp16"} <= evidence["ruled_out"].keys()
    assert auto["trained_in"][0] in {trial["mode"] for trial in evidence["trials"]}
    same = {"fp32": fp32, "bf16": bf16}[auto["trained_in"][0]]
    assert auto["curves"] == same["curves"]
    assert fp32["evidence"] == bf16["evidence"] == []
