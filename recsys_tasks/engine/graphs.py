"""ONNX graphs of a model, run for one request at a time, and the decoder's session state (KV cache)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from recsys_tasks.errors import BundleCorrupt
from recsys_tasks.features.sequences import Arrays

STATE_INPUT, STATE_OUTPUT = "before_", "after_"  # name prefixes of the session state, without and with the new tokens


class Graph:
    """An ONNX graph on the CPU, single-threaded.

    Raises:
        BundleCorrupt: the graph cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # on busy cores, two threads wait for each other
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many types; each means that the graph is unusable
            raise BundleCorrupt(f"{path.name} cannot be loaded: {error}") from error
        self.inputs = {node.name: node.shape for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Returns the outputs by name; ignores arrays that are not inputs."""
        outputs = self._session.run(None, {name: arrays[name] for name in self.inputs})
        return dict(zip(self._outputs, outputs, strict=True))

    def initial_state(self) -> Arrays:
        """Session state before the first token; empty for a graph without session state."""
        return {
            name: np.zeros([size if isinstance(size, int) else 0 for size in shape], np.float32)
            for name, shape in self.inputs.items()
            if name.startswith(STATE_INPUT)
        }


def next_state(outputs: Arrays) -> Arrays:
    """Session state in a graph's outputs, named as inputs of the next run."""
    return {
        STATE_INPUT + name.removeprefix(STATE_OUTPUT): value
        for name, value in outputs.items()
        if name.startswith(STATE_OUTPUT)
    }
