"""Readers of CSV, TSV, JSONL and Parquet files into blocks of Arrow columns; text files as `text_streams` opens them.

A text file is read in blocks of whole lines. Arrow parses a regular block at once. A block with a malformed or blank
line, a quoted line break or invalid UTF-8 is parsed row by row, so that each row has its line number and each
malformed line its reason. Both paths return the same values for valid rows. Memory is bounded for any file or line
size.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion.batch import BadLine
from recsys_tasks.ingestion.text_streams import UTF_8, open_text

_BLOCK_BYTES = 2 << 20
_MAX_LINE_BYTES = 1 << 20
_PARQUET_ROWS = 50_000
_PARQUET_BUFFER_BYTES = 1 << 20
_MAX_RAW_CHARS = 2_000
_UNIT_SEPARATOR = "\x1f"  # stands for a delimiter of several characters
_TOO_LONG = f"longer than {_MAX_LINE_BYTES >> 20} MB"
_NUL = "contains a NUL character"
_NOT_UTF8 = "not UTF-8"
_NOT_IN_ENCODING = f"{_NOT_UTF8}, or not in the `encoding` of the mapping"

csv.field_size_limit(2 * _MAX_LINE_BYTES)  # Python's default limit rejects fields that Arrow accepts

HeaderCheck = Callable[[list[str]], None]
BadLineHandler = Callable[[BadLine], None]


@dataclass(frozen=True)
class TextFormat:
    """How a CSV file is written.

    Attributes:
        delimiter: field separator.
        encoding: name of a Python codec.
        skip_lines: number of lines before the header.
        header: column names of a file that has none.
        trim: whether white space around column names does not count.
    """

    delimiter: str
    encoding: str = UTF_8
    skip_lines: int = 0
    header: tuple[str, ...] | None = None
    trim: bool = False

    @property
    def separator(self) -> str:
        """The delimiter as a single ASCII character."""
        return self.delimiter if len(self.delimiter) == 1 and self.delimiter.isascii() else _UNIT_SEPARATOR


@dataclass(frozen=True)
class Block:
    """A block of rows.

    Attributes:
        numbers: line number of each row (Parquet, and elements of JSON arrays: row number), 1-based.
        columns: values by column name, one per row.
        extra: for JSONL, a JSON object per row with the fields the mapping does not name.
        elements: for rows that are elements of a JSON array, the position of each in its array, 1-based.
    """

    numbers: pa.Array
    columns: dict[str, pa.Array]
    extra: pa.Array | None = None
    elements: pa.Array | None = None

    def filter(self, is_kept: pa.Array) -> Block:
        """Returns the block with the rows for which a mask is true."""
        columns = {name: column.filter(is_kept) for name, column in self.columns.items()}
        extra = None if self.extra is None else self.extra.filter(is_kept)
        elements = None if self.elements is None else self.elements.filter(is_kept)
        return Block(self.numbers.filter(is_kept), columns, extra, elements)


class LineReader:
    """Reads whole lines of a text file; truncates lines over the limit.

    Args:
        path: the file.
        encoding: of the file.
        delimiter: what a single character replaces; empty for nothing.
    """

    def __init__(self, path: Path, encoding: str = UTF_8, delimiter: str = "") -> None:
        self._stream = open_text(path, encoding, _BLOCK_BYTES)
        self._delimiter = delimiter.encode()
        self._unread_bytes = b""
        self.line = 0  # number of lines read

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def next_line(self) -> bytes:
        """Returns the next line with its line break; empty at the end of the file."""
        text = self._with_separator(self._read_to_line_end())
        self.line += bool(text)
        return text

    def next_block(self) -> bytes:
        """Returns about 2 MB of whole lines; empty at the end of the file."""
        text = self._unread_bytes + self._stream.read(_BLOCK_BYTES)
        self._unread_bytes = b""
        if not text.endswith(b"\n"):
            text += self._read_to_line_end()
        self.line += _count_lines(text)
        return self._with_separator(text)

    def unread(self, lines: list[bytes]) -> None:
        """Pushes back the most recently read lines; the next block begins with them."""
        self._unread_bytes = b"".join(lines)
        self.line -= len(lines)

    def _with_separator(self, text: bytes) -> bytes:
        return text.replace(self._delimiter, _UNIT_SEPARATOR.encode()) if self._delimiter else text

    def _read_to_line_end(self) -> bytes:
        text = self._stream.readline(_MAX_LINE_BYTES + 1)
        if len(text) <= _MAX_LINE_BYTES or text.endswith(b"\n"):
            return text
        while (more := self._stream.readline(_MAX_LINE_BYTES)) and not more.endswith(b"\n"):
            pass
        return text + b"\n"


def read_csv(
    path: Path, text_format: TextFormat, check_header: HeaderCheck, on_bad_line: BadLineHandler
) -> Iterator[Block]:
    """Yields the rows of a CSV file as blocks of text columns.

    Args:
        path: the file.
        text_format: how it is written.
        check_header: called with the header before any row is read; may raise.
        on_bad_line: called with every line that cannot be parsed.

    Raises:
        MalformedFile: the header cannot be parsed, or the file cannot be read to its end.
    """
    separator = text_format.separator

    def report(line: BadLine) -> None:
        on_bad_line(replace(line, raw=line.raw.replace(_UNIT_SEPARATOR, text_format.delimiter)))

    replaced = "" if separator == text_format.delimiter else text_format.delimiter
    with _open_lines(path, text_format.encoding, replaced) as lines:
        header = _read_header(path, lines, text_format)
        check_header(header)
        while True:
            first = lines.line + 1
            block = lines.next_block()
            if not block:
                return
            parsed = _parse_block_with_arrow(block, header, separator, first) or _parse_block_by_row(
                block, header, separator, first, lines, report
            )
            yield _restore_delimiters(parsed, replaced) if replaced else parsed


def _restore_delimiters(block: Block, delimiter: str) -> Block:
    """Restores the delimiters within quotes."""
    columns = {name: pc.replace_substring(column, _UNIT_SEPARATOR, delimiter) for name, column in block.columns.items()}
    return replace(block, columns=columns)


def _read_header(path: Path, lines: LineReader, text_format: TextFormat) -> list[str]:
    for _ in range(text_format.skip_lines):
        lines.next_line()
    if text_format.header is not None:
        return list(text_format.header)
    try:
        header, _ = _read_row([lines.next_line()], 0, text_format.separator, lambda: b"")
    except _InvalidRow as problem:
        raise MalformedFile(str(path), lines.line, f"the header cannot be read: {problem}") from problem
    return [name.strip() for name in header] if text_format.trim else header


def read_json_lines(path: Path, encoding: str, on_bad_line: BadLineHandler) -> Iterator[tuple[int, dict[str, object]]]:
    """Yields the objects of a JSONL file with their line numbers; errors as in `read_csv`."""
    decode = msgspec.json.Decoder(dict[str, object]).decode
    with _open_lines(path, encoding) as lines:
        while text := lines.next_line():
            if text.isspace():
                continue
            try:
                _check_line(text)
                if b"\\u0000" in text:
                    raise _InvalidRow(_NUL)
                record = decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                on_bad_line(BadLine(lines.line, f"not a JSON object: {error}", to_printable(text)))
            except _InvalidRow as problem:
                on_bad_line(BadLine(lines.line, str(problem), to_printable(text)))
            else:
                yield lines.line, record


def read_parquet(
    path: Path, ignore: Set[str], check_header: HeaderCheck, on_bad_line: BadLineHandler
) -> Iterator[Block]:
    """Yields the rows of a Parquet file in their native types, without the ignored columns; see `read_csv`."""
    try:
        # By default Arrow holds a whole row group, and with pre-buffering everything it has read.
        with pq.ParquetFile(path, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False) as file:
            check_header(file.schema_arrow.names)
            wanted = [name for name in file.schema_arrow.names if name not in ignore]
            number = 1
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted, use_threads=False):
                numbers = pa.arange(number, number + batch.num_rows)
                number += batch.num_rows
                columns = {name: _decode_column(batch[name]) for name in batch.schema.names}
                yield _drop_invalid_rows(numbers, columns, on_bad_line)
    except (OSError, pa.ArrowException) as error:
        raise MalformedFile(str(path), 0, str(error)) from error


def to_printable(text: bytes) -> str:
    """Returns the start of a malformed line as text that PostgreSQL accepts (valid UTF-8, no NUL)."""
    return (
        text[:_MAX_RAW_CHARS]
        .decode("utf-8", "backslashreplace")
        .rstrip("\r\n")
        .replace("\x00", "\\x00")[:_MAX_RAW_CHARS]
    )


class _InvalidRow(ValueError):
    """A line cannot be parsed as a row; the message is the reason."""


@contextmanager
def _open_lines(path: Path, encoding: str, delimiter: str = "") -> Iterator[LineReader]:
    """Opens a `LineReader`; translates read errors to `MalformedFile` with the line number."""
    lines = None
    try:
        lines = LineReader(path, encoding, delimiter)
        yield lines
    except (OSError, pa.ArrowException, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
        line = lines.line + 1 if lines else 0
        raise MalformedFile(str(path), line, f"the file cannot be read beyond this line: {error}") from error
    finally:
        if lines:
            lines.close()


def _count_lines(text: bytes) -> int:
    return text.count(b"\n") + (text != b"" and not text.endswith(b"\n"))


def _parse_block_with_arrow(block: bytes, header: list[str], delimiter: str, first_line: int) -> Block | None:
    """Parses a block in which every line is one valid row; returns None for any other block."""
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
        return None  # a blank line or a quoted line break: line numbers need row-by-row parsing
    columns = {name: table[name].combine_chunks() for name in header}
    return Block(pa.arange(first_line, first_line + table.num_rows), columns)


def _has_lone_return(block: bytes) -> bool:
    """Whether a block has a \\r without \\n; Arrow would end a row there."""
    return b"\r" in block and block.count(b"\r") != block.count(b"\r\n")


def _has_long_line(block: bytes) -> bool:
    start = 0
    while start + _MAX_LINE_BYTES < len(block):
        start = block.rfind(b"\n", start, start + _MAX_LINE_BYTES) + 1
        if not start:
            return True
    return False


def _last_row_ends(block: bytes, delimiter: str) -> bool:
    """Whether all quotes are closed at the end of the block; Arrow would close them silently."""
    last = block[block.rfind(b"\n", 0, -1) + 1 :]
    try:
        return b'"' not in last or bool(_parse_line(last, delimiter))
    except _InvalidRow:
        return False


def _parse_block_by_row(
    block: bytes, header: list[str], delimiter: str, first_line: int, source: LineReader, on_bad_line: BadLineHandler
) -> Block:
    """Parses a block row by row; a row with open quotes may take further lines from the source."""
    lines = io.BytesIO(block).readlines()
    num_lines, index = len(lines), 0
    numbers: list[int] = []
    cells: list[str] = []
    while index < num_lines:
        try:
            values, next_index = _read_row(lines, index, delimiter, source.next_line)
            if values and len(values) != len(header):
                raise _InvalidRow(f"{len(values)} fields where the header has {len(header)}")
        except _InvalidRow as problem:
            # An unclosed quote invalidates only its own line, not the lines after it.
            on_bad_line(BadLine(first_line + index, str(problem), to_printable(lines[index])))
            index += 1
            continue
        index = next_index
        if values:
            numbers.append(first_line + index - 1)
            cells.extend(values)
    source.unread(lines[index:])
    width = len(header)
    columns = {name: pa.array(cells[index::width], pa.string()) for index, name in enumerate(header)}
    return Block(pa.array(numbers, pa.int64()), columns)


def _read_row(lines: list[bytes], index: int, delimiter: str, next_line: Callable[[], bytes]) -> tuple[list[str], int]:
    """Returns the fields of the row that begins at `index` (empty for a blank line) and the next row's index.

    Appends further lines from `next_line` to `lines` as needed.
    """
    _check_line(lines[index])
    if b'"' not in lines[index]:
        return _parse_line(lines[index], delimiter), index + 1
    reader = csv.reader(_iterate_row_lines(lines, index, next_line), delimiter=delimiter, strict=True)
    try:
        return next(reader), index + reader.line_num
    except (csv.Error, UnicodeDecodeError, _InvalidRow):
        return _parse_line(lines[index], delimiter), index + 1


def _iterate_row_lines(lines: list[bytes], index: int, next_line: Callable[[], bytes]) -> Iterator[str]:
    """Yields lines from `index` on, up to the maximum size of a row."""
    size = 0
    while index < len(lines) or _append_line(lines, next_line()):
        size += len(lines[index])
        if size > _MAX_LINE_BYTES:
            return
        _check_line(lines[index])
        yield lines[index].decode()
        index += 1


def _append_line(lines: list[bytes], line: bytes) -> bool:
    if line:
        lines.append(line)
    return bool(line)


def _parse_line(line: bytes, delimiter: str) -> list[str]:
    """Returns the fields of a single-line row. Text after closing quotes is kept, as in Arrow."""
    try:
        reader = csv.reader([line.decode(), ""], delimiter=delimiter)
        values = next(reader)
    except UnicodeDecodeError as error:
        raise _InvalidRow(_NOT_IN_ENCODING) from error
    except csv.Error as error:
        raise _InvalidRow(f"not valid CSV: {error}") from error
    if reader.line_num > 1:
        raise _InvalidRow("unclosed quotes")
    return values


def _check_line(line: bytes) -> None:
    if len(line) > _MAX_LINE_BYTES:
        raise _InvalidRow(_TOO_LONG)
    if b"\0" in line:
        raise _InvalidRow(_NUL)


def _decode_column(column: pa.Array) -> pa.Array:
    """Decodes dictionary and extension types; casts any text or binary type to binary."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return _decode_column(column.storage)
    if pa.types.is_dictionary(kind):
        return _decode_column(column.dictionary_decode())
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    others = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return column.cast(pa.binary()) if any(is_kind(kind) for is_kind in texts + others) else column


