"""An index of a bucket, kept in a bucket: found again by ETags, with few requests."""

import pytest

from batchwright.errors import SourceError, SourceNotFoundError
from batchwright.sources import index_shards, open_index, uris
from tests.sources.corpora import check_index, write_corpus

from .test_s3 import bucket, server  # noqa: F401 -- fixtures

pytestmark = pytest.mark.slow

SIZES = (40, 3, 120, 1, 7, 30)


@pytest.fixture
def corpus(bucket, tmp_path):  # noqa: F811 -- the fixture
    """Put shards into the bucket; return its URI, and the words of their texts."""
    lengths = write_corpus(tmp_path / "corpus", SIZES)
    for path in (tmp_path / "corpus").iterdir():
        uris.written(f"{bucket}/corpus/{path.name}", path.read_bytes())
    return bucket, lengths


def index(place, **options):
    return index_shards(f"{place}/corpus", f"{place}/index", measure="words", **options)


def requests_of(said, before, name):
    """Return the requests, since line `before`, for files whose paths hold a name."""
    return [line for line in said.read_text().splitlines()[before:] if name in line]


def test_shards_are_found_unchanged_by_one_listing(corpus, server):  # noqa: F811 -- the fixture
    (place, lengths), said = corpus, server[1]
    check_index(index(place, workers=1), lengths)
    before = len(said.read_text().splitlines())
    check_index(index(place, workers=1), lengths)
    assert requests_of(said, before, "/corpus/part-") == []
    before = len(said.read_text().splitlines())
    opened = open_index(f"{place}/index")
    assert requests_of(said, before, "/corpus/part-") == []
    assert len(requests_of(said, before, "HTTP")) < 10
    check_index(opened, lengths)


def test_a_shard_of_another_etag_is_refused_and_measured_again(corpus, tmp_path):
    place, lengths = corpus
    index(place, workers=1)
    changed = f"{place}/corpus/part-001.parquet"
    content = (tmp_path / "corpus" / "part-001.parquet").read_bytes()
    uris.written(changed, content.replace(b"word", b"mord"))  # of the same size
    with pytest.raises(SourceError, match=r"part-001\.parquet was changed after it was indexed"):
        open_index(f"{place}/index")
    uris.written(changed, content)
    check_index(open_index(f"{place}/index"), lengths)
    uris.written(changed, (tmp_path / "corpus" / "part-000.parquet").read_bytes())
    lengths[1] = lengths[0]
    check_index(index(place, workers=1), lengths)
    check_index(open_index(f"{place}/index"), lengths)


def test_a_damaged_file_in_the_bucket_is_named(corpus):
    place, _ = corpus
    found, file = index(place, workers=1), f"{place}/index/000002-part-002.parquet"
    uris.written(file, b"PAR1 and no more")
    with pytest.raises(SourceError, match=file):
        found.rows_of(2)
    with pytest.raises(SourceNotFoundError, match="no such file|has no _index"):
        open_index(f"{place}/elsewhere")
