"""Kinds of files that lengths, columns and scores are read from, damaged; and odd names for them."""

import bz2
import csv
import gzip
import io
import json
import math
import os
import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

import batchwright.advise
import batchwright.cli.group  # noqa: F401 -- imported once, not in each fork
from tests.sources.token_files import write_datatrove, write_megatron
from tests.stress.mutations import damaged, edited, odd_value
from tests.stress.saved_files import Kind, of_command

CODECS = {"": None, ".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}

NAMES = ("a", "a b", "[red]a", "a\x1b[31mb", "a\nb", "é", os.fsdecode(b"a\xff"), "-a", "a" * 200)
COLUMNS = (
    "length",
    "text",
    "a,b",
    'a"b',
    "[bold]",
    "\x1b[2J",
    "",
    " ",
    "0",
    "a\nb",
    "é",
    "n" * 300,
)


# -- what reads a file ----------------------------------------------------------------------------


def read_by(about, name, columns, rng, facts=None):
    """Make a case of a command that reads a file, and perhaps compare what it says."""
    column = str(rng.choice([*columns, "missing"] if rng.random() < 0.1 else columns))
    chosen = [] if rng.random() < 0.2 else [column]
    fitting = {"length": [""], "values": [""], "tokens": ["", "items"]}
    fitting = fitting.get(column, ["characters", "words", "bytes"])
    some = fitting if rng.random() < 0.8 else ["", "characters", "words", "bytes", "items"]
    measure = str(rng.choice(some))
    measure = ["--measure", measure] if measure else []
    action = rng.random()
    if action < 0.7:
        arguments = ["plan", *_length(chosen), *measure, "--fixed-size", "3", "--json"]
        arguments += ["--no-cache"] if rng.random() < 0.8 else []
    elif action < 0.9:
        by = str(rng.choice(["length", "rarity", "compression"]))
        arguments = ["score", "--by", by, "-o", "scores", "--json"]
        arguments += [f"--column={c}" for c in chosen] + (measure if by == "length" else [])
        arguments += ["--within", column] if rng.random() < 0.2 else []
    else:
        arguments = ["advise", *_length(chosen), "--json"]
        arguments += [f"{option}={column}" for option in ("--labels", "--groups", "--text")]
    arguments += ["--", name]

    def refuse(out):
        if arguments[0] != "plan" or facts is None:
            return None
        wanted = facts(chosen[0] if chosen else None, measure[1] if measure else None)
        told = json.loads(out)
        found = told["num_samples"], told["num_tokens"]
        return None if wanted is None or found == wanted else f"{found}, expected {wanted}"

    return of_command(about, arguments, refuse)


def _length(chosen):
    return [f"--length={column}" for column in chosen]


def name_for(suffix, rng):
    """Return a file's name, odd now and then."""
    return (NAMES[rng.integers(len(NAMES))] if rng.random() < 0.2 else "a") + suffix


def packed(path, content, suffix, rng):
    """Write a file, compressed as its suffix says; damage before or after that."""
    before = rng.random() < 0.7
    if before:
        content = damaged(content, rng)
    codec = CODECS[suffix]
    if codec is not None:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(content)
        content = sink.getvalue().to_pybytes()
    if not before:
        content = damaged(content, rng)
    path.write_bytes(content)


def unpacked(path):
    """Return what a file holds, by Python's own readers; None where it has none, or cannot."""
    content = path.read_bytes()
    try:
        if path.suffix == ".gz":
            return gzip.decompress(content)
        if path.suffix == ".bz2":
            return bz2.decompress(content)
    except (OSError, EOFError, ValueError):
        return None
    return None if path.suffix in CODECS else content


# -- text -----------------------------------------------------------------------------------------


def some_rows(rng):
    size = int(rng.integers(1, 40))
    if rng.random() < 0.05:
        size *= 200
    words = ("to be", "or not", "é 漢", 'a "q"', "x" * 50, "a,b", "1", "null", "NaN")
    return [
        {
            "length": int(rng.integers(1, 2000)),
            "text": words[rng.integers(len(words))],
            "tokens": list(range(rng.integers(1, 5))),
            "label": int(rng.integers(3)),
        }
        for _ in range(size)
    ]


def damaged_json_lines(folder, rng):
    suffix = str(rng.choice([".jsonl", ".ndjson"])), str(rng.choice(list(CODECS)))
    path = folder / name_for("".join(suffix), rng)
    rows = some_rows(rng)
    for _ in range(rng.integers(3)):
        k = int(rng.integers(len(rows)))
        rows[k] = edited(rows[k], rng) if rng.random() < 0.5 else rows[k]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    packed(path, text.encode("utf-8", "surrogatepass"), suffix[1], rng)

    def facts(column, measure):
        content = unpacked(path)
        if content is None or column != "length" or measure is not None:
            return None
        rows = [
            json.loads(line)
            for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
            if line.strip()
        ]
        return len(rows), sum(int(row["length"]) for row in rows)

    return read_by("JSON lines", path.name, ("length", "text", "tokens"), rng, facts)


def damaged_csv(folder, rng):
    kind, suffix = str(rng.choice([".csv", ".tsv"])), str(rng.choice(list(CODECS)))
    path = folder / name_for(kind + suffix, rng)
    text = io.StringIO(newline="")
    delimiter = "," if kind == ".csv" else "\t"
    fields = ["length", "text", "label"]
    fields = fields[:1] if rng.random() < 0.2 else fields
    end = str(rng.choice(["\n", "\r\n", "\r"]))
    quoting = int(rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.DictWriter(
        text,
        fields,
        delimiter=delimiter,
        extrasaction="ignore",
        lineterminator=end,
        quoting=quoting,
    )
    writer.writeheader()
    writer.writerows(some_rows(rng))
    content = text.getvalue().encode()
    if rng.random() < 0.1:
        content = b"\xef\xbb\xbf" + content
    packed(path, content, suffix, rng)

    def facts(column, measure):
        content = unpacked(path)
        if content is None or column != "length" or measure is not None or b'"' in content:
            return None
        lines = re.split("\r\n|\r|\n", re.sub("(\r\n|\r|\n)\\Z", "", content.decode("utf-8-sig")))
        rows = list(csv.reader(lines, delimiter=delimiter))
        if len(rows[0]) > 1:
            rows = [row for row in rows if row]
        values = [row[rows[0].index("length")] for row in rows[1:]]
        return len(values), sum(int(float(value)) for value in values)

    return read_by("CSV", path.name, fields, rng, facts)


def damaged_text(folder, rng):
    suffix = str(rng.choice(list(CODECS)))
    path = folder / name_for(f".txt{suffix}", rng)
    packed(path, "\n".join(row["text"] for row in some_rows(rng)).encode(), suffix, rng)
    by = str(rng.choice(["length", "rarity", "compression"]))
    measure = ["--measure", "words"] if by == "length" else []
    arguments = ["score", "--by", by, *measure, "-o", "scores", "--json", "--", path.name]
    return of_command("text", arguments, lambda _: None)


def endless_text(folder, rng):
    """A line without end, or far more lines than a file of its size holds, in few bytes."""
    kind, suffix = (
        str(rng.choice([".jsonl", ".csv", ".txt"])),
        str(rng.choice([".gz", ".zst"])),
    )
    path = folder / f"a{kind}{suffix}"
    head = {".jsonl": b'{"length": "', ".csv": b"length\n", ".txt": b""}[kind]
    piece = (b"a", b"[", b'"', b"1,", b'{"length": 5}\n', b"5\n", b"\n", b"\r", b"\0")[
        rng.integers(9)
    ]
    head = b"" if piece.startswith(b"{") else head
    with pa.CompressedOutputStream(str(path), CODECS[suffix]) as stream:
        stream.write(head)
        for _ in range(100):
            stream.write(piece * ((1 << 20) // len(piece)))
    if kind == ".txt":
        return of_command(
            f"{piece} for ever",
            ["score", "--by", "length", "--measure", "words", "-o", "scores", path.name],
            lambda _: None,
        )
    return of_command(
        f"{piece} for ever", ["plan", path.name, "--fixed-size", "9", "--json"], lambda _: None
    )


# -- .npy -----------------------------------------------------------------------------------------


def some_array(rng):
    size = int(rng.integers(1, 60))
    dtypes = [
        "i8",
        "i4",
        "u8",
        "f8",
        ">i8",
        "f2",
        "i1",
        "?",
        "c8",
        "U3",
        "S3",
        "M8[s]",
        "m8[D]",
        "g",
    ]
    dtypes += [
        [("length", "i8"), ("x", "f4", (2,))],
        [("a", "i4"), ("\x1b[31m", ">f8")],
        [("length", "S2")],
    ]
    dtype = dtypes[0] if rng.random() < 0.5 else dtypes[rng.integers(len(dtypes))]
    array = rng.integers(1, 100, size).astype(np.int64)
    if isinstance(dtype, list):
        return np.zeros(size, dtype)
    array = array.astype(dtype)
    if array.dtype.kind == "f" and rng.random() < 0.5:
        array[rng.integers(size)] = rng.choice([np.nan, np.inf, -1, 0.5, 1e19])
    return array if rng.random() < 0.9 else array.reshape(1, -1)


def crafted_header(content, rng):
    """Write another header over the array: of odd words, or of odd values."""
    descr = (
        "'<i8'",
        "'|O'",
        "'<i99'",
        "[('a', '<i8')]",
        "'|V0'",
        "('<i8', (2,))",
        "'<f8'",
        "-" * 3000 + "1",
        "'\\x1b'",
        "b'<i8'",
    )
    shape = (
        "(3,)",
        "(10**15,)",
        "(-1,)",
        "(2**63,)",
        "(True,)",
        "(3.0,)",
        "()",
        "(0,)",
        "3",
        "(1,)*99",
        "((((((1))))))",
        "(4611686018427387904,)",
    )
    text = f"{{'descr': {descr[rng.integers(len(descr))]}, 'fortran_order': False, 'shape': {shape[rng.integers(len(shape))]}, }}"
    if rng.random() < 0.3:
        text = damaged(text.encode(), rng).decode("latin-1")
    version = int(rng.integers(1, 4))
    encoded = text.encode("latin-1" if version < 3 else "utf-8") + b"\n"
    width = 2 if version == 1 else 4
    size = len(encoded) if rng.random() < 0.9 else int(rng.integers(1, 2**16))
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + size.to_bytes(width, "little")
        + encoded
        + content[128:]
    )


def damaged_npy(folder, rng):
    path = folder / name_for(".npy", rng)
    buffer = io.BytesIO()
    array = some_array(rng)
    (np.savez if rng.random() < 0.05 else np.save)(buffer, array)
    content = buffer.getvalue()
    path.write_bytes(crafted_header(content, rng) if rng.random() < 0.4 else damaged(content, rng))

    def facts(column, measure):
        found = np.load(path, allow_pickle=False)
        values = found if found.dtype.names is None else found[column or "length"]
        return len(values), sum(int(value) for value in values)

    return read_by(".npy", path.name, array.dtype.names or ("values",), rng, facts)


# -- Parquet and Arrow ----------------------------------------------------------------------------


def odd_column(size, rng):
    """Return a column of some type that Arrow has."""
    numbers = rng.integers(1, 100, size).tolist()
    texts = [f"a {k}" for k in numbers]
    lists = [list(range(k % 4 + (k > 9))) for k in numbers]
    makers = (
        lambda: pa.array(numbers, pa.int64()),
        lambda: pa.array(numbers, pa.uint8()),
        lambda: pa.array([2**64 - k for k in numbers], pa.uint64()),
        lambda: pa.array([Decimal(k) / 4 for k in numbers], pa.decimal128(38, 2)),
        lambda: pa.array([Decimal(10**60 + k) for k in numbers], pa.decimal256(70, 0)),
        lambda: pa.array([bool(k % 2) for k in numbers]),
        lambda: pa.array(numbers, pa.int32()).cast(pa.date32()),
        lambda: pa.array(numbers, pa.int64()).cast(pa.timestamp("us")),
        lambda: pa.array(numbers, pa.int64()).cast(pa.duration("s")),
        lambda: pa.array(numbers, pa.float64()).cast(pa.float16()),
        lambda: pa.array([math.nan, *numbers[1:]], pa.float64()),
        lambda: pa.array([None, *numbers[1:]], pa.int64()),
        lambda: pa.array([None] * size),
        lambda: pa.array(texts),
        lambda: pa.array(texts).dictionary_encode(),
        lambda: pa.array(texts, pa.large_string()),
        lambda: pa.array(texts, pa.string_view()),
        lambda: pa.array([t.encode() for t in texts]),
        lambda: pa.array([b"abc"] * size, pa.binary(3)),
        lambda: pa.array(lists),
        lambda: pa.array(lists, pa.large_list(pa.int8())),
        lambda: pa.array([[1, 2]] * size, pa.list_(pa.int64(), 2)),
        lambda: pa.array([lists[:3]] * size),
        lambda: pa.array([{"a": k} for k in numbers]),
        lambda: pa.array([[("a", k)] for k in numbers], pa.map_(pa.string(), pa.int64())),
        lambda: pa.array(numbers).dictionary_encode(),
        lambda: pyarrow.compute.run_end_encode(pa.array(numbers)),
        lambda: pa.array([None, *lists[1:]], pa.list_view(pa.int64())),
        lambda: pa.DictionaryArray.from_arrays(pa.array([0] * size), pa.array([None], pa.int64())),
    )
    return makers[rng.integers(len(makers))]()


def some_table(rng):
    """Make a table of odd columns with odd names."""
    size = int(rng.integers(0, 40))
    if rng.random() < 0.1:
        size *= 300
    names = [str(rng.choice(COLUMNS)) for _ in range(rng.integers(1, 4))]
    names[0] = "length" if rng.random() < 0.5 else names[0]
    columns = [odd_column(max(1, size), rng) for _ in names]
    return pa.table(columns, names=names)


def parquet_bytes(table, rng):
    sink = io.BytesIO()
    with_options = {
        "compression": str(rng.choice(["none", "snappy", "gzip", "zstd", "brotli", "lz4"])),
        "use_dictionary": bool(rng.random() < 0.5),
        "row_group_size": int(rng.integers(1, 50)) if table.num_rows < 100 else 5000,
        "data_page_version": str(rng.choice(["1.0", "2.0"])),
        "write_page_checksum": bool(rng.random() < 0.2),
    }
    try:
        pq.write_table(table, sink, **with_options)
    except (pa.ArrowException, NotImplementedError):  # a type that Parquet has not
        sink = io.BytesIO()
        pq.write_table(pa.table({"length": [1, 2, 3]}), sink)
    return sink.getvalue()


def arrow_bytes(table, rng, *, stream):
    sink = pa.BufferOutputStream()
    codec = [None, "lz4", "zstd"][rng.integers(3)]
    options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)  # forks follow
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=int(rng.integers(1, 50)))
    return sink.getvalue().to_pybytes()


def damaged_columns(suffix, *, stream=False):
    def damage(folder, rng):
        path = folder / name_for(suffix, rng)
        table = some_table(rng)
        content = (
            parquet_bytes(table, rng)
            if suffix == ".parquet"
            else arrow_bytes(table, rng, stream=stream)
        )
        path.write_bytes(content if rng.random() < 0.2 else damaged(content, rng))
        return read_by("columns", path.name, table.column_names, rng)

    return damage


def damaged_token_index(folder, rng):
    """Damage the index of a corpus of Megatron or datatrove, or the file beside it."""
    lists = [[int(token)] * int(token) for token in rng.integers(1, 50, rng.integers(1, 40))]
    kind = str(rng.choice([".idx", ".ds.index"]))
    path = folder / name_for(kind, rng)
    if kind == ".idx":
        write_megatron(path, lists, modes=bool(rng.random() < 0.2))
    else:
        write_datatrove(path.with_suffix(""), lists)
        if rng.random() < 0.5:
            path.with_suffix("").unlink()
    path.write_bytes(damaged(path.read_bytes(), rng))
    return read_by("token index", path.name, ("length", "document_length"), rng)


# -- saved data sets, tokenizers and places -------------------------------------------------------


def damaged_data_set(folder, rng):
    """Damage the description of a saved data set, or one of its files."""
    saved = folder / name_for("", rng).replace("-a", "a")
    saved.mkdir()
    files = [f"data-{k:05d}-of-00002.arrow" for k in range(2)]
    for file in files:
        rows = some_rows(rng)
        table = pa.table(
            {name: [row[name] for row in rows] for name in ("length", "text", "tokens")}
        )
        (saved / file).write_bytes(arrow_bytes(table, rng, stream=True))
    state = {
        "_data_files": [{"filename": file} for file in files],
        "_fingerprint": "0",
        "_split": None,
    }
    action = rng.random()
    if action < 0.4:
        state = edited(state, rng)
    content = json.dumps(state).encode("utf-8", "surrogatepass")
    (saved / "state.json").write_bytes(damaged(content, rng) if 0.4 <= action < 0.7 else content)
    if action >= 0.7:
        shard = saved / files[rng.integers(2)]
        shard.write_bytes(damaged(shard.read_bytes(), rng))
    if rng.random() < 0.05:
        (saved / "dataset_dict.json").write_text(json.dumps(odd_value(rng)))
    return read_by("saved", saved.name, ("length", "text", "tokens"), rng)


TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": 0, "content": "?", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"?": 0, "to": 1, "be": 2}, "unk_token": "?"},
}  # fmt: skip


