"""What holds on every backend of Keras; `test_backends.py` runs this file once for each."""

import json
import pickle

import keras
import numpy as np
import pytest

import batchwright as bw
from batchwright.errors import LossError, PlanError, PrecisionError, UpdateError
from batchwright.integrations.arrays import padded_batches, tf_dataset
from batchwright.keras import (
    LossScaleFloor,
    PlanDataset,
    TokenMean,
    applied_updates,
    set_precision,
)

# Keras 3.15 reads its own variables in a way that NumPy 2 has renounced.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
LENGTHS = np.array([3, 1, 4, 1, 3, 2, 4, 2, 3, 1])
FEATURES = np.random.default_rng(0).normal(size=(10, 4, 3)).astype("float32")
TARGETS = np.random.default_rng(1).normal(size=(10, 4, 1)).astype("float32")


@pytest.fixture(autouse=True)
def _default_policy():
    yield
    keras.config.set_dtype_policy("float32")


def planner(seed=0, **settings) -> bw.Planner:
    return bw.Planner(LENGTHS, batching=bw.TokenBudget(8), seed=seed, **settings)


def padded(indices):
    """Fetch sequences; the padding is noise, so that whatever weighs it shows."""
    longest = LENGTHS[indices].max()
    weights = np.arange(longest) < LENGTHS[indices][:, None]
    return FEATURES[indices, :longest], TARGETS[indices, :longest], weights.astype("float32")


def in_one_shape(indices):
    """Fetch sequences in eight rows of four, some of them empty: compiled once."""
    made = [np.zeros((8, 4, *each.shape[2:]), "float32") for each in padded(indices)]
    for whole, part in zip(made, padded(indices), strict=True):
        whole[: part.shape[0], : part.shape[1]] = part
    return tuple(made)


class Visits(keras.losses.Loss):
    """Moves the parameter of each sample by one for each time that it is trained on."""

    def call(self, y_true, y_pred):
        return -y_pred[..., 0]


def visited_by(dataset, **settings) -> list[int]:
    """Train, and return how often the parameters of each sample were moved."""
    table = keras.layers.Embedding(LENGTHS.size, 1, embeddings_initializer="zeros")
    model = keras.Sequential([table])
    model.compile(keras.optimizers.SGD(1.0), Visits(reduction="sum"))
    settings = {"verbose": 0, "shuffle": False, "callbacks": [dataset.callback()]} | settings
    model.fit(dataset.for_fit(), **settings)
    return np.asarray(keras.ops.convert_to_numpy(table.embeddings))[:, 0].round(5).tolist()


def ids(indices):
    return indices, np.zeros(indices.size, "float32"), np.ones(indices.size, "float32")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_trains_each_sample_of_its_plan_once(workers: int) -> None:
    fetched = []

    def fetch(indices):
        fetched.append(indices.tolist())
        return ids(indices)

    dataset = PlanDataset(planner(), fetch, exact=False, workers=workers)
    assert len(dataset) == len(planner())
    assert visited_by(dataset, epochs=4, initial_epoch=2) == [2] * LENGTHS.size
    assert (dataset.epoch, dataset.plan) == (3, planner()(3))
    if not workers:
        planned = [batch.tolist() for epoch in (2, 3) for batch in planner()(epoch)]
        assert fetched[-len(planned) :] == planned
        assert len(fetched) - len(planned) == (2 if ON_TENSORFLOW else 1)  # to learn the shapes


def test_order_decides_what_is_trained() -> None:
    plan = bw.Plan(np.array([7, 7, 2, 7]), np.array([0, 1, 3, 4]))
    visits = visited_by(PlanDataset(plan, ids, exact=False), epochs=2)
    assert visits == [0, 0, 2, 0, 0, 0, 0, 6, 0, 0]


def linear_model(optimizer, noise=0.0, **loss) -> keras.Model:
    added = [keras.layers.GaussianNoise(noise, seed=0)] if noise else []
    model = keras.Sequential(
        [keras.Input((None, 3)), *added, keras.layers.Dense(1, kernel_initializer="ones")]
    )
    model.compile(optimizer, keras.losses.MeanSquaredError(**loss))
    return model


