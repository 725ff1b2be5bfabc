"""A column of a Parquet file as token ids: integers, or lists of integers, which are joined in the order of the rows."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

_BATCH_ROWS: Final = 1 << 16


class ColumnError(Exception):
    """A column that is not there, or is not token ids; the text says which, and in which row."""


@contextmanager
def as_npy(file: Path, column: str, vocabulary_size: int) -> Iterator[Path]:
    """The column's ids 0 … m - 1 as an .npy file of the same name, for a while. Rows are counted from 0. Raises `ColumnError`."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="codelength-") as directory:
        path = Path(directory) / file.name
        with path.open("wb") as target:
            np.lib.format.write_array_header_1_0(target, _header(0))
            begins = target.tell()
            tokens = sum(_write(ids, target) for ids in _ids(file, column, vocabulary_size))
            target.seek(0)
            np.lib.format.write_array_header_1_0(target, _header(tokens))
            assert target.tell() == begins  # numpy leaves room for any length
        yield path


def _header(tokens: int) -> dict[str, Any]:
    return {"descr": "<u4", "fortran_order": False, "shape": (tokens,)}


def _write(ids: Any, target: IO[bytes]) -> int:
    target.write(ids.astype("<u4").tobytes())
    return len(ids)


def _ids(file: Path, column: str, vocabulary_size: int) -> Iterator[Any]:
    """The ids, a batch at a time; rows of the file, not values, are named."""
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ImportError:
        raise ColumnError("reading Parquet needs the package pyarrow: pip install 'codelength[tokens]'") from None
    try:
        with pq.ParquetFile(file) as source:
            names = source.schema_arrow.names
            if column not in names:
                raise ColumnError(f"there is no column {column!r}: {', '.join(names) or 'there is none at all'}")
            kind = source.schema_arrow.field(column).type
            nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
            if not pa.types.is_integer(kind.value_type if nested else kind):
                raise ColumnError(f"column {column!r}: it is of {kind}, not of integers or lists of them")
            row = 0
            for batch in source.iter_batches(_BATCH_ROWS, columns=[column]):
                found = batch.column(0)
                if found.null_count:
                    raise ColumnError(f"column {column!r}, row {row + _first(pc.is_null(found))}: it is null")
                parents = pc.list_parent_indices(found) if nested else None
                values = pc.list_flatten(found) if nested else found

                def place(at: int, base: int = row, parents: Any = parents) -> str:
                    return f"column {column!r}, row {base + (at if parents is None else parents[at].as_py())}: the id is"

                if values.null_count:
                    raise ColumnError(f"{place(_first(pc.is_null(values)))} null")
                ids = values.to_numpy(zero_copy_only=False)
                wrong = (ids < 0) | (ids >= vocabulary_size)
                if wrong.any():
                    at = int(wrong.argmax())
                    raise ColumnError(f"{place(at)} {ids[at]}, which is not in 0 … {vocabulary_size - 1}")
                yield ids
                row += len(found)
    except (pa.ArrowException, OSError) as error:
        raise ColumnError(f"cannot be read as Parquet: {str(error).splitlines()[0][:200]}") from None


def _first(mask: Any) -> int:
    """The index of the first true value, -1 if there is none."""
    import pyarrow.compute as pc

    return int(pc.index(mask, True).as_py())
