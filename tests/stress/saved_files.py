"""Kinds of files that Batchwright saves, damaged: plans, tables, states, results."""

import contextlib
import hashlib
import io
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import batchwright as bw
from batchwright.cli import main
from batchwright.compare import result_file
from batchwright.difficulty import Dynamics
from tests.stress.mutations import damaged, edited, edited_array

DTYPES = {"i1": "I8", "i4": "I32", "i8": "I64", "u8": "U64", "f4": "F32", "f8": "F64", "b1": "BOOL"}


@dataclass(frozen=True)
class Case:
    """A damaged file, and what reads it.

    Attributes:
        about: What was done to it.
        run: Reads it, and returns the exit code.
        refuse: From standard output to what is wrong with exit code 0, or None.
        arguments: Of the command, if it is one.
    """

    about: str
    run: Callable[[], int]
    refuse: Callable[[bytes], str | None]
    arguments: list[str] | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: For the summary.
        damaged: Makes a case: `damaged(folder, rng)` writes a file in the folder.
    """

    name: str
    damaged: Callable[[Path, np.random.Generator], Case]


def of_command(about, arguments, refuse):
    """Make a case of a command; it runs in the folder of the file."""
    return Case(about, lambda: main(arguments), refuse, arguments)


# -- plans --------------------------------------------------------------------------------------


def some_plan(rng):
    """Make a plan of a random layout; return it with its lengths."""
    lengths = rng.integers(1, 40, int(rng.integers(1, 60)))
    batchings = (
        bw.TokenBudget(64, pad_to_multiple_of=int(rng.choice([1, 8]))),
        bw.TokenBudget(30, oversize="drop", max_samples=4),
        bw.TokenBudget(20, oversize="truncate"),
        bw.Packing(16, oversize="split"),
        bw.Buckets(3, max_tokens=80),
        bw.FixedSize(4),
    )
    batching = batchings[rng.integers(len(batchings))]
    try:
        return bw.plan(lengths, batching=batching, seed=int(rng.integers(100))), lengths
    except bw.BatchwrightError:
        return bw.plan(lengths, batching=bw.FixedSize(1)), lengths


def split_file(content):
    """Take a safetensors file apart: arrays, metadata."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    metadata = header.pop("__metadata__")
    types = {name: dtype for dtype, name in DTYPES.items()}
    arrays = {
        name: np.frombuffer(content[8 + size :][slice(*each["data_offsets"])], types[each["dtype"]])
        for name, each in header.items()
    }
    return arrays, metadata


def joined_file(arrays, metadata):
    """Put a safetensors file together, whatever it says."""
    header, data = {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        more = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": DTYPES[array.dtype.str[1:]],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(more)],
        }
        data += more
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def plan_digest(arrays, metadata):
    """Hash a plan file as the format says, without the library."""
    hashed = hashlib.sha256()
    names = ["indices", "offsets", *(["starts"] if "starts" in arrays else [])]
    dropped = sorted(name for name in arrays if name.startswith("dropped."))
    for name in [*names, *dropped]:
        array = np.ascontiguousarray(arrays[name]).astype("<i8")
        hashed.update(f"{name.removeprefix('dropped.')}:{array.size}:".encode() + array.tobytes())
    told = f"{hashed.hexdigest()[:32]}{metadata['layout']}{metadata['origin']}"
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def crafted_plan(content, rng):
    """Change a plan's arrays or metadata, and make the digest fit."""
    arrays, metadata = split_file(content)
    if rng.random() < 0.3:
        name = list(arrays)[rng.integers(len(arrays))]
        arrays[name] = edited_array(arrays[name], rng)
    if rng.random() < 0.1:
        arrays[("starts", "dropped.x", "dropped.\x1b[31m\n[b]", "more")[rng.integers(4)]] = arrays[
            "indices"
        ][:1]
    for name in ("layout", "origin"):
        if rng.random() < 0.5:
            metadata[name] = json.dumps(edited(json.loads(metadata[name]), rng))
    if rng.random() < 0.02:
        metadata["origin"] = "[" * 100_000
    try:
        metadata["digest"] = plan_digest(arrays, metadata)
    except (KeyError, ValueError, TypeError):
        metadata["digest"] = ""
    return joined_file(arrays, metadata)