def reference_step(kernel, bias, indices, mean_weight, rate=0.5):
    """One step of gradient descent in float64, over the real tokens of some samples."""
    real = np.arange(4) < LENGTHS[indices][:, None]
    x, y = FEATURES[indices][real].astype(float), TARGETS[indices][real].astype(float)
    error = 2 * (x @ kernel + bias - y) / mean_weight
    return kernel - rate * x.T @ error, bias - rate * error.sum(0)


def parameters(model) -> np.ndarray:
    return np.concatenate([each.ravel() for each in model.get_weights()])


def distance(model, reference) -> float:
    expected = np.concatenate([each.ravel() for each in reference])
    start = np.array([1, 1, 1, 0])
    return np.linalg.norm(parameters(model) - expected) / np.linalg.norm(expected - start)


UNEQUAL = bw.Plan(np.arange(10), np.array([0, 1, 10]))  # 3 tokens, and 21 in 36 cells


def test_each_update_is_the_sum_over_its_tokens_by_the_mean_weight() -> None:
    dataset = PlanDataset(UNEQUAL, padded, weights=LENGTHS)
    model = linear_model(keras.optimizers.SGD(0.5), reduction="sum")
    model.fit(dataset.for_fit(), shuffle=False, verbose=0, callbacks=[dataset.callback()])
    reference = np.ones((3, 1)), np.zeros(1)
    for batch in UNEQUAL:
        reference = reference_step(*reference, batch, mean_weight=LENGTHS.sum() / 2)
    assert distance(model, reference) <= 1e-6
    assert applied_updates(model) == 2


def test_a_data_set_makes_no_whole_plan(monkeypatch) -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 1_000)
    plans = bw.Planner(bw.LengthIndex.build(lengths), max_tokens=60)
    expected = [batch.tolist() for batch in plans(1)]
    monkeypatch.delattr(bw.Plan, "_arrays")
    monkeypatch.delattr(bw.Planner, "lengths")
    dataset = PlanDataset(plans, lambda indices: (indices, indices, np.ones((indices.size, 1))))
    dataset.set_epoch(1)
    batches = list(dataset)
    assert [indices.tolist() for indices, _, _ in batches] == expected
    assert np.allclose(batches[0][2], len(plans) / lengths.sum())
    assert dataset[len(plans) - 1][0].tolist() == expected[-1]


def test_accumulated_batches_give_the_gradient_of_one_batch_of_everything() -> None:
    everything = reference_step(np.ones((3, 1)), np.zeros(1), np.arange(10), LENGTHS.sum())
    errors = {}
    for exact, reduction in [(True, "sum"), (False, "sum_over_batch_size")]:
        dataset = PlanDataset(UNEQUAL, padded, weights=LENGTHS, exact=exact)
        optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
        model = linear_model(optimizer, reduction=reduction)
        model.fit(dataset.for_fit(), shuffle=False, verbose=0, callbacks=[dataset.callback()])
        errors[exact] = distance(model, everything)
    assert errors[True] <= 1e-6
    assert errors[False] > 0.1  # what the mean of means costs here
    assert applied_updates(model) == 1


