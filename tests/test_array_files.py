"""Files of arrays: what was changed, is of other programs, or was made up, is one clear error."""

import contextlib
import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import batchwright as bw
from batchwright.difficulty import Dynamics
from tests.cli.command import invoke
from tests.patience import PATIENCE

SOURCE = str(Path(__file__).resolve().parents[1] / "src")
RNG = np.random.default_rng(0)


def a_plan():
    return bw.plan([5, 3, 8, 2, 7, 1, 50], batching=bw.TokenBudget(10, oversize="drop"), seed=3)


def a_table():
    table = bw.LossTable(5)
    table.record([0, 1, 2], [1.0, 2.0, 3.0])
    table.cut(1)
    table.record([3, 1], [1.5, 2.5])
    return table


def dynamics_of(size=5):
    dynamics = Dynamics(size, decay=0.8)
    for _ in range(3):
        members = RNG.permutation(size)[: size - 1]
        dynamics.record(members, RNG.dirichlet(np.ones(3), members.size), members % 3)
    return dynamics


def load_table(path):
    table = bw.LossTable(5)
    table.load(path)
    return table


KINDS = {
    "plan": (a_plan, bw.Plan.load, bw.errors.PlanError),
    "loss table": (a_table, load_table, bw.errors.LengthsError),
    "dynamics": (dynamics_of, Dynamics.load, bw.errors.LengthsError),
}


def state_of(made):
    """Everything that was kept, as plain values."""
    if isinstance(made, bw.Plan):
        return [made.digest(), made.layout, made.origin]
    return {name: np.asarray(value).tolist() for name, value in made.state_dict().items()}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def test_a_file_holds_what_was_saved_and_is_the_only_one(kind, tmp_path):
    make, load, _ = kind
    made = make()
    made.save(tmp_path / "file")
    assert repr(state_of(load(tmp_path / "file"))) == repr(state_of(made))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_other_programs_can_read_it(kind, tmp_path):
    from safetensors.torch import load_file

    kind[0]().save(tmp_path / "file")
    assert all(each.numel() for each in load_file(tmp_path / "file").values())


@pytest.mark.slow
def test_a_bit_changed_anywhere_is_refused_or_of_no_consequence(kind, tmp_path):
    make, load, error = kind
    path = tmp_path / "file"
    made = make()
    made.save(path)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with contextlib.suppress(error):
            loaded = load(path)
            assert place < header  # white space, or which type of whole numbers
            assert repr(state_of(loaded)) == repr(state_of(made))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float16, torch.bool])
def test_a_model_is_none_of_them(kind, dtype, tmp_path):
    _, load, error = kind
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(8, 8).to(dtype)}, path)
    with pytest.raises(error, match=r"model\.safetensors: a safetensors file, but not "):
        load(path)
    assert invoke("inspect", str(path)).exit_code == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2, torch.complex64])
def test_types_of_numbers_that_no_such_file_has_are_refused(kind, dtype, tmp_path):
    make, load, error = kind
    path = tmp_path / "file"
    make().save(path)
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    save_file({"indices": torch.zeros(4).to(dtype)}, path, metadata=metadata)
    with pytest.raises(error, match="'indices' has values of type"):
        load(path)


@pytest.mark.parametrize("what", ["nothing", "folder", "pipe", "text", "empty"])
def test_what_is_no_such_file_is_one_line(kind, what, tmp_path):
    _, load, error = kind
    if what == "nothing":
        error = bw.errors.SourceNotFoundError
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what != "nothing":
        path.write_text("text\n" * 9 if what == "text" else "")
    with pytest.raises(error, match=what) as raised:
        load(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_a_path_may_be_odd(kind, tmp_path):
    make, load, _ = kind
    path = tmp_path / os.fsdecode(b"\xff \n")
    make().save(path)
    assert repr(state_of(load(str(path)))) == repr(state_of(load(path)))


def crafted(path, *, layout=None, origin=None, arrays=None):
    """Write a plan file by hand, with a digest that fits."""
    plan = bw.plan([3, 4, 5, 6], max_tokens=12)
    plan.save(path)
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    for name, edit in (("layout", layout), ("origin", origin)):
        if isinstance(edit, dict):
            metadata[name] = json.dumps(json.loads(metadata[name]) | edit)
        elif edit is not None:
            metadata[name] = edit
    held = {"indices": plan.indices, "offsets": plan.offsets} | (arrays or {})
    hashed = hashlib.sha256()
    for name, array in held.items():
        hashed.update(f"{name}:{array.size}:".encode() + np.asarray(array, "<i8").tobytes())
    told = f"{hashed.hexdigest()[:32]}{metadata['layout']}{metadata['origin']}"
    metadata["digest"] = hashlib.sha256(told.encode()).hexdigest()
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in held.items()}
    save_file(tensors, path, metadata=metadata)