def damaged_plan(folder, rng):
    """Damage a plan, and inspect it, with or without its lengths."""
    path, lengths_path = folder / "plan", folder / "lengths.npy"
    plan, lengths = some_plan(rng)
    plan.save(path)
    np.save(lengths_path, lengths)
    original = path.read_bytes()
    is_crafted = rng.random() < 0.5
    content = crafted_plan(original, rng) if is_crafted else damaged(original, rng)
    path.write_bytes(content)
    source = [["lengths.npy"], []][rng.integers(2)]
    dial = ["--dial"] if source and rng.random() < 0.1 else []
    arguments = ["inspect", "plan", *source, *dial]
    arguments += ["--json"] if rng.random() < 0.8 else []
    arguments += ["--html", "page.html"] if rng.random() < 0.02 else []

    def refuse(out):
        if not out.decode().replace("\n", "").isprintable():
            return "control characters"
        if is_crafted:
            return _refuse_crafted(content, out, is_json="--json" in arguments)
        if bw.Plan.load(path) != plan or bw.Plan.load(path).layout != plan.layout:
            return "another plan was read"
        return None

    return of_command("crafted" if is_crafted else "damaged", arguments, refuse)


def _refuse_crafted(content, out, *, is_json):
    """Say why a plan that was accepted is none, by the file alone."""
    arrays, metadata = split_file(content)
    origin = json.loads(metadata["origin"])
    indices, offsets = arrays["indices"].tolist(), arrays["offsets"].tolist()
    if offsets[0] != 0 or offsets[-1] != len(indices) or sorted(set(offsets)) != offsets:
        return f"offsets {offsets[:20]}"
    beyond = origin.get("num_samples")
    if min(indices) < 0 or (beyond is not None and max(indices) >= beyond):
        return f"indices {min(indices)} to {max(indices)} of {beyond}"
    if is_json:
        facts = json.loads(out)
        wanted = (len(offsets) - 1, beyond, origin.get("seed", 0))
        if (facts["num_batches"], facts["num_lengths"], facts["seed"]) != wanted:
            return f"{facts['num_batches']} batches, expected {wanted}"
    return None


# -- tables and their states --------------------------------------------------------------------


def some_table(rng):
    table = bw.LossTable(int(rng.integers(1, 9)))
    for call in range(rng.integers(5)):
        members = rng.integers(table.losses.size, size=3)
        table.record(members, rng.random(3))
        if rng.random() < 0.5:
            table.cut(call)
    return table


def some_dynamics(rng):
    dynamics = Dynamics(int(rng.integers(1, 9)))
    for _ in range(rng.integers(4)):
        members = rng.integers(dynamics.num_samples, size=3)
        dynamics.record(members, rng.dirichlet(np.ones(3), 3), rng.integers(3, size=3))
    return dynamics


def empty_copy(made):
    if isinstance(made, Dynamics):
        return Dynamics(made.num_samples)
    return bw.LossTable(made.losses.size)


def _plain(state):
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in state.items()}


def reading(load, use):
    """Run what reads a file as the command would: our own errors are one line and code 2."""

    def run():
        try:
            use(load())
        except bw.BatchwrightError as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    return run


def damaged_table(make):
    def damage(folder, rng):
        """Damage a saved table, and go on with it."""
        path = folder / "table"
        made = make(rng)
        made.save(path)
        before = repr(_plain(made.state_dict()))
        path.write_bytes(damaged(path.read_bytes(), rng))

        def load():
            if isinstance(made, Dynamics):
                return Dynamics.load(path)
            table = empty_copy(made)
            table.load(path)
            return table

        def refuse(_):
            return None if repr(_plain(load().state_dict())) == before else "other numbers"

        return Case("damaged", reading(load, _use), refuse)

    return damage