def test_a_metric_is_the_mean_over_tokens() -> None:
    dataset = PlanDataset(UNEQUAL, padded, weights=LENGTHS)
    model = linear_model("sgd", reduction="sum")
    ours = TokenMean(keras.losses.mean_squared_error, name="ours")
    model.compile("sgd", model.loss, weighted_metrics=[ours, keras.metrics.MeanSquaredError()])
    real = np.arange(4) < LENGTHS[:, None]
    expected = np.mean((FEATURES.sum(-1) - TARGETS[..., 0])[real] ** 2)
    found = model.evaluate(dataset.for_fit(), verbose=0, return_dict=True)
    assert found["ours"] == pytest.approx(expected, rel=1e-5)
    assert found["mean_squared_error"] != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    ("reduction", "divisor", "masked"),
    [
        ("sum", 1, 1),
        ("sum_over_batch_size", 12, 7),  # all cells, or what a mask leaves
        ("mean", 12, 7),
        ("mean_with_sample_weight", 3.5, 3.5),  # the weights: any scale of theirs cancels
    ],
)
def test_what_keras_divides_by(reduction: str, divisor: float, masked: float) -> None:
    losses = np.arange(1.0, 13).reshape(3, 4).astype("float32")
    real = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], "float32")
    loss = Visits(reduction=reduction)

    def reduced(y_pred) -> float:
        return float(keras.ops.convert_to_numpy(loss(losses, y_pred, sample_weight=real / 2)))

    total = (losses * real / 2).sum()
    assert -reduced(losses[..., None]) == pytest.approx(total / divisor, rel=1e-5)
    tokens = keras.layers.Masking()(losses[..., None] * real[..., None])
    assert -reduced(tokens) == pytest.approx(total / masked, rel=1e-5)


def test_a_loss_that_divides_by_the_batch_is_refused() -> None:
    dataset = PlanDataset(planner(), padded)
    model = linear_model("sgd", reduction="mean_with_sample_weight")
    with pytest.raises(LossError, match=r'mean_squared_error" is reduced by "mean_with_sample'):
        model.fit(dataset.for_fit(), shuffle=False, verbose=0, callbacks=[dataset.callback()])
    model.compile("sgd", "mse")
    with pytest.raises(LossError, match='"mse" is reduced by "sum_over_batch_size"'):
        model.fit(dataset.for_fit(), shuffle=False, verbose=0, callbacks=[dataset.callback()])


def test_updates_of_another_size_than_planned_are_refused() -> None:
    dataset = PlanDataset(planner(accumulate=2), padded)
    model = linear_model("sgd", reduction="sum")
    with pytest.raises(PlanError, match="gradient_accumulation_steps=2"):
        model.fit(dataset.for_fit(), shuffle=False, verbose=0, callbacks=[dataset.callback()])


def test_a_part_of_an_epoch_is_refused() -> None:
    dataset = PlanDataset(planner(), ids, exact=False)
    with pytest.raises(PlanError, match="fit trains 2 batches an epoch, but the plan has"):
        visited_by(dataset, steps_per_epoch=2)


def test_a_short_update_and_a_short_batch_are_refused() -> None:
    dataset = PlanDataset(planner(accumulate=20), padded)
    model = linear_model(keras.optimizers.SGD(0.5, gradient_accumulation_steps=20), reduction="sum")
    with pytest.raises(PlanError, match="has 4 batches, and the others 20"):
        model.fit(dataset.for_fit(), verbose=0, shuffle=False, callbacks=[dataset.callback()])
    dataset = PlanDataset(planner(), lambda indices: [each[:1] for each in padded(indices)])
    with pytest.raises(PlanError, match="returned 1 rows for [2-9] samples"):
        list(dataset)


