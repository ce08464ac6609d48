"""What `trace` shows of an update is what the ranks got, before the state and after it."""

import json

import pytest

import batchwright as bw
from batchwright.torch import PlanBatchSampler
from tests.cli.command import LENGTHS, facts_of, invoke, run

EPOCH = 2


def planner(world_size, accumulate, **settings):
    settings.setdefault("batching", bw.TokenBudget(2_048))
    return bw.Planner(LENGTHS, world_size=world_size, accumulate=accumulate, seed=5, **settings)


def trained(legs, **settings):
    """Go through an epoch; return the state, the updates before it, and those after it.

    A leg is how many ranks work, how many batches each accumulates, and how many updates they make.
    """
    state, updates = None, []
    for world_size, accumulate, count in legs:
        plans = planner(world_size, accumulate, **settings)
        samplers = [
            PlanBatchSampler(plans, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        for each in samplers:
            each.set_epoch(EPOCH)
            if state is not None:
                each.load_state_dict(state)
        per_rank = [list(each) for each in samplers]
        made = [
            [
                {"rank": rank, "samples": per_rank[rank][place]}
                for place in range(first, min(first + accumulate, len(per_rank[0])))
                for rank in range(world_size)
            ]
            for first in range(0, len(per_rank[0]), accumulate)
        ]
        state = samplers[0].state_after(count * accumulate)
        updates, after = updates + made[:count], made[count:]
    return state, updates, after


def saved(state, folder):
    path = folder / "state.json"
    path.write_text(json.dumps(state))
    return str(path)


@pytest.mark.parametrize(
    ("legs", "settings", "options"),
    [
        ([(2, 1, 5)], {}, ()),
        ([(2, 2, 3), (3, 1, 4), (1, 2, 6)], {}, ()),
        ([(4, 1, 2), (2, 3, 2)], {"order": bw.Sequential()}, ("--order", "sequential")),
        ([(4, 1, 2), (2, 3, 2)], {"order": bw.Shuffle(300)}, ("--window", "300")),
        ([(3, 1, 2), (2, 1, 2)], {"cost": "quadratic"}, ("--cost", "quadratic")),
        ([(2, 1, 4), (4, 1, 1)], {"batching": bw.Packing(600)}, ()),
    ],
)
def test_every_update_has_the_samples_that_the_ranks_got(legs, settings, options, tmp_path):
    state, before, after = trained(legs, **settings)
    command = ("trace", saved(state, tmp_path), "lengths.npy", *options)
    for number, batches in enumerate([*before, *after[:3], after[-1]]):
        if number == len(before) + 3:
            number = len(before) + len(after) - 1  # noqa: PLW2901 -- the last
        facts = facts_of(*command, "--update", str(number))
        assert facts["batches"] == batches
        assert (facts["epoch"], facts["update"]) == (EPOCH, number)
        assert (facts["num_done"], facts["num_updates"]) == (len(before), len(before + after))
    for back in range(1, len(before) + 1):
        assert facts_of(*command, "--update", str(-back))["batches"] == before[-back]
    world_size = legs[-1][0]
    facts = facts_of(*command, "--update", str(len(before)), "--rank", str(world_size - 1))
    assert facts["batches"] == [each for each in after[0] if each["rank"] == world_size - 1]


def test_a_run_with_another_budget_can_be_traced(tmp_path):
    state, before, _ = trained([(2, 1, 5)])
    ranks = planner(2, 1, batching=bw.TokenBudget(1_024))
    sampler = PlanBatchSampler(ranks, rank=0, world_size=2)
    sampler.load_state_dict(state)
    batches = list(sampler)
    path = saved(sampler.state_after(3), tmp_path)
    assert facts_of("trace", path, "lengths.npy", "--update", "-4")["batches"] == before[-1]
    for number in range(5, 12):
        facts = facts_of("trace", path, "lengths.npy", "--update", str(number), "--rank", "0")
        assert facts["batches"] == [{"rank": 0, "samples": batches[number - 5]}]


def test_pieces_say_where_they_begin(tmp_path):
    batching = bw.Packing(64, oversize="split")
    sampler = PlanBatchSampler(planner(1, 1, batching=batching), rank=0, world_size=1)
    sampler.set_epoch(EPOCH)
    batches = list(sampler)
    path = saved(sampler.state_after(3), tmp_path)
    (batch,) = facts_of("trace", path, "lengths.npy", "--update", "7")["batches"]
    pieces = list(zip(batch["samples"], batch["starts"], strict=True))
    assert pieces == [(piece.sample, piece.start) for piece in batches[7]]
    text = invoke("trace", path, "lengths.npy", "--update", "7").stdout
    assert f"rank 0: {pieces[0][0]} from {pieces[0][1]}" in text


@pytest.mark.slow
def test_text_and_process_say_the_same(tmp_path):
    state, before, _ = trained([(2, 1, 5)])
    code, out, err = run("trace", saved(state, tmp_path), "lengths.npy", "--update", "-1")
    assert (code, err) == (0, b"")
    first, *lines = out.decode().splitlines()
    assert first.startswith("epoch 2, update 4 of ")
    assert "before the state; 2 ranks, 1 batches of each" in first
    assert lines == [
        f"rank {each['rank']}: {', '.join(map(str, each['samples']))}" for each in before[-1]
    ]


def test_an_index_and_a_plan_are_sources(tmp_path):
    state, before, _ = trained([(2, 1, 5)])
    path, index = saved(state, tmp_path), tmp_path / "lengths.index"
    bw.LengthIndex.build(LENGTHS, index)
    assert facts_of("trace", path, str(index), "--update", "2")["batches"] == before[2]
    plan = planner(2, 1)(1)
    sampler = PlanBatchSampler(plan, rank=0, world_size=2)
    next(iter(sampler))
    path = saved(sampler.state_after(4), tmp_path)
    plan.save(tmp_path / "plan.safetensors")
    facts = facts_of("trace", path, str(tmp_path / "plan.safetensors"), "--update", "7")
    assert [each["samples"] for each in facts["batches"]] == [plan[14].tolist(), plan[15].tolist()]
    refused = invoke("trace", path, "lengths.npy", "--update", "7")
    assert refused.exit_code == 2
    assert "saved by a sampler of one plan" in refused.stderr


def test_bad_input_is_one_line(tmp_path):
    state, before, after = trained([(2, 1, 5)])
    path, total = saved(state, tmp_path), len(before + after)
    broken, begun = tmp_path / "broken.json", tmp_path / "begun.json"
    broken.write_text("{")
    begun.write_text(json.dumps(PlanBatchSampler(planner(2, 1)).state_after(0)))
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(state | {"epoch": 3}))
    for arguments, said in (
        ((path, "lengths.npy", "--update", str(total)), f"has updates 0 to {total - 1}"),
        ((path, "lengths.npy", "--update", "-6"), "5 of which were done"),
        ((path, "lengths.npy", "--update", "0", "--rank", "2"), "had 2 ranks"),
        ((path, "lengths.npy", "--update", "half"), "not a valid integer"),
        ((path, "lengths.npy"), "Missing option '--update'"),
        ((path, "other.npy", "--update", "0"), "saved with other lengths"),
        ((path, "nothing.npy", "--update", "0"), "nothing.npy"),
        ((path, "lengths.npy", "--update", "0", "--order", "sequential"), "was planned as"),
        (("nothing.json", "lengths.npy", "--update", "0"), "nothing.json: no such file"),
        ((str(broken), "lengths.npy", "--update", "0"), "not JSON"),
        ((str(begun), "lengths.npy", "--update", "0"), "no update of epoch 0 was begun"),
        ((str(changed), "lengths.npy", "--update", "0"), "changed after it was saved"),
        (("lengths.npy", "lengths.npy", "--update", "0"), "not JSON"),
    ):
        result = invoke("trace", *arguments)
        assert result.exit_code == 2, arguments
        assert said in result.stderr, (arguments, result.stderr)
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