WRONG = [
    {"layout": "[" * 100_000},
    {"origin": '{"seed":' * 100_000},
    *({"layout": "[" * depth + "]" * depth} for depth in (60, 900, 960, 980)),
    {"layout": json.dumps({"shapes": [[1, 2]] * 1_000_000})},
    {"origin": "null"},
    {"layout": "[]"},
    {"origin": '{"seed": ' + "9" * 5000 + "}"},
    *(
        {"origin": {name: value}}
        for name in ("accumulate", "world_size", "seed", "epoch")
        for value in (None, float("nan"), float("inf"), 1.5, "1", [1], {}, True, -1)
    ),
    *({"origin": {"num_samples": value}} for value in (float("nan"), "4", 2**63, 0, 3, [4])),
    {"origin": {"fingerprint": 7}},
    {"origin": {"world_size": 2**40, "accumulate": 2**40}},
    *(
        {"layout": {name: value}}
        for name in ("budget", "max_samples", "multiple", "max_length")
        for value in (2**63, 10**400, -1, 0, 1.5, float("nan"), "12", True, {"a": 1})
    ),
    {"layout": {"multiple": None}},
    {"layout": {"max_length": [5, None]}},
    {"layout": {"kind": None}},
    {"layout": {"kind": ["padded"]}},
    {"layout": {"area": {}}},
    {"layout": {"caps": ["9", 9]}},
    {"layout": {"caps": 9}},
    {"layout": {"shapes": "shapes"}},
    {"layout": {"shapes": [[1, 2, 3]]}},
    {"layout": {"shapes": [[1, []]]}},
    {"layout": {"shapes": [[2**63, 1]]}},
    {"arrays": {"offsets": np.array([0, 2**63 - 1, -2, 4])}},
    {"arrays": {"offsets": np.array([0, 2, 2, 4])}},
    {"arrays": {"more": np.array([0])}},
    {"arrays": {"indices": np.array([[0, 1, 2, 3]])}},
    {"arrays": {"indices": np.array([0.0, 1.0, 2.0, 3.0])}},
]


def test_a_plan_that_was_made_up_is_one_clear_error(tmp_path):
    path = tmp_path / "crafted.safetensors"
    for edits in WRONG:
        crafted(path, **edits)
        with pytest.raises(bw.errors.PlanError, match=r"crafted\.safetensors: ") as error:
            pytest.fail(f"{str(edits)[:80]} is read as {bw.Plan.load(path)}")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1000


@pytest.mark.parametrize("num_samples", [10**8, 10**12, 10**18, None])
def test_what_a_file_claims_is_not_allocated(num_samples, tmp_path):
    path = tmp_path / "crafted.safetensors"
    far = {"indices": np.array([0, 1, 2, (num_samples or 10**18) - 1])}
    crafted(path, origin={"num_samples": num_samples}, arrays=far)
    code = "import sys; from batchwright.cli import main; sys.exit(main(sys.argv[1:]))"

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))

    command = [sys.executable, "-c", code, "inspect", str(path), "--json"]
    environment = os.environ | {"PYTHONPATH": SOURCE}
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        env=environment,
        preexec_fn=limit,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    facts = json.loads(done.stdout)
    assert facts["coverage"]["times"][-1]["samples"] == 4
    assert facts["absent"] == (None if num_samples is None else num_samples - 4)


def test_a_file_of_very_many_arrays_is_refused(kind, tmp_path):
    make, load, error = kind
    path = tmp_path / "file"
    make().save(path)
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    save_file({f"dropped.{each}": torch.zeros(0) for each in range(2_000)}, path, metadata=metadata)
    with pytest.raises(error, match="2000 arrays"):
        load(path)


def test_seeds_of_any_size_and_integers_of_numpy_are_saved(tmp_path):
    for seed in (2**100, np.int64(3), np.uint8(3)):
        plan = bw.plan([5, 3, 4], max_tokens=8, seed=seed)
        plan.save(tmp_path / "plan")
        assert bw.Plan.load(tmp_path / "plan").origin == plan.origin
