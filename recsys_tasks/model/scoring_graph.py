"""ONNX graph that scores all items: by vectors quantized to 8 bits, then exactly for the best and the requested items.

Quantization matters because the speed of reading memory limits this graph. Letters in shapes: D embedding dimension,
V items in the vocabulary, P the same with padding, B blocks, C copyable events, U their distinct items, A requested
items, G excluded items, O offsets (P, or 1 for all items), N returned items.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from recsys_tasks.engine.scoring import padded_size
from recsys_tasks.names import FIRST_ITEM

_MAX_BYTE, _ZERO_POINT, _MIN_SCALE = 127, 128, 1e-6
_CACHE_BYTES, _MIN_ROW_BLOCK = 16 << 20, 16
_SAMPLE_SIZE = 256
_TYPICAL_COUNT = 60  # best items of a typical request
_MAX_BLOCK_SIZE = 256
_MIN_LOGIT, _MIN_MASS = -1e4, 1e-30

# The score of an item is log(exp(direction · vector + bias) + Σ exp(its pointer logits)). A sample of exact scores
# corrects the total mass for the common error of quantization. The K best items are in the K blocks with the highest
# maxima.
# The kernel by rows is faster where the vectors exceed the CPU cache, the kernel by columns where they fit into it.
_BY_COLUMNS = "DynamicQuantizeMatMul (direction, bytes, scale, zero_point, bias)"
_BY_ROWS = """MatMulNBits <K = {embedding_dim}, N = {items}, bits = 8, block_size = {embedding_dim}, accuracy_level = 4>
        (direction, bytes, scale, "", "", bias)"""
_TEXT = """
<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>
scan (
    float[1, D] direction, float[V, D] items, int64[U] copies, int64[C] place, float[C] copied,
    int64[G] gone, int64[A] also, float[O] offset, int64[1] few
) => (int64[N] numbers, float[N] shares, float[N] rounded, float top, float total)
{{
    row = com.microsoft.{product}
    scores = Reshape (row, flat)
    gone_shape = Shape (gone)
    gone_logits = Expand (minus_infinity, gone_shape)
    logits = ScatterElements <axis = 0> (scores, gone, gone_logits)

    copies_logits = Gather (logits, copies)
    copies_allowed = Greater (copies_logits, min_logit)
    copied_allowed = Gather (copies_allowed, place)
    copied_logits = Where (copied_allowed, copied, min_logit)
    max_logit = ReduceMax <keepdims = 0> (logits)
    max_copied = ReduceMax <keepdims = 0> (copied_logits)
    top = Max (max_logit, max_copied)
    copied_shifted = Sub (copied_logits, top)
    copied_mass = Exp (copied_shifted)
    copied_total = ReduceSum <keepdims = 0> (copied_mass)

    shifted = Sub (logits, top)
    mass = Exp (shifted)
    rounded_total = ReduceSum <keepdims = 0> (mass)
    sample_products = MatMul (direction, sample_vectors)
    sample_logits = Add (sample_products, sample_bias)
    sample_shifted = Sub (sample_logits, top)
    sample_mass = Exp (sample_shifted)
    sample_rounded_mass = Gather (mass, sample)
    sample_allowed = Greater (sample_rounded_mass, zero)
    sample_exact_mass = Where (sample_allowed, sample_mass, zero)
    sample_exact = ReduceSum <keepdims = 0> (sample_exact_mass)
    sample_rounded = ReduceSum <keepdims = 0> (sample_rounded_mass)
    sample_positive = Max (sample_rounded, min_mass)
    correction = Div (sample_exact, sample_positive)
    generated_total = Mul (rounded_total, correction)
    total_mass = Add (generated_total, copied_total)
    total = Max (total_mass, min_mass)

    adjusted = Add (logits, offset)
    blocks = Reshape (adjusted, block_shape)
    block_max = ReduceMax <keepdims = 0> (blocks, last_axis)
    num_best_blocks = Min (few, num_blocks)
    best_block_max, best_blocks = TopK <axis = 0, sorted = 0> (block_max, num_best_blocks)
    best_block_rows = Gather <axis = 0> (blocks, best_blocks)
    best_block_logits = Reshape (best_block_rows, flat)
    best_adjusted, best_index = TopK <axis = 0, sorted = 0> (best_block_logits, few)
    best_row = Div (best_index, block_size)
    best_block = Gather (best_blocks, best_row)
    begin = Mul (best_block, block_size)
    column = Mod (best_index, block_size)
    best_padded = Add (begin, column)
    best = Min (best_padded, last)

    numbers = Concat <axis = 0> (best, copies, also)
    vectors = Gather (items, numbers)
    terms = Mul (vectors, direction)
    products = ReduceSum <keepdims = 0> (terms, last_axis)
    biases = Gather (bias, numbers)
    exact = Add (products, biases)
    exact_shifted = Sub (exact, top)
    exact_mass = Exp (exact_shifted)
    copied_index = Add (place, few)
    item_mass = ScatterElements <axis = 0, reduction = "add"> (exact_mass, copied_index, copied_mass)
    item_share = Div (item_mass, total)
    rounded = Gather (adjusted, numbers)
    allowed = Greater (rounded, min_logit)
    shares = Where (allowed, item_share, zero)
}}
"""


def export_scoring_graph(vectors: np.ndarray, bias: np.ndarray, path: Path) -> None:
    """Writes the graph for items' unit vectors [V, D] and biases [V].

    Inputs:
        direction: output of the decoder [1, D].
        items: the vectors [V, D].
        copies: distinct items of the copyable events [U].
        place: index into `copies` of each event [C].
        copied: pointer logit of each event [C].
        gone: excluded items [G].
        also: items whose probabilities are requested [A].
        offset: added to the scores before the best are selected [P], or one number for all [1].
        few: number of best items [1].

    Outputs:
        numbers: the best items in no order, then `copies`, then `also` [N].
        shares: their probabilities [N]. Only the entry among the copies includes an item's pointer mass.
        rounded: the scores they were selected by [N].
        top, total: a probability is exp(score - top) / total.
    """
    # About as many blocks as entries in the blocks of a typical request. A power of 2 divides the padded size.
    size = min(2 ** round(math.log2(max(len(vectors) / _TYPICAL_COUNT, 1)) / 2), _MAX_BLOCK_SIZE)
    count = padded_size(len(vectors)) // size
    padding = (0, size * count - len(vectors))
    numbers = np.arange(len(vectors))
    bias = np.where(numbers < FIRST_ITEM, -np.inf, bias).astype(np.float32)
    sample = np.unique(np.linspace(min(FIRST_ITEM, len(vectors) - 1), len(vectors) - 1, _SAMPLE_SIZE).astype(np.int64))
    product, quantized = _quantize(np.pad(vectors, (padding, (0, 0))))
    constants = {
        **quantized,
        "bias": np.pad(bias, padding, constant_values=-np.inf),
        "sample": sample,
        "sample_vectors": np.ascontiguousarray(vectors[sample].T),
        "sample_bias": bias[sample],
        "block_shape": np.asarray([count, size]),
        "num_blocks": np.asarray([count]),
        "block_size": np.asarray([size]),
        "last": np.asarray([len(vectors) - 1]),
        "flat": np.asarray([-1]),
        "last_axis": np.asarray([1]),
        "minus_infinity": np.float32(-np.inf),
        "zero": np.float32(0.0),
        "min_logit": np.float32(_MIN_LOGIT),
        "min_mass": np.float32(_MIN_MASS),
    }
    model = onnx.parser.parse_model(_TEXT.format(product=product))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    onnx.save(model, path)


def _quantize(vectors: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    """The node that multiplies a direction by vectors [P, D] quantized to 8 bits, and its constants."""
    count, dim = vectors.shape
    scales = np.maximum(np.abs(vectors).max(1, keepdims=True), _MIN_SCALE) / _MAX_BYTE
    if vectors.size > _CACHE_BYTES and dim & (dim - 1) == 0 and dim >= _MIN_ROW_BLOCK:
        rows = (np.round(vectors / scales) + _ZERO_POINT).astype(np.uint8).reshape(count, 1, dim)
        return _BY_ROWS.format(embedding_dim=dim, items=count), {
            "bytes": rows,
            "scale": scales.astype(np.float32).ravel(),
        }
    scale = float(scales.max())
    columns = np.ascontiguousarray(np.round(vectors / scale).astype(np.int8).T)
    zero_point = np.asarray(0, np.int8)
    return _BY_COLUMNS, {"bytes": columns, "scale": np.asarray(scale, np.float32), "zero_point": zero_point}
