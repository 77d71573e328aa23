"""Every error that callers of this package handle.

RecsysError
├── InputError              what was given is wrong: fix it, retrying does not help
│   ├── ConfigurationError      a setting, a mapping file or an argument
│   ├── MalformedFile           an input file cannot be read at a given line
│   ├── BatchRejected           a landed batch is bad as a whole
│   ├── NotEnoughData           a snapshot or a training set would be empty
│   └── OtherModelFormat        a stored model is of another version of this package
├── OutOfMemory             the machine has too little memory for a training
├── UnavailableError        something we depend on does not answer: retrying may help
└── InvariantError          something that must hold does not: ours to mend
    ├── BundleCorrupt           a bundle's files do not match its manifest
    ├── BundleUnusable          a bundle crashes, or takes more memory than there is
    └── GoldenMismatch          a model does not give the answers it was exported with
"""

from __future__ import annotations


class RecsysError(Exception):
    """Base of all errors raised on purpose by this package."""


class InputError(RecsysError):
    """What was given is wrong; retrying does not help."""


class ConfigurationError(InputError):
    """A setting, a mapping file or an argument is wrong."""


class MalformedFile(InputError):
    """An input file cannot be read; names the file and the line."""

    def __init__(self, path: str, line: int, problem: str) -> None:
        super().__init__(f"{path}, line {line}: {problem}")
        self.path, self.line, self.problem = path, line, problem


class BatchRejected(InputError):
    """A landed batch is bad as a whole; nothing of it was loaded."""


class NotEnoughData(InputError):
    """There are too few events to build or train anything from."""


class OtherModelFormat(InputError):
    """A stored model was written by another version of this package."""


class UnavailableError(RecsysError):
    """A service this package depends on does not answer; retrying may help."""


class OutOfMemory(RecsysError):
    """The machine has too little memory for a training; says what needs less."""


class InvariantError(RecsysError):
    """Something that must always hold does not."""


class BundleCorrupt(InvariantError):
    """A bundle's files do not match its manifest."""


class BundleUnusable(InvariantError):
    """A bundle crashes where it is tried, takes more memory than there is, or does not come to an end."""


class GoldenMismatch(InvariantError):
    """A model does not give the answers it was exported with."""
