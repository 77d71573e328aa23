"""CSV, TSV, JSONL and Parquet files (gzip or zstd by name) as Arrow columns of what is written in them.

A file is read in blocks of whole lines. Arrow parses a block at once; a block in which anything is unusual (a broken
line, a quoted line break, bytes that are not UTF-8) is read line by line instead, so that each line has its number and
each broken one its reason. Memory stays flat whatever the size of a file or of a line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from recsys_tasks.errors import MalformedFile
from recsys_tasks.ingestion.batch import BadLine

_BLOCK_BYTES = 4 << 20
_LONGEST_LINE = 1 << 20
_RAW_LIMIT = 2_000
_RECORDS = 20_000
_CONTROL = re.compile(r"\x00|[\ud800-\udfff]")
csv.field_size_limit(_LONGEST_LINE)
_TOO_LONG = f"longer than {_LONGEST_LINE >> 20} MB"

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
    """Whole lines of a text file, decompressed by its name; a line too long to be one is skipped and reported."""

    def __init__(self, path: Path, bad: Report) -> None:
        self._stream = io.BufferedReader(pa.input_stream(str(path), compression="detect"), _BLOCK_BYTES)
        self._bad = bad
        self.line = 0  # lines read so far

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def next_line(self) -> bytes:
        """The next line with its end; empty at the end of the file."""
        text = self._stream.readline(_LONGEST_LINE)
        while len(text) == _LONGEST_LINE and not text.endswith(b"\n"):
            start = text[:_RAW_LIMIT]
            while text and not text.endswith(b"\n"):
                text = self._stream.readline(_LONGEST_LINE)
            self.line += 1
            self._bad(BadLine(self.line, _TOO_LONG, printable(start)))
            text = self._stream.readline(_LONGEST_LINE)
        if text:
            self.line += 1
        return text if self.line > 1 else text.removeprefix(b"\xef\xbb\xbf")

    def next_block(self) -> bytes:
        """Some lines, the last one whole; empty at the end of the file."""
        text = self._stream.read(_BLOCK_BYTES)
        cut = text.rfind(b"\n") + 1
        rest = text[cut:]
        self.line += text.count(b"\n")
        if not rest:
            return text
        tail = self._stream.readline(_LONGEST_LINE)
        if len(rest) + len(tail) >= _LONGEST_LINE and not tail.endswith(b"\n"):
            while tail and not tail.endswith(b"\n"):
                tail = self._stream.readline(_LONGEST_LINE)
            self.line += 1
            self._bad(BadLine(self.line, _TOO_LONG, printable(rest[:_RAW_LIMIT])))
            return text[:cut] or self.next_block()
        self.line += 1
        return text + tail


def read_csv(path: Path, delimiter: str, check: Callable[[list[str]], None], bad: Report) -> Iterator[Block]:
    """The rows of a CSV file as columns of text.

    Args:
        path: the file.
        delimiter: between fields.
        check: is given the header before any row is read, and may raise.
        bad: is given every line that is no row.

    Raises:
        MalformedFile: the file cannot be read on from some line.
    """
    with _reading(path, bad) as lines:
        header = next(csv.reader([lines.next_line().decode("utf-8", "surrogateescape")], delimiter=delimiter), [])
        check(header)
        while True:
            before = lines.line
            block = lines.next_block()
            if not block:
                return
            found = _parse_block(block, header, delimiter, before + 1)
            yield found or _parse_lines(block, header, delimiter, before + 1, lines, bad)


def read_json_lines(path: Path, bad: Report) -> Iterator[tuple[int, dict[str, object]]]:
    """The objects of a JSONL file, each with the number of its line; errors as for `read_csv`."""
    decode = msgspec.json.Decoder(dict[str, object]).decode
    with _reading(path, bad) as lines:
        while text := lines.next_line():
            if text.isspace():
                continue
            if b"\\u0000" in text or b"\0" in text:
                bad(BadLine(lines.line, "holds a NUL character", printable(text[:_RAW_LIMIT])))
                continue
            try:
                record = decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                bad(BadLine(lines.line, f"not a JSON object: {error}", printable(text[:_RAW_LIMIT])))
                continue
            yield lines.line, record


def read_parquet(path: Path, check: Callable[[list[str]], None], bad: Report) -> Iterator[Block]:
    """The rows of a Parquet file, columns in their own types; arguments and errors as for `read_csv`."""
    try:
        with pq.ParquetFile(path) as file:
            check(file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=_RECORDS * 4):
                numbers = pa.array(range(number + 1, number + 1 + batch.num_rows), pa.int64())
                number += batch.num_rows
                yield _without_nul(Block(numbers, dict(zip(batch.schema.names, batch.columns, strict=True))), bad)
    except (OSError, pa.ArrowException) as error:
        raise MalformedFile(str(path), 0, str(error)) from error


def printable(text: bytes) -> str:
    """Bytes of a broken line as a text that any database takes."""
    return text.decode("utf-8", "backslashreplace").rstrip("\r\n").replace("\x00", "\\x00")


class _reading:
    """A `LineReader`, with whatever makes a file unreadable named with the line."""

    def __init__(self, path: Path, bad: Report) -> None:
        self._path, self._bad = path, bad

    def __enter__(self) -> LineReader:
        try:
            self._lines = LineReader(self._path, self._bad)
        except OSError as error:
            raise MalformedFile(str(self._path), 0, error.strerror or str(error)) from error
        return self._lines

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        line = self._lines.line + 1
        self._lines.close()
        if isinstance(error, OSError | EOFError | pa.ArrowException | csv.Error):
            raise MalformedFile(str(self._path), line, f"the file cannot be read from here on: {error}") from error


def _parse_block(block: bytes, header: list[str], delimiter: str, first_line: int) -> Block | None:
    """A block in which every line is a row of good text; None for any other."""
    if b"\0" in block or _ends_in_quotes(block) or _longest_line(block) > _LONGEST_LINE:
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
    if table.num_rows != block.count(b"\n") + (not block.endswith(b"\n")):
        return None  # a blank line, or a line break in quotes: whose line is whose takes counting
    batch = table.combine_chunks()
    numbers = pa.array(range(first_line, first_line + batch.num_rows), pa.int64())
    return Block(numbers, {name: batch[name].chunk(0) for name in header})


def _longest_line(block: bytes) -> int:
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    return int(np.diff(ends, prepend=-1, append=len(block)).max())


def _ends_in_quotes(block: bytes) -> bool:
    last = block.rfind(b"\n", 0, len(block) - 1) + 1
    return block.count(b'"', last) % 2 == 1


def _parse_lines(
    block: bytes, header: list[str], delimiter: str, first_line: int, source: LineReader, bad: Report
) -> Block:
    """A block read with care. A row whose quotes go on takes further lines from the source."""
    lines = re.findall(rb"[^\n]*\n|[^\n]+", block)
    whole, at = len(lines), 0
    numbers: list[int] = []
    rows: list[list[str]] = []
    while at < whole:
        start = at

        def following() -> Iterator[str]:
            nonlocal at
            size = 0
            while size <= _LONGEST_LINE:
                if at == len(lines):
                    lines.append(source.next_line())
                line = lines[at]
                if not line:
                    lines.pop()
                    return
                at += 1
                size += len(line)
                yield line.decode("utf-8", "surrogateescape")

        try:
            values = next(csv.reader(following(), delimiter=delimiter), None)
            problem = _row_problem(values, header)
        except csv.Error as error:
            too_long = len(lines[start]) > _LONGEST_LINE
            values, problem = [], _TOO_LONG if too_long else f"its quotes do not close ({error})"
        if problem and at > start + 1:
            at = start + 1  # the quote that swallowed lines was none: only its own line is lost
        if problem:
            bad(BadLine(first_line + start, problem, printable(lines[start][:_RAW_LIMIT])))
        elif values:
            numbers.append(first_line + at - 1)
            rows.append(values)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    return Block(
        pa.array(numbers, pa.int64()),
        {name: pa.array(column, pa.string()) for name, column in zip(header, columns, strict=True)},
    )


def _row_problem(values: list[str] | None, header: list[str]) -> str | None:
    if not values:
        return None
    text = "".join(values)
    if "\x00" in text:
        return "holds a NUL character"
    if not text.isascii() and _CONTROL.search(text):
        return "not UTF-8"
    if len(values) != len(header):
        return f"{len(values)} fields where the header has {len(header)}"
    return None


def _without_nul(block: Block, bad: Report) -> Block:
    """The block without the rows that hold a NUL, which no database takes."""
    found = None
    for column in block.columns.values():
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            has = pc.fill_null(pc.match_substring(column, "\x00"), False)
            found = has if found is None else pc.or_(found, has)
    if found is None or not pc.any(found).as_py():
        return block
    for number in block.numbers.filter(found).to_pylist():
        bad(BadLine(number, "holds a NUL character", ""))
    good = pc.invert(found)
    return Block(block.numbers.filter(good), {name: column.filter(good) for name, column in block.columns.items()})