def damaged_tokenizer(folder, rng):
    (folder / "a.csv").write_text("text,n\nto be,1\nor not,2\n")
    told = edited(TOKENIZER, rng) if rng.random() < 0.6 else TOKENIZER
    content = json.dumps(told).encode("utf-8", "surrogatepass")
    (folder / "tokenizer.json").write_bytes(damaged(content, rng) if told is TOKENIZER else content)
    command = ["plan", "a.csv", "--tokenizer", "tokenizer.json", "--fixed-size", "3", "--no-cache"]
    return of_command("tokenizer", [*command, "--json"], lambda _: None)


def odd_place(folder, rng):
    """Name what is no file of the kind that its name says, or no file at all."""
    name = name_for(
        str(rng.choice([".csv", ".jsonl", ".npy", ".parquet", ".arrow", ".csv.gz", ".txt"])), rng
    )
    place = folder / name
    action = int(rng.integers(9))
    if action == 0:
        os.mkfifo(place)
    elif action == 1:
        place.mkdir()
    elif action == 2:
        place.symlink_to(folder / "missing")
    elif action == 3:
        place.symlink_to(place)
    elif action == 4:
        place.symlink_to(("/dev/null", "/dev/zero", "/dev/full")[rng.integers(3)])
    elif action == 5:
        place.touch()
    elif action == 6:
        name = ("a" * 300, "a\0b", "*.csv", "a[", "/", "//", "~", ".", "", " ", "**/*")[
            rng.integers(11)
        ]
    else:
        other = (parquet_bytes, lambda t, r: arrow_bytes(t, r, stream=False))[rng.integers(2)]
        place.write_bytes(other(some_table(rng), rng))
    return read_by(f"place {action}", name, ("length",), rng)


KINDS = (
    Kind("JSON lines", damaged_json_lines),
    Kind("CSV", damaged_csv),
    Kind("text", damaged_text),
    Kind(".npy", damaged_npy),
    Kind("Parquet", damaged_columns(".parquet")),
    Kind("Arrow file", damaged_columns(".feather")),
    Kind("Arrow stream", damaged_columns(".arrow", stream=True)),
    Kind("token index", damaged_token_index),
    Kind("saved data set", damaged_data_set),
    Kind("tokenizer", damaged_tokenizer),
    Kind("place", odd_place),
    Kind("endless text", endless_text),
)
