"""CSV, TSV, JSONL and Parquet files (gzip or zstd by name) as Arrow columns of what is written in them.

A text file is read in blocks of whole lines. Arrow parses a block at once; a block in which anything is unusual (a
broken line, a blank one, a quoted line break, bytes that are not UTF-8) is read row by row instead, so that each row
has its line's number and each broken line its reason. Both ways read a good row the same. Memory stays flat whatever
the size of a file or of a line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion.batch import BadLine

_BLOCK_BYTES = 2 << 20
_LONGEST_LINE = 1 << 20
_PARQUET_ROWS = 50_000
_PARQUET_BUFFER = 1 << 20
_RAW_LIMIT = 2_000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TOO_LONG = f"longer than {_LONGEST_LINE >> 20} MB"
_NUL = "holds a NUL character"
_NOT_UTF8 = "not UTF-8"

csv.field_size_limit(2 * _LONGEST_LINE)  # Python's own limit refuses fields that Arrow reads

Check = Callable[[list[str]], None]
Report = Callable[[BadLine], None]


@dataclass(frozen=True)
class Block:
    """Some rows of a file: the number of each one's line (of Parquet: its place), and its columns by name.

    `extra` are JSON objects of what has no column of its own, where rows are objects.
    """

    numbers: pa.Array
    columns: dict[str, pa.Array]
    extra: pa.Array | None = None


class LineReader:
    """Whole lines of a text file, decompressed by its name. Of a line that is too long, only so much as shows that."""

    def __init__(self, path: Path) -> None:
        self._stream = io.BufferedReader(pa.input_stream(str(path), compression="detect"), _BLOCK_BYTES)
        self._again = b""
        self.line = 0  # lines read so far
        if self._stream.peek(3).startswith(_BYTE_ORDER_MARK):
            self._stream.read(3)

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def next_line(self) -> bytes:
        """The next line with its end; empty at the end of the file."""
        text = self._to_line_end()
        self.line += bool(text)
        return text

    def next_block(self) -> bytes:
        """Some lines, the last one whole; empty at the end of the file."""
        text = self._again + self._stream.read(_BLOCK_BYTES)
        self._again = b""
        if not text.endswith(b"\n"):
            text += self._to_line_end()
        self.line += _count_lines(text)
        return text

    def put_back(self, lines: list[bytes]) -> None:
        """Lets the next block begin with these lines, the last that were read."""
        self._again = b"".join(lines)
        self.line -= len(lines)

    def _to_line_end(self) -> bytes:
        text = self._stream.readline(_LONGEST_LINE + 1)
        if len(text) <= _LONGEST_LINE or text.endswith(b"\n"):
            return text
        while (more := self._stream.readline(_LONGEST_LINE)) and not more.endswith(b"\n"):
            pass
        return text + b"\n"


def read_csv(path: Path, delimiter: str, check: Check, bad: Report) -> Iterator[Block]:
    """The rows of a CSV file as columns of text.

    Args:
        path: the file.
        delimiter: between fields.
        check: is given the header before any row is read, and may raise.
        bad: is given every line that is no row.

    Raises:
        MalformedFile: the header is none, or the file cannot be read on from some line.
    """
    with _reading(path) as lines:
        try:
            header, _ = _fields([lines.next_line()], 0, delimiter, lambda: b"")
        except _NoRow as problem:
            raise MalformedFile(str(path), 1, f"the header cannot be read: {problem}") from problem
        check(header)
        while True:
            first = lines.line + 1
            block = lines.next_block()
            if not block:
                return
            yield _parse_block(block, header, delimiter, first) or _parse_lines(
                block, header, delimiter, first, lines, bad
            )


def read_json_lines(path: Path, bad: Report) -> Iterator[tuple[int, dict[str, object]]]:
    """The objects of a JSONL file, each with the number of its line; errors as for `read_csv`."""
    decode = msgspec.json.Decoder(dict[str, object]).decode
    with _reading(path) as lines:
        while text := lines.next_line():
            if text.isspace():
                continue
            try:
                _check_line(text)
                if b"\\u0000" in text:
                    raise _NoRow(_NUL)
                record = decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                bad(BadLine(lines.line, f"not a JSON object: {error}", printable(text)))
            except _NoRow as problem:
                bad(BadLine(lines.line, str(problem), printable(text)))
            else:
                yield lines.line, record


def read_parquet(path: Path, ignore: Set[str], check: Check, bad: Report) -> Iterator[Block]:
    """The rows of a Parquet file, columns in their own types, but those to ignore; the rest as for `read_csv`."""
    try:
        # Unless told otherwise Arrow holds all of a row group, and of a pre-buffered file everything it read.
        with pq.ParquetFile(path, buffer_size=_PARQUET_BUFFER, pre_buffer=False) as file:
            check(file.schema_arrow.names)
            wanted = [name for name in file.schema_arrow.names if name not in ignore]
            number = 1
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted, use_threads=False):
                numbers = pa.arange(number, number + batch.num_rows)
                number += batch.num_rows
                columns = {name: _plain(batch[name]) for name in batch.schema.names}
                yield _without_unusable(numbers, columns, bad)
    except (OSError, pa.ArrowException) as error:
        raise MalformedFile(str(path), 0, str(error)) from error


def printable(text: bytes) -> str:
    """The start of a broken line as a text that any database takes."""
    return text[:_RAW_LIMIT].decode("utf-8", "backslashreplace").rstrip("\r\n").replace("\x00", "\\x00")[:_RAW_LIMIT]


class _NoRow(ValueError):
    """A line is no row; says why."""


@contextmanager
def _reading(path: Path) -> Iterator[LineReader]:
    """A `LineReader`, with whatever makes a file unreadable named with the line."""
    lines = None
    try:
        lines = LineReader(path)
        yield lines
    except (OSError, pa.ArrowException) as error:
        line = lines.line + 1 if lines else 0
        raise MalformedFile(str(path), line, f"the file cannot be read from here on: {error}") from error
    finally:
        if lines:
            lines.close()


def _count_lines(text: bytes) -> int:
    return text.count(b"\n") + (text != b"" and not text.endswith(b"\n"))


def _parse_block(block: bytes, header: list[str], delimiter: str, first_line: int) -> Block | None:
    """A block in which every line is a row of good text; None for any other."""
    if b"\0" in block or _has_lone_return(block) or _has_long_line(block) or not _last_row_ends(block, delimiter):
        return None
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(block),
            read_options=pa.csv.ReadOptions(column_names=header, use_threads=False, block_size=len(block) + 1),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in block),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != _count_lines(block):
        return None  # a blank line, or a line break in quotes: whose line is whose takes counting
    columns = {name: table[name].combine_chunks() for name in header}
    return Block(pa.arange(first_line, first_line + table.num_rows), columns)


def _has_lone_return(block: bytes) -> bool:
    """Arrow ends a row there."""
    return b"\r" in block and block.count(b"\r") != block.count(b"\r\n")


def _has_long_line(block: bytes) -> bool:
    start = 0
    while start + _LONGEST_LINE < len(block):
        start = block.rfind(b"\n", start, start + _LONGEST_LINE) + 1
        if not start:
            return True
    return False


def _last_row_ends(block: bytes, delimiter: str) -> bool:
    """Whether no quotes are open at the end; Arrow would close them."""
    last = block[block.rfind(b"\n", 0, -1) + 1 :]
    try:
        return b'"' not in last or bool(_fields_of_line(last, delimiter))
    except _NoRow:
        return False


def _parse_lines(
    block: bytes, header: list[str], delimiter: str, first_line: int, source: LineReader, bad: Report
) -> Block:
    """A block read with care. A row whose quotes go on takes further lines from the source."""
    lines = io.BytesIO(block).readlines()
    whole, at = len(lines), 0
    numbers: list[int] = []
    cells: list[str] = []
    while at < whole:
        try:
            values, after = _fields(lines, at, delimiter, source.next_line)
            if values and len(values) != len(header):
                raise _NoRow(f"{len(values)} fields where the header has {len(header)}")
        except _NoRow as problem:
            # If a quote swallowed lines it was none: only its own line is lost.
            bad(BadLine(first_line + at, str(problem), printable(lines[at])))
            at += 1
            continue
        at = after
        if values:
            numbers.append(first_line + at - 1)
            cells.extend(values)
    source.put_back(lines[at:])
    width = len(header)
    columns = {name: pa.array(cells[at::width], pa.string()) for at, name in enumerate(header)}
    return Block(pa.array(numbers, pa.int64()), columns)


def _fields(lines: list[bytes], at: int, delimiter: str, more: Callable[[], bytes]) -> tuple[list[str], int]:
    """The fields of the row that begins at a line, none of a blank one, and where the next row begins.

    Lines that `more` had to give are added to `lines`.
    """
    _check_line(lines[at])
    if b'"' not in lines[at]:
        return _fields_of_line(lines[at], delimiter), at + 1
    reader = csv.reader(_row_lines(lines, at, more), delimiter=delimiter, strict=True)
    try:
        return next(reader), at + reader.line_num
    except (csv.Error, UnicodeDecodeError, _NoRow):
        return _fields_of_line(lines[at], delimiter), at + 1


def _row_lines(lines: list[bytes], at: int, more: Callable[[], bytes]) -> Iterator[str]:
    """Lines from one on, as many as a row may have."""
    size = 0
    while at < len(lines) or _added(lines, more()):
        size += len(lines[at])
        if size > _LONGEST_LINE:
            return
        _check_line(lines[at])
        yield lines[at].decode()
        at += 1


def _added(lines: list[bytes], line: bytes) -> bool:
    if line:
        lines.append(line)
    return bool(line)


def _fields_of_line(line: bytes, delimiter: str) -> list[str]:
    """The fields of a row that ends with its line. Text after closing quotes is text, as it is to Arrow."""
    try:
        reader = csv.reader([line.decode(), ""], delimiter=delimiter)
        values = next(reader)
    except UnicodeDecodeError as error:
        raise _NoRow(_NOT_UTF8) from error
    except csv.Error as error:
        raise _NoRow(f"no CSV: {error}") from error
    if reader.line_num > 1:
        raise _NoRow("its quotes do not close")
    return values


def _check_line(line: bytes) -> None:
    if len(line) > _LONGEST_LINE:
        raise _NoRow(_TOO_LONG)
    if b"\0" in line:
        raise _NoRow(_NUL)


def _plain(column: pa.Array) -> pa.Array:
    """A column without its encoding; any kind of text or bytes as bytes."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return _plain(column.storage)
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    others = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return column.cast(pa.binary()) if any(is_kind(kind) for is_kind in texts + others) else column