def _drop_invalid_rows(numbers: pa.Array, columns: dict[str, pa.Array], on_bad_line: BadLineHandler) -> Block:
    """Casts binary columns to text and drops rows whose values are not valid text for PostgreSQL."""
    texts = {name: column for name, column in columns.items() if pa.types.is_binary(column.type)}
    problems: dict[int, str] = {}
    for name, column in texts.items():
        for problem, mask in _find_invalid_values(column):
            problems.update((index, f"{name!r}: {problem}") for index in pc.indices_nonzero(mask).to_pylist())
    for index, problem in sorted(problems.items()):
        row = {name: column[index].as_py() for name, column in texts.items()}
        on_bad_line(BadLine(numbers[index].as_py(), problem, str(row)[:_MAX_RAW_CHARS]))
    if problems:
        good = pa.array([index not in problems for index in range(len(numbers))])
        numbers, columns = numbers.filter(good), {name: column.filter(good) for name, column in columns.items()}
    return Block(
        numbers, {name: column.cast(pa.string()) if name in texts else column for name, column in columns.items()}
    )


def _find_invalid_values(column: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Yields problems of a binary column, each with a boolean mask [rows]."""
    yield _TOO_LONG, pc.greater(pc.binary_length(column), _MAX_LINE_BYTES)
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