def damaged_state(make):
    def damage(folder, rng):
        """Edit a state, and go on with it."""
        made = make(rng)
        state = made.state_dict()
        for _ in range(rng.integers(1, 3)):
            if rng.random() < 0.5:
                arrays = [name for name, value in state.items() if isinstance(value, np.ndarray)]
                if arrays:
                    name = arrays[rng.integers(len(arrays))]
                    state[name] = edited_array(state[name], rng)
            else:
                state = edited(state, rng)
            if not isinstance(state, dict):
                break

        def load():
            other = empty_copy(made)
            other.load_state_dict(state)
            return other

        def refuse(_):
            kept = _plain(load().state_dict())
            given = json.loads(json.dumps(_plain(state), default=lambda value: value.tolist()))
            return None if repr(kept) == repr(_plain(given)) or _close(kept, given) else "changed"

        return Case("edited", reading(load, _use), refuse)

    return damage


def _close(kept, given):
    return kept.keys() == given.keys() and all(
        np.array_equal(
            np.ravel(kept[k]).astype(float), np.ravel(given[k]).astype(float), equal_nan=True
        )
        for k in kept
        if kept[k] is not None
    )


def _use(made):
    """Do what one does with a table that was loaded."""
    if isinstance(made, Dynamics):
        for name in ("confidence", "variability", "correctness", "forgetting", "el2n", "aum"):
            getattr(made, name)
        made.record([0], [[0.5, 0.5]], [1])
        return
    order = bw.SelfPaced(made, noise_rate=0.2)
    bw.Planner(np.arange(1, made.losses.size + 1), batching=bw.FixedSize(1), order=order)(1)
    made.record([0], [1.0])


# -- results of compare, kept scores ------------------------------------------------------------

RESULT = Path(__file__).resolve().parents[2] / "benchmarks/results/applications/translation.json"


def damaged_result(folder, rng):
    """Damage a result, or edit it so that its checksum fits, and read it."""
    result = json.loads(RESULT.read_bytes()) | {"format": result_file.FORMAT}
    result |= {"plans": {}, "audits": {}}
    path = folder / "result.json"
    is_crafted = rng.random() < 0.5
    if is_crafted:
        for _ in range(rng.integers(1, 3)):
            name = ("seeds", "runs", "runs", "unfinished", "modes", "format")[rng.integers(6)]
            result[name] = edited(result[name], rng)
        text = json.dumps(result | {"sha256": result_file._hash(result)})
        path.write_text(text, encoding="utf-8")
    else:
        result_file.save(path, result, None)
        path.write_bytes(damaged(path.read_bytes(), rng))

    def refuse(_):
        read = result_file.load(path)[0]
        return None if json.dumps(read) == json.dumps(result) else "another result was read"

    about = "crafted" if is_crafted else "damaged"
    return Case(about, reading(lambda: result_file.load(path), lambda _: None), refuse)


def damaged_scores(folder, rng):
    """Damage what `score` has kept, and score again."""
    texts = ["x" * int(size) for size in rng.integers(1, 9, 12)]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "texts.jsonl").write_text(rows, encoding="utf-8")
    arguments = ["score", "texts.jsonl", "--by", "length", "--measure", "characters"]
    arguments += ["--shard-size", "5", "--folder", "kept", "-o", "scores.npy", "--json"]

    def run():
        with contextlib.redirect_stdout(io.StringIO()):
            main(arguments)
        (folder / "scores.npy").unlink()
        kept = sorted((folder / "kept").iterdir())
        path = kept[rng.integers(len(kept))]
        path.write_bytes(damaged(path.read_bytes(), rng))
        return main(arguments)

    def refuse(_):
        scores = np.load(folder / "scores.npy").tolist()
        return None if scores == [len(text) for text in texts] else f"scores {scores}"

    return Case("damaged", run, refuse)


KINDS = (
    Kind("plan", damaged_plan),
    Kind("loss table", damaged_table(some_table)),
    Kind("dynamics", damaged_table(some_dynamics)),
    Kind("result", damaged_result),
    Kind("kept scores", damaged_scores),
    Kind("state of losses", damaged_state(some_table)),
    Kind("state of dynamics", damaged_state(some_dynamics)),
)
