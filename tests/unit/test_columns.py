"""Columns of Parquet files as ids, and what is wrong with them, by row and column."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import columns
from harness.columns import ColumnError, as_npy


def written(path, **of_columns):
    pq.write_table(pa.table(of_columns), path, row_group_size=3)
    return path


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 5, 299, 7, 7], pa.int64()),
        pa.array([0, 5, 299, 7, 7], pa.uint16()),
        pa.array([0, 5, 299, 7, 7], pa.uint64()),
        pa.array([[0, 5], [], [299, 7, 7]], pa.list_(pa.int32())),
        pa.array([[0, 5], [299], [7, 7]], pa.large_list(pa.int64())),
        pa.chunked_array([pa.array([0, 5]), pa.array([299, 7, 7])]),
    ],
)
def test_integers_and_lists_of_them(tmp_path, monkeypatch, column):
    monkeypatch.setattr(columns, "_BATCH_ROWS", 2)
    with as_npy(written(tmp_path / "x.parquet", other=[""] * len(column), ids=column), "ids", 300) as path:
        assert path.name == "x.parquet"
        assert np.load(path).tolist() == [0, 5, 299, 7, 7]
    assert not path.exists()


def test_lists_of_one_length(tmp_path):
    column = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4]), 2)
    with as_npy(written(tmp_path / "x", ids=column), "ids", 5) as path:
        assert np.load(path).tolist() == [1, 2, 3, 4]


def test_no_rows(tmp_path):
    with as_npy(written(tmp_path / "x", ids=pa.array([], pa.int8())), "ids", 5) as path:
        assert np.load(path).shape == (0,)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array([0, 1, 2, 3, None, 5]), "column 'ids', row 4: it is null"),
        (pa.array([0, 1, 2, 3, 4, -1]), "column 'ids', row 5: the id is -1, which is not in 0 … 9"),
        (pa.array([0, 10, 2, 3, 4, 1]), "column 'ids', row 1: the id is 10, which is not in 0 … 9"),
        (pa.array([0, 1 << 63], pa.uint64()), "column 'ids', row 1: the id is 9223372036854775808, which"),
        (pa.array([[1, 2], [3], [4, 5], [6, 11]]), "column 'ids', row 3: the id is 11, which"),
        (pa.array([[1, 2], [3], [4, None], [6]]), "column 'ids', row 2: the id is null"),
        (pa.array([[1, 2], [3], None]), "column 'ids', row 2: it is null"),
        (pa.array(["a"]), "column 'ids': it is of string, not of integers or lists of them"),
        (pa.array([1.0]), "column 'ids': it is of double"),
        (pa.array([[[1]]]), "column 'ids': it is of list<element: list<element: int64>>"),
    ],
)
def test_what_is_wrong_is_told_by_row_and_column(tmp_path, monkeypatch, column, told):
    monkeypatch.setattr(columns, "_BATCH_ROWS", 2)
    with pytest.raises(ColumnError) as caught, as_npy(written(tmp_path / "x", ids=column), "ids", 10):
        pass
    assert str(caught.value).startswith(told)


def test_no_such_column_and_no_parquet(tmp_path):
    with (
        pytest.raises(ColumnError, match=r"no column 'tokens': a, b"),
        as_npy(written(tmp_path / "x", a=[1], b=[2]), "tokens", 10),
    ):
        pass
    (tmp_path / "y").write_bytes(b"PAR1 it is not")
    with pytest.raises(ColumnError, match="cannot be read as Parquet"), as_npy(tmp_path / "y", "a", 10):
        pass


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ColumnError, match=r"pip install 'codelength\[tokens\]'"), as_npy(tmp_path / "x", "a", 10):
        pass
