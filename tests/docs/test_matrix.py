"""What the page of frameworks says is tested, is: each cell of its table has tests."""

import ast
from functools import cache

from tests.docs.blocks import ROOT

LOADER = "tests/torch/test_plan_loader.py::"
ON_RANKS = "tests/integrations/test_transformers_on_ranks.py::"
KIN = "tests/integrations/test_kin_on_ranks.py::"
LIGHTNING = "tests/integrations/test_lightning.py::"
BACKENDS = "tests/keras/on_each_backend.py::"
TRAINER = "tests/integrations/test_transformers.py::"
KERAS_RANKS = "tests/keras/test_killed_ranks.py::"
LOADERS = "tests/docs/test_loaders.py::"
RAY = "tests/integrations/test_ray_train.py::"

ACCELERATE = LOADER + "test_ranks_of_accelerate_read_the_plan"
KILLED = (
    "tests/integrations/test_torchrun.py::"
    "test_a_killed_run_goes_on_on_other_ranks_as_if_nothing_had_happened"
)
SAME = KIN + "test_one_rank_and_two_read_and_learn_the_same"
FEWER = KIN + "test_one_rank_goes_on_where_two_left_off"
GRAIN = LOADERS + "test_grain_goes_on_where_it_was_also_on_fewer_ranks"
NODES = LOADERS + "test_nodes_go_on_where_they_were_also_on_more_ranks"
DEATHS = RAY + "test_each_sample_of_an_epoch_is_read_once_although_workers_die"
ALONE = RAY + "test_a_job_is_restarted_in_mid_epoch_and_another_goes_on_with_one_worker"

TESTS = {
    "PyTorch loop": (
        LOADER + "test_each_epoch_is_its_plan",
        "tests/torch/test_processes.py::test_two_ranks_share_each_epoch_without_talking",
        KILLED,
        KILLED,
        "tests/torch/test_processes.py::test_a_killed_run_is_resumed_on_two_ranks_and_other_workers",
    ),
    "Accelerate": (
        ACCELERATE,
        ACCELERATE,
        LOADER + "test_accelerate_saves_and_loads_the_position",
        ACCELERATE,
        LOADER + "test_a_state_counts_what_the_loop_took",
    ),
    "Transformers `Trainer`": (
        TRAINER + "test_the_model_reads_what_the_plan_says",
        ON_RANKS + "test_a_run_goes_on_on_other_ranks_as_if_it_had_not_been_killed",
        TRAINER + "test_a_resumed_run_is_the_same_run",
        KILLED,
        KILLED,
    ),
    "TRL `SFTTrainer`, PEFT": (SAME, SAME, SAME, FEWER, SAME),
    "sentence-transformers": (SAME, SAME, SAME, FEWER, SAME),
    "Lightning": (
        LIGHTNING + "test_the_model_reads_the_plan_and_steps_once_an_update",
        LIGHTNING + "test_two_ranks_train_as_one",
        LIGHTNING + "test_a_run_goes_on_where_it_was",
        LIGHTNING + "test_two_ranks_go_on_where_one_was",
        LIGHTNING + "test_one_rank_goes_on_where_two_were",
    ),
    "Keras": (
        BACKENDS + "test_every_epoch_trains_each_sample_of_its_plan_once",
        KERAS_RANKS + "test_ranks_that_are_killed_go_on_on_any_number_of_ranks",
        BACKENDS + "test_a_run_that_is_killed_goes_on_from_its_backup",
        KERAS_RANKS + "test_ranks_that_are_killed_go_on_on_any_number_of_ranks",
        BACKENDS + "test_fit_goes_on_where_a_state_was_saved",
    ),
    "Grain": (
        LOADERS + "test_grain_reads_the_plan_on_each_rank_in_every_epoch",
        LOADERS + "test_grain_reads_the_plan_on_each_rank_in_every_epoch",
        GRAIN,
        GRAIN,
        LOADERS + "test_grain_goes_on_with_as_many_workers_and_refuses_others",
    ),
    "torchdata.nodes": (
        NODES,
        LOADERS + "test_nodes_read_the_plan_on_each_rank_in_every_epoch",
        NODES,
        NODES,
        NODES,
    ),
    "Ray Train": (ALONE, DEATHS, ALONE, ALONE, ALONE),
}
"""For each row of the table the test that holds each cell true."""


@cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def table() -> dict[str, list[str]]:
    page = (ROOT / "docs" / "frameworks" / "index.md").read_text(encoding="utf-8")
    lines = page.partition("## What is tested")[2].splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line[:1]
    ]
    return {name: cells for name, *cells in rows[2:]}


def test_each_cell_has_a_test_that_exists() -> None:
    shown = table()
    assert shown.keys() == TESTS.keys()
    for name, cells in shown.items():
        for cell, test in zip(cells, TESTS[name], strict=True):
            path, _, function = test.partition("::")
            assert cell, name
            assert function in functions_of(path), test
