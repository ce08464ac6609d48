"""Spark calls the same function of a shard."""

import pytest

from batchwright.sources import index_shard, index_shards, index_tasks
from tests.sources.corpora import check_index, contents, write_corpus

sql = pytest.importorskip("pyspark.sql", reason="Spark is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_tasks_of_spark_are_found_and_merged(tmp_path):
    lengths = write_corpus(tmp_path / "corpus", (40, 3, 120))
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.getOrCreate()
    try:
        tasks = index_tasks(tmp_path / "corpus", tmp_path / "index")
        spark.sparkContext.parallelize(tasks, len(tasks)).foreachPartition(
            lambda part: [index_shard(*task, measure="words") for task in part]
        )
    finally:
        spark.stop()
    before = contents(tmp_path / "index")
    assert len(before) == 3
    check_index(index_shards(tmp_path / "corpus", tmp_path / "index", measure="words"), lengths)
    assert before.items() <= contents(tmp_path / "index").items()
