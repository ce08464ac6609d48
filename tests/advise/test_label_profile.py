"""Labels: classes, and how many are wrong, on real digits whose labels are known to be right."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.advise import profile_labels
from batchwright.advise.features import MOST_FEATURES, feature_rows


@pytest.fixture(scope="module")
def digits():
    return pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)


def mislabelled(labels, share, seed=1):
    rng = np.random.default_rng(seed)
    num_classes = labels.max() + 1
    wrong = rng.permutation(labels.size)[: round(share * labels.size)]
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + rng.integers(1, num_classes, wrong.size)) % num_classes
    return noisy


@given(st.lists(st.sampled_from(["cat", "dog", "emu"]), min_size=6, max_size=60))
def test_classes_are_counted(labels):
    counts = [labels.count(name) for name in set(labels)]
    shares = [count / len(labels) for count in counts]
    numbers = [["cat", "dog", "emu"].index(label) for label in labels]
    for given_ in (labels, np.array(labels), numbers, np.array(numbers, float)):
        profile = profile_labels(given_)
        assert (profile.num_samples, profile.num_classes) == (len(labels), len(counts))
        assert (profile.largest, profile.smallest) == (max(counts), min(counts))
        assert profile.imbalance == pytest.approx(max(counts) / min(counts))
        entropy = -sum(share * math.log(share) for share in shares)
        assert profile.effective_classes == pytest.approx(math.exp(entropy))
        assert profile.noise is None
        assert profile.noise_unknown


@pytest.mark.slow
def test_wrong_labels_of_digits_are_estimated(digits):
    images, truth = digits
    for share in (0.2, 0.4):
        noise = profile_labels(mislabelled(truth, share), features=images).noise
        assert noise.is_trusted, noise.doubt
        assert noise.low <= share <= noise.high
        assert abs(noise.rate - share) < 0.06
    names = np.array([f"digit {label}" for label in truth])
    clean = profile_labels(names, features=lambda: images.reshape(-1, 8, 8)).noise
    assert clean.is_trusted
    assert clean.high < 0.05
    assert clean.num_samples == truth.size
    assert clean.accuracy > 0.9


@pytest.mark.parametrize("pixels", [[20], [20, 36], [20, 36, 28, 42, 10], [*range(12, 60, 5)]])
def test_weak_features_make_no_noise(digits, pixels):
    # All labels are right. A teacher that sees a few pixels is often wrong: that is not noise.
    images, truth = digits
    noise = profile_labels(truth, features=images[:, pixels]).noise
    assert noise.high > 0.1
    assert not noise.is_trusted
    assert "a teacher predicts" in noise.doubt


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_what_is_trusted_is_right_whatever_the_teacher_sees(digits, share):
    images, truth = digits
    rng = np.random.default_rng(0)
    trusted = []
    for pixels in (3, 6, 12, 20, 40, 64):
        for _ in range(2):
            seen = images[:, rng.permutation(64)[:pixels]]
            noise = profile_labels(mislabelled(truth, share), features=seen).noise
            assert noise.high >= share - 0.02  # never far too low, trusted or not
            if noise.is_trusted:
                assert noise.low - 0.04 <= share  # of weak teachers, some errors remain
                trusted.append(pixels)
    assert trusted.count(64) == 2
    assert not set(trusted) & {3, 6}


@pytest.mark.slow
def test_classes_that_overlap_are_not_noise():
    datasets = pytest.importorskip("sklearn.datasets")
    for separation in (0.3, 0.5, 0.8, 1.0, 1.3):
        for num_classes in (2, 4):
            features, truth = datasets.make_classification(
                *(1_500, 20),
                n_informative=10,
                n_classes=num_classes,
                class_sep=separation,
                flip_y=0,
                random_state=0,
            )
            noise = profile_labels(truth, features=features).noise
            assert not (noise.is_trusted and noise.low > 0.05)


def test_estimates_from_random_features_are_not_trusted(digits):
    _, truth = digits
    guesses = np.random.default_rng(0).normal(size=(truth.size, 5))
    noise = profile_labels(truth, features=guesses).noise
    assert not noise.is_trusted
    assert "too little information" in noise.doubt


def test_of_few_samples_noise_is_not_estimated(digits):
    images, truth = digits
    for size in (3, 150):
        profile = profile_labels(truth[:size] % 2, features=images[:size])
        assert profile.noise is None
        assert profile.noise_unknown == f"an estimate needs 200 samples, not {size}"


@pytest.mark.slow
@pytest.mark.parametrize("same", ["", "!?", "the same words in each"])
def test_estimates_from_equal_texts_are_not_trusted(same):
    pytest.importorskip("sklearn")
    noise = profile_labels(np.arange(400) % 3, features=[same] * 400).noise
    assert not noise.is_trusted
    assert not profile_labels(np.arange(400) % 3, features=np.ones((400, 300))).noise.is_trusted


@pytest.mark.slow
def test_of_texts_without_spaces_characters_are_read():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    letters = [[*"山川水火木金土"], [*"犬猫鳥馬牛羊豚"]]
    truth = rng.integers(0, 2, 600)
    texts = ["".join(rng.choice([*letters[label], *"的一是不了"], 30)) for label in truth]
    noise = profile_labels(truth, features=texts).noise
    assert noise.is_trusted
    assert noise.high < 0.05


def test_the_same_question_has_the_same_answer(digits):
    images, truth = digits
    labels = mislabelled(truth[:800], 0.3)
    first, second, other = (
        profile_labels(labels, features=images[:800], seed=seed) for seed in (0, 0, 1)
    )
    assert first == second
    assert first != other


@pytest.mark.slow
def test_noise_is_estimated_from_texts():
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    topics = [[f"{topic}{word}" for word in range(40)] for topic in ("sea", "sun", "sky")]
    truth = rng.integers(0, 3, 1_500)
    texts = [" ".join(rng.choice(topics[label], 12)) for label in truth]
    labels = mislabelled(truth, 0.3)
    noise = profile_labels(labels, features=texts).noise
    assert noise.is_trusted, noise.doubt
    assert noise.low <= 0.3 <= noise.high
    assert profile_labels(labels, features=pa.chunked_array([texts])).noise == noise


@pytest.mark.slow
def test_of_many_and_wide_samples_a_part_is_looked_at():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    truth = np.arange(20_000) % 4
    images = rng.normal(size=(20_000, 20, 20)).astype(np.float32)
    images[:, 0, :4] += 6 * np.eye(4)[truth]
    noise = profile_labels(truth, features=images).noise
    assert noise.num_samples == 4_000
    assert noise.high < 0.05
    wide = rng.normal(size=(300, 100, 100))
    assert feature_rows(wide, np.arange(200))[0].shape == (200, MOST_FEATURES)


def test_without_scikit_learn_classes_are_counted(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    profile = profile_labels([0, 1] * 300, features=["a", "b"] * 300)
    assert profile.num_classes == 2
    assert profile.noise is None
    assert "pip install 'batchwright[advise]'" in profile.noise_unknown


def test_of_one_class_there_is_nothing_to_tell():
    profile = profile_labels([3] * 10, features=np.ones((10, 2)))
    assert (profile.num_classes, profile.imbalance, profile.effective_classes) == (1, 1, 1)
    assert profile.noise_unknown == "there is one class only"


@pytest.mark.parametrize(
    ("labels", "features", "said"),
    [
        (np.linspace(0, 1, 300).repeat(3), None, "with fractions: these are not class"),
        ([str(x / 7) for x in range(100)] * 4, None, "with fractions: these are not class"),
        ([f"name {k}" for k in range(50)], None, "50 distinct values for 50 samples"),
        ([], None, "labels are empty"),
        (["a", "a", None, "b"], None, r"1 of \d labels is missing, labels\[2\]"),
        (["a", "a", "", "a"], None, r"1 of \d labels is empty, labels\[2\]"),
        (np.array([0.0, 0.0, np.nan, 1.0]), None, r"1 of \d labels is missing, labels\[2\]"),
        (np.zeros((4, 2)), None, "expected one each"),
        ([["a"], ["b"]], None, "must be numbers or texts"),
        ([0, 1] * 200, np.ones((3, 2)), "features: 3 for 400 samples"),
        ([0, 1] * 200, np.full((400, 2), np.nan), "NaN or infinite"),
        ([0, 1] * 200, [[1], [1, 2]] * 200, "numbers of the same shape"),
        ([0, 1] * 200, [{"a": 1}] * 400, "expected numbers or texts"),
    ],
)
def test_what_are_no_labels_or_features_is_refused(labels, features, said):
    with pytest.raises(bw.errors.LengthsError, match=said):
        profile_labels(labels, features=features)


def test_half_stars_are_classes():
    assert profile_labels([0.5, 1.0, 1.5] * 20).num_classes == 3