def _without_unusable(numbers: pa.Array, columns: dict[str, pa.Array], bad: Report) -> Block:
    """Columns of bytes as text, without the rows in which they are none that a database takes."""
    texts = {name: column for name, column in columns.items() if pa.types.is_binary(column.type)}
    problems: dict[int, str] = {}
    for name, column in texts.items():
        for problem, found in _unusable(column):
            problems.update((at, f"{name!r}: {problem}") for at in pc.indices_nonzero(found).to_pylist())
    for at, problem in sorted(problems.items()):
        row = {name: column[at].as_py() for name, column in texts.items()}
        bad(BadLine(numbers[at].as_py(), problem, str(row)[:_RAW_LIMIT]))
    if problems:
        good = pa.array([at not in problems for at in range(len(numbers))])
        numbers, columns = numbers.filter(good), {name: column.filter(good) for name, column in columns.items()}
    return Block(
        numbers, {name: column.cast(pa.string()) if name in texts else column for name, column in columns.items()}
    )


def _unusable(column: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Problems, and in which rows a column of bytes has them."""
    yield _TOO_LONG, pc.greater(pc.binary_length(column), _LONGEST_LINE)
    yield _NUL, pc.match_substring(column, "\x00")
    try:
        column.cast(pa.string())
    except pa.ArrowInvalid:
        yield _NOT_UTF8, pa.array([not _is_utf8(value or b"") for value in column.to_pylist()])


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
