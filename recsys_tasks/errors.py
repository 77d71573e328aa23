"""All errors that callers of this package handle.

RecsysError
├── InputError              the input is wrong: correct it; retrying does not help
│   ├── ConfigurationError         a setting, a mapping file or an argument is wrong
│   ├── MalformedFile              a line of an input file cannot be parsed
│   ├── BatchRejected              a landed batch is invalid as a whole
│   ├── NotEnoughData              a snapshot or a training set would be empty
│   └── IncompatibleModelFormat    a stored model was written by another version of this package
├── OutOfMemory             the machine has too little memory for a training run
├── UnavailableError        a dependency does not answer: retrying may help
└── InvariantError          a bug or corrupted data: report or repair it
    ├── BundleCorrupt              a bundle's files do not match its manifest
    ├── BundleUnusable             a bundle crashes, needs too much memory or times out
    ├── SearchIndexUnusable        the files of a search index are missing, damaged or of another version
    └── GoldenMismatch             a model does not reproduce the answers it was exported with
"""

from __future__ import annotations


class RecsysError(Exception):
    """Base class of all errors that this package raises on purpose."""


class InputError(RecsysError):
    """The input is wrong; retrying does not help."""


class ConfigurationError(InputError):
    """A setting, a mapping file or an argument is wrong."""


class MalformedFile(InputError):
    """A line of an input file cannot be parsed; names the file and the line."""

    def __init__(self, path: str, line: int, problem: str) -> None:
        super().__init__(f"{path}, line {line}: {problem}")
        self.path, self.line, self.problem = path, line, problem


class BatchRejected(InputError):
    """A landed batch is invalid as a whole; none of its rows was loaded."""


class NotEnoughData(InputError):
    """There are too few events to build a snapshot or train a model."""


class IncompatibleModelFormat(InputError):
    """A stored model was written by another version of this package."""


class UnavailableError(RecsysError):
    """A service that this package depends on does not answer; retrying may help."""


class OutOfMemory(RecsysError):
    """The machine has too little memory for a training run; the message says how to reduce it."""


class InvariantError(RecsysError):
    """An invariant of the system is violated."""


class BundleCorrupt(InvariantError):
    """A bundle's files do not match its manifest."""


class BundleUnusable(InvariantError):
    """A bundle's probe crashes, exceeds the available memory or times out."""


class SearchIndexUnusable(InvariantError):
    """The files of a search index are missing, damaged, or of other versions or languages; they can be built again."""


class GoldenMismatch(InvariantError):
    """A model does not reproduce the answers it was exported with."""
