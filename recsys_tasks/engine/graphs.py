"""The graphs of a model, which run for one request at a time, and the state in which they leave a session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.sequences import Arrays

BEFORE, AFTER = "before_", "after_"  # a session's state, without and with the tokens that are read


class Graph:
    """An ONNX graph.

    Raises:
        BundleCorrupt: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # two threads on two busy cores wait for each other
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many kinds, all of them saying that the graph is unusable
            raise BundleCorrupt(f"{path.name} cannot be loaded: {error}") from error
        self._inputs = {given.name: given.shape for given in self._session.get_inputs()}
        self._outputs = [made.name for made in self._session.get_outputs()]

    def __call__(self, given: Mapping[str, np.ndarray]) -> Arrays:
        """Its outputs from those inputs that it has, among what is given."""
        found = self._session.run(None, {name: given[name] for name in self._inputs})
        return dict(zip(self._outputs, found, strict=True))

    def beginning(self) -> Arrays:
        """The state of a session without a token, for a graph that reads one."""
        return {
            name: np.zeros([size if isinstance(size, int) else 0 for size in shape], np.float32)
            for name, shape in self._inputs.items()
            if name.startswith(BEFORE)
        }


def state_after(read: Arrays) -> Arrays:
    """The state that a graph leaves a session in, as it reads it before the next tokens."""
    return {BEFORE + name.removeprefix(AFTER): value for name, value in read.items() if name.startswith(AFTER)}
