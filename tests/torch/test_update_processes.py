"""Updates in real processes: two ranks, one gradient; nobody waits in vain.

Each fixture starts one pair of processes, which goes through all the cases of a script; the
tests read what came of them.
"""

import json
import time
from pathlib import Path

import pytest

from tests import fork_server
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "scripts_update"
WORLD_SIZE = 2


class Pair:
    """What became of the two processes of a script."""

    def __init__(self, name, folder, *cases):
        self.log = folder / "log"
        processes = [
            fork_server.start(
                *(SCRIPTS / f"{name}.py", rank, WORLD_SIZE, folder, *cases),
                log=self.log,
                environment={"GLOO_SOCKET_IFNAME": "lo"},
                warnings_fail=True,
            )
            for rank in range(WORLD_SIZE)
        ]
        deadline = time.monotonic() + PATIENCE
        for process in processes:  # the cases that are missing will tell
            process.join(max(0.1, deadline - time.monotonic()))
        self.codes = [process.exitcode for process in processes]
        for process in processes:
            fork_server.end(process)
        files = [folder / f"{rank}.json" for rank in range(WORLD_SIZE)]
        self.results = [json.loads(f.read_text()) if f.exists() else {} for f in files]

    def __call__(self, case):
        """Return what a case gave on each rank."""
        for result in self.results:
            assert case in result, f"{case} did not come to an end:\n{self.log.read_text()}"
            assert not str(result[case]).startswith("Traceback"), result[case]
        return [result[case] for result in self.results]


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return Pair("copies", tmp_path_factory.mktemp("copies"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return Pair("shards", tmp_path_factory.mktemp("shards"))


FAILED = [
    "UpdateError",
    "1 of 2 ranks failed in this update; none has stepped. See their messages.",
]


def test_any_split_over_ranks_and_batches_gives_the_gradient_of_one_batch(copies):
    first, second = copies("gradients")
    for rank in (first, second):
        assert rank["errors"] <= 1e-6
        assert rank["losses"] <= 1e-6
        assert rank["weights"] == [rank["weight"]]
    assert first["told"] == second["told"]
    assert first["unequal"] > 50


def test_a_rank_may_weigh_nothing_or_have_no_batch(copies):
    for rank in copies("one_rank_weighs_nothing"):
        for name, (error, applied, scale) in rank["errors"].items():
            assert error <= (1e-6 if "fp32" in name else 1e-3), name
            assert applied
            assert scale == (1.0 if "fp32" in name else 2.0**8)
        for name, message in rank["nobody"]:
            assert (name, "without a batch" in message) == ("LossError", True)
        assert rank["auto"][0] == "PrecisionError"
        assert "first batch of rank 0, which has none" in rank["auto"][1]


def test_parameters_that_one_rank_or_no_rank_uses(copies):
    first, second = copies("parameters_without_a_gradient")
    for rank in (first, second):
        assert rank["error"] <= 1e-6
        assert rank["has none"] == rank["stays"] == ["ways.2.weight", "ways.2.bias"]
    assert first["parameters"] == second["parameters"]


def test_parameters_of_the_optimizer_alone_are_summed_too(copies):
    assert max(copies("parameters_outside_of_the_model")) <= 1e-6


def test_a_loss_that_exchanges_tensors_is_not_tried_alone(copies):
    first, second = copies("exchanging")
    for rank in (first, second):
        assert max(rank["errors"]) <= 1e-6
        assert rank["kind"] == "coupled"
    assert first["auto"][0] == "PrecisionError"
    assert "Give a mode" in first["auto"][1]
    assert second["auto"][0] == "UpdateError"


def test_memory_that_runs_out_on_some_ranks_changes_no_gradient(copies):
    for rank in copies("out_of_memory"):
        assert rank["updates"] == 54
        assert rank["errors"] <= 1e-6
        assert rank["losses"] <= 1e-6
        for told in (rank["retries"], rank["splits"]):
            assert len(told) == 27
            assert all(counted == expected for counted, expected in told)


OWN_ERROR = {
    "no function": ("LossError", "got 3, expected a function"),
    "at first": ("KeyError", "mine"),
    "after backward": ("KeyError", "mine"),
    "at the second batch": ("KeyError", "mine"),
    "mean": ("LossError", "looks like a mean"),
    "never fits": ("UpdateError", "out of memory, and a batch of a single row"),
}


def test_a_rank_that_fails_ends_the_update_of_all_and_the_next_is_right(copies):
    ranks = copies("failures")
    assert ranks[0].keys() == ranks[1].keys()
    assert len(ranks[0]) == 36
    for name in ranks[0]:
        _, _, case = name.split(", ")
        guilty, other = sorted((rank[name] for rank in ranks), key=lambda each: not each["guilty"])
        expected, message = OWN_ERROR[case]
        assert guilty["error"][0] == expected
        assert message in guilty["error"][1]
        assert other["error"] == FAILED
        for rank in (guilty, other):
            assert rank["cleared"]
            assert rank["stays"]
            assert rank["applied"]
            assert rank["next"] <= {"fp32": 1e-6, "fp16": 1e-3, "bf16": 3e-2}[rank["mode"]]
        assert guilty["mode"] == other["mode"]


def test_an_error_that_is_caught_within_the_update_still_ends_it(copies):
    first, second = copies("swallowed")
    assert len(first) == 3
    for (error, stays), other in zip(first, second, strict=True):
        assert error[0] == "UpdateError"
        assert "caught within the update" in error[1]
        assert stays
        assert other == [FAILED, True]


def test_ranks_skip_a_step_together_and_stay_equal(copies):
    first, second = copies("not_finite")
    assert first == second
    for mode in ("fp32", "bf16", "fp16"):
        told = first[mode]
        assert told["applied"] == [True, False, True, False, True]
        assert told["counters"] == [3, 2]
        after = told["digests"]
        assert (after[0] == after[1], after[2] == after[3]) == (True, True)
        assert len(set(after)) == 3
    assert first["fp16"]["scales"] == [2.0**8, 2.0**7, 2.0**7, 2.0**6, 2.0**6]


def test_ranks_settle_on_one_precision(copies):
    first, second = copies("precisions")
    assert first == second
    for case, message in {
        "different": "rank 0: fp32, rank 1: bf16",
        "auto and given": "rank 0: auto, rank 1: bf16",
        "own and given": "rank 0: bf16, rank 1: custom",
    }.items():
        assert first[case][0] == "PrecisionError"
        assert message in first[case][1]
    assert (first["own"], first["given"]) == ("custom", "bf16")
    assert first["auto"] in {"fp32", "bf16"}
    assert first["measured"][0] == first["measured"][1]


def test_weights_are_those_of_the_ranks_that_share_the_model(copies):
    for rank in copies("weights_of_others"):
        assert rank["mistaken"][0] == "LossError"
        assert "global_weight differs over ranks, 5.5 in the mean" in rank["mistaken"][1]
        assert rank["right"] <= 1e-6
        assert rank["group"] <= 1e-6
        assert rank["weight"][0] == rank["weight"][1]


def test_the_wrapper_goes_on_as_before(copies):
    for rank in copies("plain_steps"):
        assert len(rank) == 9
        assert max(rank.values()) <= 1e-6, rank


def test_buffers_are_rank_0s_after_training(copies):
    first, second = copies("buffers")
    assert first["eval"] == second["eval"]
    assert first["eval"]["stays"]
    assert first["train"] == second["train"]
    assert (first["train"]["seen"], first["train"]["stays"]) == (2, False)
    assert first["own"]["digest"] == first["train"]["digest"] != second["own"]["digest"]


def test_wrappers_under_which_the_gradient_would_be_wrong_are_refused(copies):
    for rank in copies("refusals"):
        for case, message in {
            "inside": "DistributedDataParallel inside of the Sequential",
            "static": "static_graph=True",
            "ignoring": "leaves out 0.bias",
        }.items():
            assert rank[case][0] == "UpdateError"
            assert message in rank[case][1]


def test_gradients_of_many_buckets_types_and_layouts(copies):
    assert max(copies("many_gradients")) <= 1e-6


def test_a_resume_on_two_ranks_is_exact(copies):
    for rank in copies("resume"):
        assert len(rank) == 4
        for name, told in rank.items():
            assert told["same"], name
            assert told["loss"][0] == told["loss"][1]
            assert told["scale"][0] == told["scale"][1]
            assert told["mode"] == name.split()[0]


def test_a_rank_that_dies_is_noticed_and_hides_no_error(copies):
    copies("resume")  # all before was well
    assert copies.codes == [0, 3]
    told = copies.results[0]["gone"]
    assert told["own"] == ["KeyError", "'mine'"]
    assert told["waiting"][0] == "RuntimeError"
    assert "imed out" not in told["waiting"][1]


def test_shards_give_the_gradient_of_one_batch(shards):
    for rank in shards("gradients"):
        assert rank["errors"] <= 1e-6
        assert rank["weights"] == [rank["weight"]]


def test_a_clipped_step_of_shards_is_that_of_one_process(shards):
    for rank in shards("steps"):
        assert rank.keys() == {"shards", "replicas", "both"}
        for told in rank.values():
            assert told["error"] <= 1e-6
            assert told["norm"][0] == pytest.approx(told["norm"][1], rel=1e-6)
            assert told["applied"]


def test_shards_that_are_not_finite_on_one_rank(shards):
    first, second = shards("not_finite")
    assert first == second
    for told in first.values():
        assert told["applied"] == told["moved"] == [True, False, True, False, True]
    assert first["fp16"]["scales"] == [2.0**8, 2.0**7, 2.0**7, 2.0**6, 2.0**6]


def test_ranks_with_shards_settle_on_one_precision(shards):
    first, second = shards("precisions")
    assert first == second
    assert first["different"][0] == "PrecisionError"
    assert {first["auto"], first["measured"]} <= {"fp32", "bf16"}


def test_one_row_on_one_rank_does_not_part_the_passes(shards):
    assert max(shards("one_row_on_one_rank")) <= 1e-6


def test_a_pass_through_shards_that_was_cut_off_is_final(shards):
    for rank in shards("failures"):
        assert rank["loss"][0][0] == "KeyError"
        for case in ("passes", "gradients"):
            assert "out of memory with sharded parameters" in rank[case][0][1]
        for case in ("loss", "passes", "gradients"):
            assert rank[case][1][0] == "UpdateError"
            assert "Make the model anew" in rank[case][1][1]
        assert rank["no function"][0] == "LossError"
        assert rank["next"] <= 1e-6


def test_an_evaluation_between_updates_of_shards(shards):
    for error, weight in shards("evaluation_between"):
        assert error <= 1e-6
        assert weight == shards.results[0]["gradients"]["weight"]


def test_a_sinking_scale_of_shards_names_the_layers(shards):
    for name, message in shards("sinking_scale"):
        assert name == "UpdateError"
        assert "embed.weight, mix.weight" in message


def test_other_shards_are_refused(shards):
    for rank in shards("refusals"):
        for case, message in {
            "partly": "1.weight is not sharded",
            "tensors": "fully_shard did not shard",
            "tensor parallel": "is sharded as",
        }.items():
            assert rank[case][0] == "UpdateError"
            assert message in rank[case][1]
        assert rank["frozen"] is None
    assert shards.codes == [0, 0]


def test_sparse_gradients_are_summed(copies):
    first, second = copies("sparse")
    assert max(first["errors"], second["errors"]) <= 1e-6
    assert first["norms"] == second["norms"]


def test_a_step_that_fails_on_one_rank_leaves_copies_equal(copies):
    first, second = copies("failing_steps")
    errors = [[each[0] for each in rank] for rank in (first, second)]
    assert errors[0][:5] == [None, "OutOfMemoryError", "UpdateError", "OutOfMemoryError", None]
    assert errors[1][:5] == [None, "UpdateError", "KeyError", "KeyError", None]
    assert [each[5:] for each in errors] == [each[:5] for each in errors]
    for one, other in zip(first, second, strict=True):
        assert one[1] == other[1] == 0.1
        assert one[2] == other[2] in {1.0, 2.0**8}
        assert one[3] == other[3]
        assert one[4] == other[4]
    # All take over the step of a rank that did not fail, if there is one.
    assert [each[4] for each in first] == [True, True, True, False, True] * 2


def test_a_reduction_that_fails_on_one_rank_moves_none(copies):
    first, second = copies("failing_reduction")
    assert first["error"] == FAILED
    assert second["error"][0] == "RuntimeError"
    assert first["stays"]
    assert second["stays"]


def test_a_rank_without_labels_takes_part_though_its_loop_passes_over_nothing(copies):
    for rank in copies("windows_without_labels"):
        assert rank == [[True, 4.0], [True, 4.0], [True, 2.0], [False, 0.0]]
