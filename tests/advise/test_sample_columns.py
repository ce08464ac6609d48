"""`batchwright advise` on tables with labels, groups and texts, and on tasks that have them."""

import csv
import json

import numpy as np
import pytest

from tests.cli.command import facts_of, invoke

COLUMNS = ("--text", "text", "--measure", "words", "--labels", "label", "--groups", "language")


def rows_of(num_samples=600):
    """Texts of three topics, two languages, a tenth of them there twice."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(num_samples):
        topic = ("sea", "sun", "sky")[number % 3]
        words = [f"{topic}{word}" for word in rng.integers(0, 40, rng.integers(4, 20))]
        rows.append(
            {
                "text": " ".join([str(number), *words]),
                "label": topic,
                "language": "de" if number % 5 else "sw",
                "price": number / 7,
            }
        )
    return rows + rows[: num_samples // 10]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The same rows in four formats."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("tables")
    rows = rows_of()
    table = pa.Table.from_pylist(rows)
    labels = table["label"].dictionary_encode()
    encoded = table.set_column(table.column_names.index("label"), "label", labels)
    pq.write_table(encoded, folder / "rows.parquet", row_group_size=100)
    with pa.ipc.new_file(folder / "rows.arrow", encoded.schema) as writer:
        writer.write_table(encoded, max_chunksize=64)
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(folder / "lengths.npy", np.arange(1, 101))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "jsonl"])
def test_columns_of_a_table_are_looked_at(tables, kind):
    pytest.importorskip("sklearn")
    facts = facts_of("advise", str(tables / f"rows.{kind}"), *COLUMNS)
    labels, duplicates, groups = (facts[name] for name in ("labels", "duplicates", "groups"))
    assert (labels["num_classes"], labels["largest"]) == (3, 220)
    assert labels["noise"]["high"] < 0.05
    assert (duplicates["num_samples"], duplicates["num_repeated"]) == (660, 60)
    assert duplicates["num_contradicting"] == 0
    assert [each["name"] for each in groups["largest"]] == ["de", "sw"]
    assert groups["largest"][1]["num_samples"] == 132
    verdicts = {each["technique"]: each["verdict"] for each in facts["advice"]}
    assert verdicts["self-paced"] == "do not use"
    assert verdicts["deduplication"] == "use"
    assert verdicts["balanced sampling"] == "do not use"
    assert verdicts["mixture of groups"] == "cannot tell"


@pytest.mark.slow
def test_the_report_and_the_page_show_the_profiles(tables, tmp_path):
    page = tmp_path / "page.html"
    source = str(tables / "rows.csv")
    shown = invoke("advise", source, *COLUMNS, "--html", str(page))
    assert shown.exit_code == 0, shown.stderr
    text, html = " ".join(shown.stdout.split()), page.read_text(encoding="utf-8")
    for said in ("Labels: 3 classes of 220 samples", "Duplicates: 60 of the 660 samples"):
        assert said in text
        assert said in html
    assert "2 groups" in html
    assert ">sw</td>" in html
    assert "of draws at temperature 5" in html
    silent = invoke("advise", source, "--measure", "words")
    assert "Labels:" not in silent.stdout


def test_each_column_can_be_given_alone(tables):
    source = str(tables / "rows.jsonl")
    one = ("--length", "text", "--measure", "words")
    facts = facts_of("advise", source, *one, "--labels", "label")
    assert facts["labels"]["num_classes"] == 3
    assert facts["labels"]["noise"] is None
    assert (facts["duplicates"], facts["groups"]) == (None, None)
    facts = facts_of("advise", source, *one, "--text", "text")
    assert facts["labels"] is None
    assert facts["duplicates"]["num_contradicting"] is None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("rows.csv", "--measure", "words", "--labels", "labl"), "Did you mean 'label'?"),
        (("rows.parquet", "--measure", "words", "--groups", "no"), "has no column 'no'"),
        (("rows.jsonl", "--measure", "words", "--text", "price"), "price' holds numbers"),
        (
            ("rows.jsonl", "--length", "text", "--measure", "words", "--text", "price"),
            "is of type double; expected text, one value for each sample",
        ),
        (
            ("rows.csv", "--measure", "words", "--labels", "price"),
            "with fractions: these are not class labels",
        ),
        (("rows.csv", "--measure", "words", "--labels", "text"), "these are not class labels"),
        (("lengths.npy", "--labels", "label"), "has no column 'label'"),
        (("lengths.npy", "--text", "values"), "expected text, one value for each sample"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(tables, args, said):
    shown = invoke("advise", str(tables / args[0]), *args[1:])
    assert shown.exit_code == 2
    assert said in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_options_of_a_source_are_not_of_a_task():
    shown = invoke("advise", "no.py", "--labels", "label")
    assert shown.exit_code == 2
    assert "A TASK has its own" in shown.stderr


@pytest.mark.slow
def test_a_task_is_asked_for_its_labels_and_samples():
    from batchwright.advise import profile_samples
    from tests.compare.conftest import make_task

    def of_task(task):
        known = {name: getattr(task, name) for name in ("labels", "groups", "samples", "features")}
        return profile_samples(task.sizes, **known)

    labels = np.arange(240) % 2
    features = np.random.default_rng(0).normal(size=(240, 2)) + 6 * labels[:, None]
    task = make_task(labels=labels, features=lambda: features, groups=["a"] * 200 + ["b"] * 40)
    found = of_task(task)
    assert found["labels"].noise.high < 0.05
    assert found["duplicates"].num_samples == 240
    assert found["groups"].num_groups == 2

    class Own:
        def __len__(self):
            return 240

        def __getitem__(self, index):
            return self

    found = of_task(make_task(samples=Own()))
    assert found == {"labels": None, "duplicates": None, "groups": None}


def test_several_columns_of_lengths_are_several_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["source,target", *(f"{1 + n % 7},{2 + n % 11}" for n in range(200))]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    shown = invoke("advise", "pairs.csv", "--length", "source,target", "--json")
    assert shown.exit_code == 0, shown.stderr
    columns = json.loads(shown.stdout)["data"]["columns"]
    assert [each["longest"] for each in columns] == [7, 12]
    assert "By columns" in invoke("advise", "pairs.csv", "--length", "source,target").stdout
    wrong = invoke("advise", "pairs.csv", "--length", "source,nowhere")
    assert wrong.exit_code == 2
    assert "nowhere" in wrong.stderr


@pytest.mark.parametrize("option", ["--labels", "--groups"])
def test_nested_values_are_refused_in_a_line(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = {"length": [3, 4, 5], "nested": [{"a": 1}, {"a": 2}, {"a": 1}]}
    parquet.write_table(pa.table(rows), "rows.parquet")
    done = invoke("advise", "rows.parquet", option, "nested")
    assert done.exit_code == 2
    assert "'nested' is of type struct<a: int64>; expected integers or text" in done.stderr
    assert done.stderr.count("\n") == 1
