"""On Ray, a corpus is measured and scored as it is here."""

import numpy as np
import pytest
from click.testing import CliRunner

from batchwright.cli.group import batchwright
from batchwright.difficulty import compression, score
from batchwright.errors import LengthsError, SourceError
from batchwright.sources import index_scores, index_shards
from tests.sources.corpora import check_index, contents, texts_of, write_corpus

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data", reason="Ray Data is not installed")

pytestmark = [
    pytest.mark.slow,
    # Ray warns of its own settings and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore"),
]

SIZES = (40, 3, 0, 120)
TEXTS = [text for number, size in enumerate(SIZES) for text in texts_of(size, number)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def corpus(tmp_path):
    return tmp_path / "corpus", write_corpus(tmp_path / "corpus", SIZES)


def metric_of(factor):
    def characters(texts):  # workers do not find this file
        return [factor * len(text) for text in texts]

    return characters


def test_the_index_is_the_same_byte_for_byte(corpus, tmp_path):
    options = {"measure": "words", "scores": {"size": metric_of(2), "compression": compression}}
    here = index_shards(corpus[0], tmp_path / "here", workers=1, **options)
    on_ray = index_shards(corpus[0], tmp_path / "ray", on="ray", workers=2, **options)
    for index in (here, on_ray):
        check_index(index, corpus[1])
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")
    found = index_scores(tmp_path / "ray", "size")
    assert found.tolist() == [2 * len(text) for text in TEXTS]


def test_only_what_is_missing_is_measured(corpus, tmp_path):
    index_shards(corpus[0], tmp_path / "ray", measure="words", workers=1)
    files = sorted((tmp_path / "ray").glob("*.parquet"))
    before = [file.stat().st_mtime_ns for file in files]
    whole = files[1].read_bytes()
    files[1].unlink()
    check_index(index_shards(corpus[0], tmp_path / "ray", measure="words", on="ray"), corpus[1])
    after = [file.stat().st_mtime_ns for file in files]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True, True]
    assert files[1].read_bytes() == whole


def test_a_bad_shard_is_named_in_one_sentence(corpus, tmp_path):
    cut = corpus[0] / "part-001.parquet"
    cut.write_bytes(cut.read_bytes()[:-50])
    with pytest.raises(SourceError) as raised:
        index_shards(corpus[0], tmp_path / "ray", measure="words", on="ray")
    assert str(raised.value).startswith(f"{cut} cannot be read as Parquet")


def test_files_are_scored_where_they_are(corpus, tmp_path):
    alone = score(corpus[0], metric_of(3), shard_size=7)
    for _ in range(2):
        options = {"shard_size": 7, "folder": tmp_path / "scores", "backend": "ray"}
        assert np.array_equal(score(corpus[0], metric_of(3), **options), alone)
        names = sorted(path.name for path in (tmp_path / "scores").glob("shard-*.npy"))
        assert names == [f"shard-{number:08d}.npy" for number in range(4)]
        (tmp_path / "scores" / "shard-00000003.npy").unlink()
    with pytest.raises(LengthsError, match="shard_size"):
        score(corpus[0], metric_of(3), shard_size=7, folder=tmp_path / "scores")


def test_a_sample_without_a_score_is_named_with_its_file(corpus):
    def bad(texts):
        return [float("nan") if text == TEXTS[41] else 1.0 for text in texts]

    with pytest.raises(LengthsError, match=r"part-001\.parquet: the metric's score of sample 1 "):
        score(corpus[0], bad, backend="ray")


@pytest.mark.parametrize("by", ["length", "rarity", "compression"])
def test_the_command_scores_on_ray_as_here(corpus, tmp_path, by):
    found = []
    for on in ("local", "ray"):
        output = tmp_path / f"{on}.npy"
        args = ["score", str(corpus[0]), "--by", by, "--on", on, "-o", str(output)]
        args += ["--measure", "words"] if by == "length" else []
        done = CliRunner().invoke(batchwright, args, prog_name="batchwright")
        assert done.exit_code == 0, done.output
        found.append(np.load(output))
    assert np.array_equal(*found)


def test_the_command_indexes_on_ray(corpus, tmp_path):
    args = ["index", str(corpus[0]), "-o", str(tmp_path / "i"), "--measure", "words", "--on", "ray"]
    done = CliRunner().invoke(batchwright, args, prog_name="batchwright")
    assert done.exit_code == 0, done.output
    assert "163 samples in 4 shards" in done.stdout
