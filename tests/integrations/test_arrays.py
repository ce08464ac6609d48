"""Padded batches as NumPy arrays: what a model reads is the plan, in the plan's shapes."""

import json
import pickle
import warnings

import numpy as np
import pytest

import batchwright as bw
from batchwright.errors import BudgetError, ColumnNotFoundError, LengthsError, PlanError
from batchwright.integrations.arrays import Flat, padded, padded_batches

RANDOM = np.random.default_rng(0)
LENGTHS = RANDOM.integers(1, 30, 203)
SAMPLES = [np.full(length, number, np.int32) for number, length in enumerate(LENGTHS)]
FLAT = Flat(np.concatenate(SAMPLES), np.append(0, np.cumsum(LENGTHS)))
BUCKETS = bw.Planner(LENGTHS, batching=bw.Buckets(4, max_tokens=120), world_size=2)


def read(batch) -> list[list[int]]:
    """Return the tokens that the lengths of a batch call real."""
    return [row[:length].tolist() for row, length in zip(*batch, strict=True) if length]


@pytest.mark.parametrize("samples", [SAMPLES, FLAT, [each.tolist() for each in SAMPLES]])
def test_batches_are_those_of_the_plan_in_its_shapes(samples) -> None:
    batches = padded_batches(samples, BUCKETS, pad=-1)
    assert len(batches) == len(list(batches)) == len(BUCKETS.resized(1))
    batches.set_epoch(3)
    for batch, planned in zip(batches, BUCKETS.resized(1)(3), strict=True):
        tokens, lengths = batch
        assert tokens.shape in BUCKETS(0).layout.shapes
        assert read(batch) == [SAMPLES[number].tolist() for number in planned]
        assert lengths.dtype == np.int32
        inside = np.arange(tokens.shape[1]) < lengths[:, None]
        assert (tokens[~inside] == -1).all()
    kept = list if isinstance(samples[0], list) else np.array
    assert tokens.dtype == (np.int64 if kept is list else np.int32)


