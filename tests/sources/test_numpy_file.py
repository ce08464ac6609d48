"""`.npy` files: mapped, and never run."""

import numpy as np
import pytest

from batchwright import sources
from batchwright.errors import LengthsError, SourceError


@pytest.mark.parametrize("dtype", ["i8", "f8", ">i4", [("id", "i8"), ("length", "i4")]])
def test_lengths_outlive_their_file(tmp_path, dtype) -> None:
    path = tmp_path / "a.npy"
    values = np.zeros(5000, dtype)
    column = values["length"] if values.dtype.names else values
    column[:] = np.arange(5000)
    np.save(path, values)
    lengths = sources.read_lengths(path)
    mapped = np.lib.format.open_memmap(path, mode="r+")
    mapped[:] = 0
    mapped.flush()
    assert lengths.tolist() == list(range(5000))
    np.save(path, values[:1])
    assert lengths.tolist() == list(range(5000))


def test_whole_floats_and_foreign_byte_order(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.array([3.0, 4.0], dtype=np.float32))
    assert sources.read_lengths(tmp_path / "a.npy").tolist() == [3, 4]
    np.save(tmp_path / "b.npy", np.array([3, 400], dtype=">i4"))
    lengths = sources.read_lengths(tmp_path / "b.npy")
    assert lengths.dtype == np.int32
    assert lengths.tolist() == [3, 400]


def test_fields_are_columns(tmp_path) -> None:
    records = np.array([(1, 5), (2, 6)], dtype=[("id", "i8"), ("num_frames", "i4")])
    np.save(tmp_path / "a.npy", records)
    assert sources.read_lengths(tmp_path / "a.npy").tolist() == [5, 6]
    assert sources.read_lengths(tmp_path / "a.npy", column="id").tolist() == [1, 2]


def test_objects_are_refused_without_running_them(tmp_path) -> None:
    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'sprung')!r}, 'w').close()",))

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError, match="Python objects"):
        sources.read_lengths(tmp_path / "a.npy")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2), int), r"shape \(3, 2\)"),
        (np.int64(3), r"shape \(\)"),
        (np.array(["a", "b"]), "expected integers"),
        (np.array([True]), "expected integers"),
        (np.array([], int), "no rows"),
    ],
)
def test_what_is_no_vector_of_integers_is_refused(tmp_path, array, message) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(SourceError, match=message):
        sources.read_lengths(tmp_path / "a.npy")


def test_a_bad_row_is_named_also_far_into_the_file(tmp_path) -> None:
    values = np.ones(2_500_000)
    values[2_200_000] = 1.5
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(LengthsError, match=r"row 2,200,000 of .* is 1\.5"):
        sources.read_lengths(tmp_path / "a.npy")
