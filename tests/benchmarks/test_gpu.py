"""The benchmark of a GPU runs in its tiny form on a CPU, every part of it."""

import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from batchwright.torch import PackCollator, PadCollator, PatchCollator
from benchmarks.gpu.__main__ import GROUPS, PARTS, in_a_process, main, run
from benchmarks.gpu.attention import Segments, causal, fastest, seconds_of, within
from benchmarks.gpu.models import GPT, VisionTransformer, image_loss, next_tokens, text_loss
from benchmarks.gpu.report import tables, verdicts
from benchmarks.gpu.sizes import TINY, has_gpu
from benchmarks.gpu.tasks import PadPatches

from .test_benchmarks import result_of


def documents():
    lengths = [5, 9, 2]
    tokens = torch.arange(1, 1 + sum(lengths)).split(lengths)
    return [{"input_ids": each, "labels": each} for each in tokens]


def test_packed_texts_have_the_loss_of_padded_ones():
    torch.manual_seed(0)
    model = GPT(TINY)
    padded = PadCollator({"input_ids": 0, "labels": -100})(documents())
    packed = PackCollator(capacity=20)(documents())
    assert next_tokens(padded) == next_tokens(packed) == 13
    torch.testing.assert_close(text_loss(model, packed), text_loss(model, padded))


def test_packed_images_have_the_loss_of_padded_ones():
    torch.manual_seed(0)
    model, cut = VisionTransformer(TINY), PatchCollator(TINY.patch)
    sides = [(8, 12), (4, 4), (16, 8)]
    samples = [
        {"image": torch.randn(3, *each), "labels": place} for place, each in enumerate(sides)
    ]
    whole = image_loss(model, PadPatches(cut)(samples))
    packed = PatchCollator(TINY.patch, capacity=20)(samples)
    torch.testing.assert_close(image_loss(model, packed), whole)


def test_attention_within_segments_is_that_of_each_alone():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 7, 4)
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    segments = Segments(torch.tensor([0, 3, 7], dtype=torch.int32), 4, ids)
    parts = [
        causal(*(each[:, :, part] for each in (query, key, value)))
        for part in (slice(0, 3), slice(3, 7))
    ]
    found = within(segments, "dense", causal=True)(query, key, value)
    torch.testing.assert_close(found, torch.cat(parts, dim=2))


@pytest.mark.skipif(has_gpu(), reason="there, the kernel runs")
def test_a_kernel_that_does_not_run_says_why():
    ids = torch.zeros(1, 8, dtype=torch.int64)
    segments = Segments(torch.tensor([0, 8], dtype=torch.int32), 8, ids)
    found = {
        kernel: seconds_of(kernel, segments, heads=2, width=8, causal=True)
        for kernel in ("varlen", "dense")
    }
    assert isinstance(found["varlen"], str)
    assert "Error" in found["varlen"]
    assert fastest(found) == "dense"


@pytest.mark.skipif(has_gpu(), reason="there is one")
def test_without_a_gpu_it_says_so():
    done = CliRunner().invoke(main, [])
    assert done.exit_code == 2
    assert "--tiny" in done.output


def test_a_part_that_fails_leaves_the_others(monkeypatch, capsys):
    def fails(_):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(GROUPS, "overhead", {"loader": fails, "update": lambda _: {"fine": 1}})
    found = dict(run("overhead", (), TINY))
    assert found["loader"]["failed"] == "RuntimeError: no such kernel"
    assert found["update"]["fine"] == 1
    assert "no such kernel" in capsys.readouterr().err


def test_what_is_missed_is_said():
    lines = verdicts(
        {
            "loader": {"workers": 2, "waited": 0.02},
            "prediction": {"failed": "no time"},
            "recovery": {
                "is_true": True,
                "gradient_error": 1e-6,
                "retries": 1,
                "bytes_lost": 512,
            },
        }
    )
    assert [line.rpartition(": ")[2] for line in lines] == ["MISSED", "MISSED"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler looks at it
def test_every_part_runs_in_its_tiny_form(capsys):
    threads = torch.get_num_threads()
    found = {name: result for group in GROUPS for name, result in run(group, (), TINY)}
    torch.set_num_threads(threads)
    failed = {name: result["failed"] for name, result in found.items() if "failed" in result}
    assert not failed, capsys.readouterr().err
    assert list(found) == PARTS
    names = [each["name"] for each in found["language"]["arms"]]
    assert names == ["plain+bf16", "grouped+bf16", "planned+bf16", "packed+bf16", "dense limit"]
    plain, _, planned, packed, dense = found["language"]["arms"]
    assert plain["padding"] > planned["padding"] > dense["padding"] == pytest.approx(0.0, abs=1e-9)
    assert packed["peak_bytes"] > 0
    assert found["recovery"]["retries"] == 1
    assert found["recovery"]["gradient_error"] < 1e-5
    assert found["prediction"]["shapes"] == 2
    assert found["varying_shapes"]["planned"]["shapes"] > 1
    assert found["doctor"]["page"] > 1_000
    assert {each["technique"] for each in found["advise"]["advice"]} >= {"dynamic batching"}
    assert [each["name"] for each in found["compare"]["arms"]][:2] == ["plain", "planned"]
    assert len(list(tables(found))) == 5
    assert "planned, of the dense limit" in verdicts(found)[0]


@pytest.mark.slow
def test_groups_have_a_process_each_and_the_result_is_written(tmp_path):
    target = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--json", str(target)]
    command += ["--only", "recovery", "--only", "update"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = result_of(target)
    assert list(result["parts"]) == ["recovery", "update"]
    assert (result["gpu"], result["size"]) == (None, "tiny")
    assert "out of memory, imitated" in done.stdout


def test_what_there_is_no_time_for_says_so():
    found = dict(in_a_process("memory", ["recovery", "prediction"], 0.0, tiny=True))
    assert list(found) == ["recovery", "prediction"]
    assert "time was over" in found["recovery"]["failed"]