def test_without_shapes_rows_are_as_long_as_the_longest() -> None:
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(120, pad_to_multiple_of=8))
    for (tokens, lengths), planned in zip(padded_batches(FLAT, planner), planner(0), strict=True):
        assert lengths.tolist() == LENGTHS[planned].tolist()
        assert tokens.shape == (planned.size, -(-lengths.max() // 8) * 8)


def test_ranks_share_an_epoch_and_any_number_of_them_goes_on() -> None:
    seen: list[int] = []
    for rank in range(2):
        batches = padded_batches(FLAT, BUCKETS, rank=rank, world_size=2)
        batches.set_epoch(1)
        for _, batch in zip(range(3), batches, strict=False):
            seen += [row[0] for row in read(batch)]
        state = json.loads(json.dumps(batches.state_dict()))
    assert state == batches.state_after(3)
    for world_size in (1, 2, 3):
        left = list(seen)
        for rank in range(world_size):
            batches = padded_batches(FLAT, BUCKETS, rank=rank, world_size=world_size)
            batches.load_state_dict(state)
            batches = pickle.loads(pickle.dumps(batches))  # noqa: S301
            assert batches.epoch == 1
            left += [row[0] for batch in batches for row in read(batch)]
        assert sorted(left) == list(range(LENGTHS.size))
    batches.load_state_dict(batches.state_dict())
    assert batches.epoch == 2  # epoch 1 was over


def test_an_epoch_that_is_repeated_is_reported() -> None:
    batches = padded_batches(FLAT, BUCKETS)
    list(batches)
    with pytest.warns(UserWarning, match="epoch 0 is repeated"):
        next(iter(batches))
    same = padded_batches(FLAT, BUCKETS(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len([*same, *same]) == 2 * len(same)


def test_fields_keep_their_names_their_types_and_further_dimensions() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    frames = [RANDOM.normal(size=(length, 3)).astype(bfloat16) for length in LENGTHS]
    labels = np.arange(LENGTHS.size, dtype=np.uint8)
    columns = {"frames": frames, "tokens": FLAT, "label": labels}
    dicts = [
        {"frames": frames[number], "tokens": SAMPLES[number], "label": labels[number]}
        for number in range(LENGTHS.size)
    ]
    tuples = [tuple(each.values()) for each in dicts]
    pads = {"tokens": -1, "label": 255}
    both = padded_batches(columns, BUCKETS, pad=pads), padded_batches(dicts, BUCKETS, pad=pads)
    by_place = padded_batches(tuples, BUCKETS, pad={1: -1, 2: 255})
    for one, other, third, planned in zip(*both, by_place, BUCKETS.resized(1)(0), strict=True):
        assert list(one) == list(other) == ["frames", "tokens", "label", "lengths"]
        for name, place in zip(one, range(4), strict=True):
            assert one[name].dtype == other[name].dtype == third[place].dtype
            assert (one[name] == other[name]).all()
            assert (one[name] == third[place]).all()
        assert one["frames"].dtype == bfloat16
        assert one["frames"].shape == (*one["tokens"].shape, 3)
        assert one["label"][: planned.size].tolist() == planned.tolist()
        assert (one["label"][planned.size :] == 255).all()
        assert (one["frames"][0, : LENGTHS[planned[0]]] == frames[planned[0]]).all()


def test_a_data_set_that_fetches_many_samples_at_once_is_asked_once() -> None:
    class Many:
        def __getitems__(self, numbers):
            asked.append(numbers)
            return [{"tokens": SAMPLES[number]} for number in numbers]

    asked: list[list[int]] = []
    batches = list(padded_batches(Many(), BUCKETS))
    assert asked == [planned.tolist() for planned in BUCKETS.resized(1)(0)]
    assert read((batches[0]["tokens"], batches[0]["lengths"]))[0][0] == asked[0][0]


def test_flat_tokens_are_gathered_at_once(monkeypatch) -> None:
    flat_tokens = pytest.importorskip("batchwright.torch").FlatTokens
    tokens = FLAT.tokens.astype(np.uint16)
    dataset = flat_tokens(tokens, FLAT.offsets, columns={"label": np.arange(LENGTHS.size)})
    monkeypatch.delattr("batchwright.torch.data.flat_rows.FlatBatch.__getitem__")
    for batch, planned in zip(padded_batches(dataset, BUCKETS), BUCKETS.resized(1)(0), strict=True):
        assert batch["input_ids"].dtype == np.uint16
        rows = read((batch["input_ids"], batch["lengths"]))
        assert rows == [SAMPLES[number].tolist() for number in planned]
        assert batch["label"][: planned.size].tolist() == planned.tolist()


def test_samples_that_are_empty_have_rows_without_tokens() -> None:
    samples = [np.empty((0, 2)), np.ones((3, 2)), np.empty((0, 2))]
    ((tokens, lengths),) = padded_batches(samples, bw.Planner([1, 3, 1], max_tokens=9))
    assert tokens.sum(axis=(1, 2)).tolist() == (2 * lengths).tolist()
    assert sorted(lengths.tolist()) == [0, 0, 3]


def test_sources_and_targets_take_their_own_columns() -> None:
    pairs = np.stack([LENGTHS, LENGTHS[::-1]], axis=1)
    planner = bw.Planner(pairs, batching=bw.Buckets(4, max_tokens=240))
    samples = [
        {"source": np.full(source, number), "target": np.full(target, number)}
        for number, (source, target) in enumerate(pairs)
    ]
    batches = padded_batches(samples, planner, columns={"source": 0, "target": 1})
    for batch, planned in zip(batches, planner(0), strict=True):
        shape = batch["source"].shape[0], (batch["source"].shape[1], batch["target"].shape[1])
        assert shape in planner(0).layout.shapes
        assert batch["lengths"][: planned.size].tolist() == pairs[planned].tolist()
    with pytest.raises(ColumnNotFoundError, match=r"lengths 2 columns.*columns=\{field"):
        next(iter(padded_batches(samples, planner)))
    with pytest.raises(ColumnNotFoundError, match="Name a field for each column"):
        next(iter(padded_batches(samples, planner, columns={"source": 0})))
    with pytest.raises(ColumnNotFoundError, match=r"entries in 'target'.* in 'source'"):
        list(padded_batches(samples, bw.Planner(LENGTHS, max_tokens=120)))


@pytest.mark.parametrize("samples", [SAMPLES, FLAT])
def test_samples_are_truncated_and_split_as_planned(samples) -> None:
    cut = bw.Planner(LENGTHS, batching=bw.TokenBudget(16, oversize="truncate"))
    for (_, lengths), planned in zip(padded_batches(samples, cut), cut(0), strict=True):
        assert lengths.tolist() == np.minimum(LENGTHS[planned], 16).tolist()
    split = bw.Planner(LENGTHS, batching=bw.Packing(16, oversize="split"))
    counts = np.zeros(LENGTHS.size, dtype=int)
    for tokens, segments, _ in padded_batches(samples, split):
        counts += np.bincount(tokens[segments > 0], minlength=LENGTHS.size)
    assert counts.tolist() == LENGTHS.tolist()
    plan = split(0)
    entries = plan.batches.batch(0)
    direct = padded(samples, entries.samples, plan.layout, starts=entries.starts)
    batches = iter(padded_batches(samples, split))
    assert all((a == b).all() for a, b in zip(direct, next(batches), strict=True))


@pytest.mark.parametrize("align", [1, 4])
def test_packed_rows_say_where_documents_are(align: int) -> None:
    planner = bw.Planner(LENGTHS, batching=bw.Packing(64, align=align))
    batches = padded_batches(FLAT, planner, pad=-1)
    for (tokens, segments, positions), planned in zip(batches, planner(0), strict=True):
        assert tokens.shape == segments.shape == positions.shape == (1, 64)
        assert ((tokens == -1) == (segments == 0)).all()
        for number, sample in enumerate(planned, 1):
            places = np.flatnonzero(segments[0] == number)
            assert tokens[0, places].tolist() == SAMPLES[sample].tolist()
            assert positions[0, places].tolist() == list(range(LENGTHS[sample]))
            assert places[0] % align == 0
        assert segments.max() == planned.size


def test_what_cannot_be_laid_out_is_refused() -> None:
    def first(samples, planner=BUCKETS, **options):
        return next(iter(padded_batches(samples, planner, **options)))

    with pytest.raises(PlanError, match="rank=2 is not in a world of 2"):
        padded_batches(SAMPLES, BUCKETS, rank=2, world_size=2)
    longer = [np.append(each, [0] * 99) for each in SAMPLES]
    with pytest.raises(LengthsError, match=r"fit into none of the plan's shapes"):
        first(longer)
    with pytest.raises(LengthsError, match="more than the capacity of 64"):
        first(longer, bw.Planner(LENGTHS, batching=bw.Packing(64)))
    narrow = {"tokens": [each.astype(np.uint8) for each in SAMPLES]}
    with pytest.raises(BudgetError, match=r"'tokens' is uint8, and cannot hold pad=-100"):
        first(narrow, pad=-100)
    texts = {"tokens": SAMPLES, "text": ["a"] * LENGTHS.size}
    with pytest.raises(LengthsError, match=r"'text' holds no numbers.*Leave it out"):
        first(texts)
    labels = {"tokens": SAMPLES, "label": LENGTHS}
    with pytest.raises(ColumnNotFoundError, match="'label' has one entry a document"):
        first(labels, bw.Planner(LENGTHS, batching=bw.Packing(64)))
    images = [np.ones((length, 2 + length % 2)) for length in LENGTHS]
    with pytest.raises(LengthsError, match="differ in their first dimension only"):
        first(images)
    embeddings = {"tokens": SAMPLES, "embedding": np.ones((LENGTHS.size, 8))}
    with pytest.raises(ColumnNotFoundError, match=r"entries in 'embedding'.*columns="):
        first(embeddings)
    assert first(embeddings, columns={"tokens": 0})["embedding"].shape[1] == 8
    pairs = np.stack([LENGTHS, LENGTHS], axis=1)
    packed = bw.Planner(pairs, batching=bw.Packing((64, 64)))
    with pytest.raises(PlanError, match="packs several columns"):
        first({"a": SAMPLES, "b": SAMPLES}, packed, columns={"a": 0, "b": 1})


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (SAMPLES[:-1], "203 lengths, and 202 samples"),
        ([*SAMPLES, SAMPLES[0]], "203 lengths, and 204 samples"),
        ({"tokens": SAMPLES, "label": LENGTHS[1:]}, "202 samples in field 'label'"),
        (Flat(FLAT.tokens, FLAT.offsets[1:]), "203 lengths, and 202 samples"),
        (iter(SAMPLES), "Give a sequence"),
    ],
)
@pytest.mark.parametrize("plans", [BUCKETS, BUCKETS(0)])
def test_there_is_one_sample_for_each_length(samples, plans, message) -> None:
    with pytest.raises(PlanError, match=message):
        padded_batches(samples, plans)


def test_batches_keep_the_budget_also_where_lengths_are_wrong() -> None:
    planner = bw.Planner(LENGTHS, max_tokens=120)
    longer = [np.append(each, each[:1]) for each in SAMPLES]
    with pytest.raises(LengthsError, match="exceed the plan's budget of 120"):
        list(padded_batches(longer, planner))
    pairs = np.stack([LENGTHS, LENGTHS], axis=1)
    planner = bw.Planner(pairs, batching=bw.TokenBudget(240))
    columns = {"source": 0, "target": 1}
    both = {"source": SAMPLES, "target": longer}
    assert list(padded_batches(both | {"target": SAMPLES}, planner, columns=columns))
    with pytest.raises(LengthsError, match="exceed the plan's budget of 240"):
        list(padded_batches(both, planner, columns=columns))


@pytest.mark.parametrize(
    ("dtype", "pad"),
    [
        (bool, -1),
        (np.int32, 0.5),
        (np.int32, np.nan),
        (np.int32, "x"),
        (np.float16, -1e9),
        (np.uint8, 256),
    ],
)
def test_a_pad_that_a_field_cannot_hold_is_refused(dtype, pad) -> None:
    samples = [each.astype(dtype) for each in SAMPLES]
    with pytest.raises(BudgetError, match="cannot hold pad="):
        next(iter(padded_batches(samples, BUCKETS, pad=pad)))


@pytest.mark.parametrize(("dtype", "pad"), [(bool, 1), (np.float16, 0.1), (np.float32, -np.inf)])
def test_a_pad_may_be_rounded(dtype, pad) -> None:
    samples = [np.zeros(length, dtype) for length in LENGTHS]
    tokens, lengths = next(iter(padded_batches(samples, BUCKETS, pad=pad)))
    assert tokens.dtype == dtype
    assert (tokens[lengths == 0] == dtype(pad)).all()


def test_fields_that_differ_from_sample_to_sample_are_refused() -> None:
    def first(samples, **options):
        return next(iter(padded_batches(samples, BUCKETS, **options)))

    dicts = [{"tokens": each} | ({} if len(each) % 2 else {"label": 1}) for each in SAMPLES]
    with pytest.raises(ColumnNotFoundError, match=r"has the fields \['tokens'.*Give all the same"):
        first(dicts)
    with pytest.raises(ColumnNotFoundError, match="a row of tokens, make it a list"):
        first([tuple(each) for each in SAMPLES])
    with pytest.raises(ColumnNotFoundError, match=r"pad has \['token'\]"):
        first({"tokens": SAMPLES}, pad={"token": -1})
    for odd in (2**70, "a", None):
        with pytest.raises(LengthsError, match="of type"):
            first([[odd] * length for length in LENGTHS])
    with pytest.raises(LengthsError, match="offsets of type list"):
        first(Flat(FLAT.tokens, FLAT.offsets.tolist()))
