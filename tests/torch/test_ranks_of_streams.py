"""Real ranks: streams that are split among them already, samplers that come before them."""

import json
from pathlib import Path

import pytest

from tests import fork_server
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "scripts" / "streams_of_ranks.py"


def run(out, kind, workers=0):
    environment = {"GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2"}
    arguments = (out / "store", out, kind, workers)
    ranks = [
        fork_server.start(SCRIPT, rank, *arguments, environment=environment) for rank in (0, 1)
    ]
    try:
        for rank in ranks:
            rank.join(PATIENCE)
        assert [rank.exitcode for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            fork_server.end(rank)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_whole_stream_is_shared(tmp_path, workers):
    ranks = run(tmp_path, "whole", workers)
    for epoch in (0, 1):
        assert sorted(n for each in ranks for n in each["seen"][epoch]) == list(range(80))
    assert [each["error"] for each in ranks] == [None, None]
    assert [each["warnings"] for each in ranks] == [[], []]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_differs_between_ranks_is_found_out(tmp_path, workers):
    """At the first batch; where workers read it, when the second epoch is set."""
    ranks = run(tmp_path, "own part", workers)
    errors = [each["error"] for each in ranks if each["error"]]
    assert errors
    assert all("ranks 0 and 1 read different samples" in error for error in errors)


def test_samples_of_the_same_lengths_that_differ_are_pointed_out(tmp_path):
    ranks = run(tmp_path, "own text")
    assert [each["error"] for each in ranks] == [None, None]
    said = [line for each in ranks for line in each["warnings"]]
    assert said
    assert all("differ in what they hold" in line for line in said)


def test_no_epoch_of_a_sampler_begins_before_its_ranks_are_known(tmp_path):
    ranks = run(tmp_path, "before")
    for each in ranks:
        assert "WORLD_SIZE=2" in each["error"]
        assert [line for line in each["warnings"] if "WORLD_SIZE=2" in line]
    assert sorted(n for each in ranks for n in each["seen"][0]) == list(range(60))
