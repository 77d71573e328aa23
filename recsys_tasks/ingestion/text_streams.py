"""Opens text files as UTF-8: decompressed by file name, from a zip archive, or decoded from another encoding."""

from __future__ import annotations

import codecs
import io
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa

from recsys_tasks.errors import MalformedFile

UTF_8: Final = "utf-8"
_CHUNK_BYTES = 1 << 20
_UTF_16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ENCRYPTED: Final = 0x1
_NO_DATA: Final = ("__MACOSX/", ".")


def open_text(path: Path, encoding: str, buffer_bytes: int) -> io.BufferedReader[Any]:
    """Opens a text file as a stream of UTF-8, without its byte order mark.

    Bytes that the encoding does not have stay as they are, which is no UTF-8. UTF-16 is known by its byte order mark.

    Args:
        path: the file; gzip, bzip2, zstd and zip by file name.
        encoding: name of a Python codec.
        buffer_bytes: size of the buffer.

    Raises:
        MalformedFile: a zip archive does not have exactly one file, or is encrypted.
        OSError, pa.ArrowException: the file cannot be read.
    """
    is_archive = path.suffix.lower() == ".zip"
    stream: Any = _open_zip(path) if is_archive else pa.input_stream(str(path), compression="detect")
    text: io.BufferedReader[Any] = io.BufferedReader(stream, buffer_bytes)
    if encoding == UTF_8 and text.peek(2)[:2] in _UTF_16_MARKS:
        encoding = "utf-16"
    if encoding != UTF_8:
        text = io.BufferedReader(_Utf8Stream(text, encoding), buffer_bytes)
    if text.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
        text.read(len(codecs.BOM_UTF8))
    return text


def normalize_encoding(encoding: str) -> str:
    """Returns the canonical name of a text encoding.

    Raises:
        ValueError: there is no such encoding.
    """
    try:
        found = codecs.lookup(encoding)
        "".encode(encoding)  # fails for codecs of bytes, such as base64
    except LookupError as error:
        raise ValueError(
            f"unknown encoding {encoding!r}; use a name such as 'utf-8', 'utf-16', 'latin-1' or 'cp1252'"
        ) from error
    return found.name


class _Utf8Stream(io.RawIOBase):
    """The text of a stream in another encoding, as UTF-8."""

    def __init__(self, stream: io.BufferedReader[Any], encoding: str) -> None:
        self._stream = stream
        # Invalid bytes pass through unchanged, so that their lines are reported one by one.
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        self._decoded = memoryview(b"")
        self._is_at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._decoded and not self._is_at_end:
            chunk = self._stream.read(_CHUNK_BYTES)
            self._is_at_end = not chunk
            text = self._decoder.decode(chunk, final=self._is_at_end)
            self._decoded = memoryview(text.encode(UTF_8, "surrogateescape"))
        count = min(len(buffer), len(self._decoded))
        buffer[:count] = self._decoded[:count]
        self._decoded = self._decoded[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _open_zip(path: Path) -> IO[bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                member
                for member in archive.infolist()
                if not member.is_dir()
                and not member.filename.startswith(_NO_DATA)
                and not Path(member.filename).name.startswith(_NO_DATA)
            ]
            if len(members) != 1:
                names = ", ".join(member.filename for member in members)[:200] or "none"
                raise MalformedFile(
                    str(path),
                    0,
                    f"the archive has {len(members)} files ({names}); pack each into an archive of its own",
                )
            if members[0].flag_bits & _ENCRYPTED:
                raise MalformedFile(str(path), 0, "the archive is encrypted")
            return archive.open(members[0])  # stays open when the archive is closed
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise MalformedFile(str(path), 0, str(error)) from error