class Interrupt(keras.callbacks.Callback):
    """Ends `fit` as a crash would, after some batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def resumable(folder, **settings) -> tuple[keras.Model, PlanDataset, dict]:
    """Make what a training script makes each time that it is started."""
    dataset = PlanDataset(planner(accumulate=2), in_one_shape, **settings)
    optimizer = keras.optimizers.Adam(0.1, gradient_accumulation_steps=2)
    model = linear_model(optimizer, reduction="sum", noise=0.1)
    backup = [dataset.callback(folder, save_freq=2)] if folder else [dataset.callback()]
    return model, dataset, {"epochs": 3, "verbose": 0, "shuffle": False, "callbacks": backup}


def test_a_run_that_is_killed_goes_on_from_its_backup(tmp_path) -> None:
    model, dataset, settings = resumable(None)
    model.fit(dataset.for_fit(), **settings)
    expected, updates = parameters(model), applied_updates(model)
    batches = len(dataset)
    for crash in (3, batches):  # inside an update; in a later epoch
        model, dataset, settings = resumable(tmp_path / "backup")
        settings["callbacks"].insert(0, Interrupt(crash))
        with pytest.raises(KeyboardInterrupt):
            model.fit(dataset.for_fit(), **settings)
    model, dataset, settings = resumable(tmp_path / "backup")
    model.fit(dataset.for_fit(), **settings)
    assert np.linalg.norm(parameters(model) - expected) <= 1e-6 * np.linalg.norm(expected)
    assert applied_updates(model) == updates
    assert dataset.epoch == 2
    assert not list(tmp_path.iterdir())  # nothing is left to resume
    model.fit(dataset.for_fit(), **settings | {"epochs": 1})
    assert dataset.epoch == 0  # a further fit begins with epoch 0


def test_backups_may_be_further_apart_than_epochs(tmp_path, monkeypatch) -> None:
    def save(backup, model, state):
        saved.append((state["epoch"], sum(leg[2] for leg in state["legs"])))

    saved: list[tuple[int, int]] = []
    monkeypatch.setattr("batchwright.keras.backup.Backup.save", save)
    dataset = PlanDataset(planner(), ids, exact=False)
    assert len(dataset) == 4
    backup = dataset.callback(tmp_path / "backup", save_freq=6)
    visited_by(dataset, epochs=5, callbacks=[backup])
    assert saved == [(1, 2), (2, 4), (4, 2)]


def test_fit_goes_on_where_a_state_was_saved() -> None:
    class Saving(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            states.append(json.loads(json.dumps(dataset.state_dict())))

    states: list[dict] = []
    dataset = PlanDataset(planner(), ids, exact=False)
    assert visited_by(dataset, callbacks=[Saving(), dataset.callback()]) == [1] * LENGTHS.size
    assert [sum(leg[2] for leg in state["legs"]) for state in states] == [
        *range(1, len(dataset) + 1)
    ]
    again = PlanDataset(planner(), ids, exact=False, workers=2)
    for done in (1, len(dataset)):
        again.load_state_dict(states[done - 1])
        expected = np.ones(LENGTHS.size)  # epoch 1
        expected[planner()(0).indices[planner()(0).offsets[done] :]] += 1
        assert visited_by(again, epochs=2) == expected.tolist()
    again.load_state_dict(states[0])
    with pytest.raises(PlanError, match=r"begins with epoch 1, but .* epoch 0.*initial_epoch"):
        visited_by(again, epochs=3, initial_epoch=1)


def test_a_rest_that_fit_would_cut_short_is_refused() -> None:
    lengths = [2, 4, 3, 2, 8, 7, 2, 8, 8, 3, 4, 5, 6, 4, 2, 8, 6, 1, 7, 6, 2, 5, 5, 1, 8, 6]
    lengths += [3, 1, 1, 7, 2, 5, 8]

    def dataset(max_tokens):
        return PlanDataset(bw.Planner(lengths, max_tokens=max_tokens), ids, exact=False)

    smaller = dataset(16)
    smaller.load_state_dict(dataset(37).state_after(1))
    with pytest.raises(PlanError, match="has 12 batches .* takes 11 .* leave out the last 1"):
        visited_by(smaller)
    smaller.load_state_dict(dataset(37).state_after(1))
    assert len(list(smaller)) == 12  # in a loop none is left out
    smaller.load_state_dict(smaller.state_dict())
    assert smaller.epoch == 1


def test_a_loop_goes_on_where_a_state_was_saved_on_any_ranks() -> None:
    plans = planner(world_size=2, step_tokens=14)
    ranks = [PlanDataset(plans, ids, exact=False, rank=rank, world_size=2) for rank in range(2)]
    seen: list[int] = []
    for dataset in ranks:
        dataset.set_epoch(1)
        seen.extend(next(iter(dataset))[0].tolist())
    states = [dataset.state_dict() for dataset in ranks]
    assert states[0] == states[1]
    for world_size in (1, 2, 3):
        left = list(seen)
        for rank in range(world_size):
            dataset = PlanDataset(plans, ids, exact=False, rank=rank, world_size=world_size)
            dataset.load_state_dict(states[0])
            assert dataset.epoch == 1
            for indices, _, _ in dataset:
                left.extend(indices.tolist())
            dataset.set_epoch(1)
            assert len(list(dataset)) == len(dataset)  # the epoch as a whole, once more
        assert sorted(left) == list(range(LENGTHS.size))


def test_ranks_that_average_gradients_train_like_accumulated_batches() -> None:
    _, dataset, settings = resumable(None)
    optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    alone = linear_model(optimizer, reduction="sum")
    alone.fit(dataset.for_fit(), **settings)
    model = linear_model(keras.optimizers.SGD(0.5), reduction="sum")
    ranks = [
        PlanDataset(planner(world_size=2), in_one_shape, rank=rank, world_size=2)
        for rank in range(2)
    ]
    for epoch in range(3):
        for dataset in ranks:
            dataset.set_epoch(epoch)
        for batches in zip(*ranks, strict=True):
            before, moved = model.get_weights(), []
            for batch in batches:  # of plain gradient descent, so weights are averaged as well
                model.set_weights(before)
                model.train_on_batch(*batch)
                moved.append(model.get_weights())
            model.set_weights([np.mean(each, axis=0) for each in zip(*moved, strict=True)])
    difference = np.linalg.norm(parameters(model) - parameters(alone))
    assert difference <= 1e-6 * np.linalg.norm(parameters(alone))


def test_ranks_that_would_train_wrongly_are_refused(monkeypatch) -> None:
    with pytest.raises(PlanError, match="rank=2 is not in a world of 2"):
        PlanDataset(planner(), ids, rank=2, world_size=2)
    with pytest.raises(PlanError, match="give both, or neither"):
        PlanDataset(planner(), ids, rank=0)
    with pytest.raises(PlanError, match="does not average gradients over 2 ranks"):
        visited_by(PlanDataset(planner(), ids, exact=False, rank=0, world_size=2))
    if keras.backend.backend() == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        with pytest.raises(PlanError, match="share each batch again"):
            visited_by(PlanDataset(planner(), ids, exact=False, rank=0, world_size=2))
        keras.distribution.set_distribution(None)
    shard = planner(world_size=2)(0).shard(0, 2)
    dataset = PlanDataset(shard, padded, weights=LENGTHS)
    with pytest.raises(PlanError, match="Give the whole plan, with rank= and world_size="):
        linear_model("sgd", reduction="sum").fit(
            dataset.for_fit(), shuffle=False, verbose=0, callbacks=[dataset.callback()]
        )
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlanError, match="every process would get all of the data"):
        PlanDataset(planner(), ids)
    assert PlanDataset(planner(), ids, rank=0, world_size=1).world_size == 1


def test_a_position_that_nobody_counts_is_refused() -> None:
    dataset = PlanDataset(planner(), ids, exact=False)
    visited_by(dataset, callbacks=[])
    with pytest.raises(PlanError, match=r"callbacks=\[dataset.callback\(\)\]"):
        dataset.state_dict()
    state = dataset.state_after(1)
    dataset.load_state_dict(state)
    assert dataset.state_dict() == state
    if ON_TENSORFLOW:
        with pytest.warns(UserWarning, match="ran out of data"):
            visited_by(dataset, callbacks=[])
        return
    with pytest.raises(PlanError, match=r"batches are left of epoch 0.*callbacks"):
        visited_by(dataset, callbacks=[])


def test_a_backup_that_does_not_fit_is_refused(tmp_path) -> None:
    model, dataset, settings = resumable(tmp_path)
    saved = {"weights": "../a.weights.h5", "state": {}, "accumulate": 1, "seeds": []}
    (tmp_path / "position.json").write_text(json.dumps(saved))
    with pytest.raises(PlanError, match=r"position.json was changed.*Remove it to start over"):
        model.fit(dataset.for_fit(), **settings)
    (tmp_path / "position.json").write_text(json.dumps(saved | {"weights": "a.weights.h5"}))
    with pytest.raises(PlanError, match=r"with gradient_accumulation_steps=1, .* one with 2"):
        model.fit(dataset.for_fit(), **settings)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tf.data is TensorFlow's")
def test_fetch_returns_the_same_types_each_time() -> None:
    import tensorflow as tf

    def fetch(indices):
        fetched.append(indices)
        x, y, weights = padded(indices)
        return x, y if len(fetched) > 3 else (10 * y).astype(int), weights

    fetched: list = []
    dataset = PlanDataset(planner(), fetch)
    with pytest.raises(tf.errors.OpError, match="returned float32 in a batch, and int64 before"):
        list(dataset.for_fit())


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tf.data is TensorFlow's")
def test_a_tf_dataset_has_the_batches_of_the_arrays() -> None:
    import tensorflow as tf

    def equal(ours, theirs) -> bool:
        pairs = zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True)
        return all(one.dtype == two.dtype and (one == two.numpy()).all() for one, two in pairs)

    frames = [row[:length] for row, length in zip(FEATURES, LENGTHS, strict=True)]
    frames = [each.astype(tf.bfloat16.as_numpy_dtype) for each in frames]
    samples = {"frames": frames, "label": LENGTHS.astype("uint8")}
    batches = padded_batches(samples, planner())
    data = tf_dataset(batches)
    assert data.element_spec["frames"].shape.as_list() == [None, None, 3]
    for epoch in range(2):
        batches.set_epoch(epoch)
        ours = padded_batches(samples, planner()(epoch))
        assert all(equal(*each) for each in zip(ours, data, strict=True))
    with pytest.raises(PlanError, match="ahead of the loop"):
        batches.state_dict()
    batches.load_state_dict(batches.state_after(1))
    assert len(list(data)) == len(batches) - 1
    mixed = [[0.5] * length for length in LENGTHS]
    mixed[planner()(0)[0][0]] = [1] * LENGTHS[planner()(0)[0][0]]
    with pytest.raises(tf.errors.OpError, match="'?float64 in a batch, and int64 in the first"):
        list(tf_dataset(padded_batches(mixed, planner())))
    one_shape = bw.Planner(LENGTHS, batching=bw.Buckets(1, max_tokens=8))
    packed = bw.Planner(LENGTHS, batching=bw.Packing(8))
    for plans in (one_shape, packed):
        spec = tf_dataset(padded_batches(frames, plans)).element_spec
        assert all(each.shape.is_fully_defined() for each in spec)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a loop in JAX")
def test_ranks_of_a_jax_loop_have_the_gradient_of_accumulated_batches() -> None:
    import jax

    @jax.jit
    def gradient(kernel, features, targets):
        nonlocal compilations
        compilations += 1
        return jax.grad(lambda k: ((features @ k - targets) ** 2).sum())(kernel)

    compilations, samples = 0, {"x": list(FEATURES), "y": list(TARGETS)}
    for name, column in samples.items():
        samples[name] = [row[:length] for row, length in zip(column, LENGTHS, strict=True)]

    def trained(updates) -> np.ndarray:
        kernel = np.ones((3, 1), "float32")
        for update in updates:
            tokens = sum(batch["lengths"].sum() for batch in update)
            kernel -= 0.1 * sum(gradient(kernel, each["x"], each["y"]) for each in update) / tokens
        return np.asarray(kernel)

    plans = bw.Planner(LENGTHS, batching=bw.Buckets(2, max_tokens=8), world_size=2)
    alone = list(padded_batches(samples, plans.resized(1, 2)))
    ranks = [padded_batches(samples, plans, rank=rank, world_size=2) for rank in range(2)]
    expected = trained(zip(alone[::2], alone[1::2], strict=True))
    assert np.allclose(trained(zip(*ranks, strict=True)), expected, rtol=1e-6)
    assert compilations <= 2


@pytest.mark.skipif(ON_TENSORFLOW, reason="there fit takes a tf.data.Dataset, in its own sequence")
def test_permuted_batches_are_refused() -> None:
    many = bw.Plan(np.arange(10).repeat(4), np.arange(41))
    dataset = PlanDataset(many, ids, exact=False)
    with pytest.raises(PlanError, match="shuffle=False"):
        visited_by(dataset, shuffle=True)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="there are shapes to be inferred on TensorFlow only")
def test_shapes_are_not_inferred_from_the_first_batches() -> None:
    plan = bw.Plan(np.array([0, 4, 8, 2, 6, 1]), np.array([0, 1, 2, 6]))  # 3, 3 and 4 tokens
    dataset = PlanDataset(plan, padded, weights=LENGTHS)
    model = linear_model("sgd", reduction="sum")
    with pytest.raises(PlanError, match="for_fit"):
        model.fit(dataset, verbose=0, shuffle=False)
    data = dataset.for_fit()
    shapes = [each.shape.as_list() for each in data.element_spec]
    assert shapes == [[None, None, 3], [None, None, 1], [None, None]]
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[dataset.callback()])
    assert applied_updates(model) == 6


def test_an_epoch_that_begins_again_without_the_callback_is_reported() -> None:
    dataset = PlanDataset(planner(), ids, exact=False)
    visited_by(dataset, epochs=1)
    with pytest.warns(UserWarning, match=r"epoch 0 begins once more.*callbacks"):
        list(dataset)
    in_turn = planner(order=bw.Sequential())
    for same in (PlanDataset(planner()(0), ids), PlanDataset(in_turn, ids)):  # as in validation
        assert len([*same, *same]) == 2 * len(same)


def test_weights_that_are_missing_or_have_no_unit_are_refused() -> None:
    with pytest.raises(PlanError, match="without sample_weight"):
        PlanDataset(planner(), lambda indices: padded(indices)[:2])[0]
    with pytest.raises(PlanError, match="weights=lengths"):
        PlanDataset(UNEQUAL, padded)[0]
    with pytest.raises(PlanError, match="3 weights"):
        PlanDataset(UNEQUAL, padded, weights=[1, 1, 1])
    with pytest.raises(PlanError, match="10 samples, but there are 11 weights"):
        PlanDataset(planner(), padded, weights=np.ones(11))
    with pytest.raises(LossError, match=r"weights of shape \[2\]"):
        PlanDataset(UNEQUAL, padded, weights=[1, np.nan])
    assert PlanDataset(planner(), lambda indices: FEATURES[indices])[0].shape[1:] == (4, 3)


def test_pieces_of_split_samples_come_with_their_starts() -> None:
    split = bw.Planner([5, 2], batching=bw.Packing(3, oversize="split"))
    dataset = PlanDataset(split, lambda indices, starts: (indices, starts, np.ones(indices.size)))
    indices, starts, weights = (np.concatenate(column) for column in zip(*dataset, strict=True))
    assert sorted(zip(indices.tolist(), starts.tolist(), strict=True)) == [(0, 0), (0, 3), (1, 0)]
    assert weights.sum() == pytest.approx(len(split))


def test_samples_that_are_not_truncated_as_planned_are_refused() -> None:
    lengths = [3, 9, 2, 4]
    planner = bw.Planner(lengths, batching=bw.TokenBudget(8, oversize="truncate"))

    def fetch(indices, most=None, width=0):
        sizes = np.minimum(np.array(lengths)[indices], most or 99)
        weights = (np.arange(max(width, sizes.max())) < sizes[:, None]).astype("float32")
        return weights, weights, weights

    with pytest.raises(bw.errors.PlanError, match="truncates samples to 8"):
        list(PlanDataset(planner, fetch))
    list(PlanDataset(planner, lambda indices: fetch(indices, most=8)))
    list(PlanDataset(planner, lambda indices: fetch(indices, most=8, width=12)))  # padding only


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_can_be_pickled_at_any_time(workers: int) -> None:
    dataset = PlanDataset(planner(), padded, workers=workers)
    expected = [batch[0].tolist() for batch in dataset]
    for _ in range(2):
        again = pickle.loads(pickle.dumps(dataset))  # noqa: S301
        again.set_epoch(0)
        assert [batch[0].tolist() for batch in again] == expected
        live = iter(dataset)
        dataset.set_epoch(0)
        next(live)


def test_data_sets_say_what_is_wrong() -> None:
    with pytest.raises(PlanError, match="list is neither a Planner nor a Plan"):
        PlanDataset([[0, 1]], ids)
    with pytest.raises(PlanError, match="fetch is a list, expected a function of sample indices"):
        PlanDataset(planner(), [[0, 1]])
    dataset = PlanDataset(planner(), ids)
    with pytest.raises(PlanError, match=r"set_epoch\(epoch=-1\)"):
        dataset.set_epoch(-1)
    with pytest.raises(IndexError, match="batch 99 of an epoch of"):
        dataset[99]
    assert repr(dataset) == f"PlanDataset({len(dataset)} batches an epoch, epoch 0, exact=True)"


def small_model() -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


BATCH = FEATURES[:, 0], TARGETS[:, 0]


def test_auto_precision_is_measured_and_never_slower() -> None:
    evidence = set_precision("auto", build=small_model, batch=BATCH)
    assert [trial.mode for trial in evidence.trials] == ["fp32", "bf16"]
    assert "emulated" in evidence.ruled_out["fp16"]
    ratios = {trial.mode: trial.ratio for trial in evidence.trials}
    assert (evidence.mode == "bf16") == (ratios["bf16"] < 0.97)
    losses = [trial.loss for trial in evidence.trials]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # from the same weights
    assert keras.config.dtype_policy().name == evidence.dtype_policy


def test_precision_by_name() -> None:
    names = {"fp32": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}
    for mode, policy in names.items():
        assert set_precision(mode).dtype_policy == set_precision(policy).dtype_policy == policy
        layer = keras.layers.Dense(1)
        assert (layer.compute_dtype, layer.variable_dtype) == (
            policy.removeprefix("mixed_"),
            "float32",
        )
    for wrong in ("tf32", "float64"):
        with pytest.raises(PrecisionError, match="expected one of"):
            set_precision(wrong)


def test_precision_is_left_as_it_was_where_measuring_fails() -> None:
    set_precision("bf16")
    only = small_model()
    with pytest.raises(PrecisionError, match="the same model twice"):
        set_precision("auto", build=lambda: only, batch=BATCH)
    with pytest.raises(PrecisionError, match="give build="):
        set_precision("auto")
    assert keras.config.dtype_policy().name == "mixed_bfloat16"

    def fixed() -> keras.Model:
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, dtype="float32")])
        model.compile("sgd", "mse")
        return model

    evidence = set_precision("auto", build=fixed, batch=BATCH)
    assert evidence.mode == "fp32"
    assert "no layer that computes in bfloat16" in evidence.ruled_out["bf16"]


def test_half_floats_scale_the_loss_and_skipped_updates_are_not_counted() -> None:
    set_precision("fp16")
    model = small_model()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    x, y = (each / 100 for each in BATCH)  # small gradients: none overflows at the first scale
    model.fit(x, y, batch_size=5, verbose=0, callbacks=[LossScaleFloor()])
    before = parameters(model)
    assert applied_updates(model) == 2
    model.fit(x * np.inf, y, batch_size=5, verbose=0, callbacks=[LossScaleFloor()])
    assert applied_updates(model) == 2
    assert (parameters(model) == before).all()


def test_a_loss_scale_does_not_sink_in_silence() -> None:
    set_precision("fp16")
    x, y = np.full((80, 3), np.nan, "float32"), np.zeros((80, 1), "float32")
    model = small_model()
    with pytest.raises(UpdateError, match=r"fell to 0.\d+, below 1, with 0 updates applied"):
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[LossScaleFloor(every=8)])
    model.compile("sgd", "mse", auto_scale_loss=False)
    with pytest.raises(UpdateError, match="auto_scale_loss=True"):
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[LossScaleFloor()])
    set_precision("fp32")
    small_model().fit(x, y, batch_size=40, verbose=0, callbacks=[LossScaleFloor()])
