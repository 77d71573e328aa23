"""The graph that looks at all items: with their vectors rounded to bytes, which is a matter of how fast memory can be
read, and again exactly at the best of them and at those that are asked for.

Letters in shapes: D width, V vocabulary, P the same with padding, B blocks, C copies, U their items, A items asked for,
G items that cannot come, O what is added to scores, N numbers that come out.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from recsys_tasks.engine.scoring import padded
from recsys_tasks.names import FIRST_ITEM

_MOST_BYTE, _ZERO, _LEAST_SCALE = 127, 128, 1e-6
_CACHE_BYTES, _LEAST_BLOCK = 16 << 20, 16
_SAMPLE = 256
_USUAL = 60  # best ones
_LARGEST_BLOCK = 256
_LEAST, _TINY = -1e4, 1e-30

# The score of an item is log(exp(direction · vector + bias) + the exponentials of its copies). What rounding does to
# all scores alike is made up for by a sample. The K best are in the K blocks whose best is best.
# The kernel of whole rows is the faster one where memory has to be read, the other one where the cache holds it all.
_BY_COLUMNS = "DynamicQuantizeMatMul (direction, bytes, scale, zero, bias)"
_BY_ROWS = """MatMulNBits <K = {width}, N = {items}, bits = 8, block_size = {width}, accuracy_level = 4>
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
    each_gone = Shape (gone)
    never = Expand (nothing, each_gone)
    logits = ScatterElements <axis = 0> (scores, gone, never)

    copies_logits = Gather (logits, copies)
    can_be = Greater (copies_logits, least)
    can_come = Gather (can_be, place)
    mine = Where (can_come, copied, least)
    most_logit = ReduceMax <keepdims = 0> (logits)
    most_copied = ReduceMax <keepdims = 0> (mine)
    top = Max (most_logit, most_copied)
    copied_low = Sub (mine, top)
    copied_mass = Exp (copied_low)
    all_copied = ReduceSum <keepdims = 0> (copied_mass)

    low = Sub (logits, top)
    mass = Exp (low)
    all_mass = ReduceSum <keepdims = 0> (mass)
    sample_products = MatMul (direction, sample_vectors)
    sample_logits = Add (sample_products, sample_bias)
    sample_low = Sub (sample_logits, top)
    sample_mass = Exp (sample_low)
    sample_taken = Gather (mass, sample)
    sample_comes = Greater (sample_taken, naught)
    sample_kept = Where (sample_comes, sample_mass, naught)
    sample_exact = ReduceSum <keepdims = 0> (sample_kept)
    sample_rounded = ReduceSum <keepdims = 0> (sample_taken)
    sample_some = Max (sample_rounded, tiny)
    right = Div (sample_exact, sample_some)
    generated = Mul (all_mass, right)
    total_mass = Add (generated, all_copied)
    total = Max (total_mass, tiny)

    moved = Add (logits, offset)
    blocks = Reshape (moved, as_blocks)
    most = ReduceMax <keepdims = 0> (blocks, within)
    few_blocks = Min (few, count)
    block_best, best_blocks = TopK <axis = 0, sorted = 0> (most, few_blocks)
    of_blocks = Gather <axis = 0> (blocks, best_blocks)
    in_blocks = Reshape (of_blocks, flat)
    best_moved, where = TopK <axis = 0, sorted = 0> (in_blocks, few)
    which = Div (where, size)
    block = Gather (best_blocks, which)
    begin = Mul (block, size)
    place_within = Mod (where, size)
    best_padded = Add (begin, place_within)
    best = Min (best_padded, last)

    numbers = Concat <axis = 0> (best, copies, also)
    vectors = Gather (items, numbers)
    parts = Mul (vectors, direction)
    products = ReduceSum <keepdims = 0> (parts, within)
    biases = Gather (bias, numbers)
    exact = Add (products, biases)
    exact_low = Sub (exact, top)
    exact_mass = Exp (exact_low)
    place_of_copy = Add (place, few)
    own_mass = ScatterElements <axis = 0, reduction = "add"> (exact_mass, place_of_copy, copied_mass)
    own_share = Div (own_mass, total)
    rounded = Gather (moved, numbers)
    may_be_shown = Greater (rounded, least)
    shares = Where (may_be_shown, own_share, naught)
}}
"""


def export_scan(vectors: np.ndarray, bias: np.ndarray, path: Path) -> None:
    """Writes the graph for items' unit vectors [V, D] and biases [V].

    Its inputs: the decoder's direction; the vectors; numbers of the items that events which can be copied are of,
    without repetition, and for each event which of them (`place`) and the score of copying it; items that cannot come
    (`gone`); items whose shares are asked for (`also`); what is added to scores before the best are chosen [P], or one
    number for all; how many.

    Its outputs: numbers of the best ones, in no order, of all copies, and of what was asked for; their probabilities,
    where an item that comes twice has the whole of its own only among the copies; their scores as they were chosen by;
    and what the probabilities are made of, exp(score - top) / total.
    """
    # About as many blocks as entries in as many of them as are usually asked for, and a number that divides all.
    size = min(2 ** round(math.log2(max(len(vectors) / _USUAL, 1)) / 2), _LARGEST_BLOCK)
    count = padded(len(vectors)) // size
    padding = (0, size * count - len(vectors))
    numbers = np.arange(len(vectors))
    bias = np.where(numbers < FIRST_ITEM, -np.inf, bias).astype(np.float32)
    sample = np.unique(np.linspace(min(FIRST_ITEM, len(vectors) - 1), len(vectors) - 1, _SAMPLE).astype(np.int64))
    product, held = _rounded(np.pad(vectors, (padding, (0, 0))))
    constants = {
        **held,
        "bias": np.pad(bias, padding, constant_values=-np.inf),
        "sample": sample,
        "sample_vectors": np.ascontiguousarray(vectors[sample].T),
        "sample_bias": bias[sample],
        "as_blocks": np.asarray([count, size]),
        "count": np.asarray([count]),
        "size": np.asarray([size]),
        "last": np.asarray([len(vectors) - 1]),
        "flat": np.asarray([-1]),
        "within": np.asarray([1]),
        "nothing": np.float32(-np.inf),
        "naught": np.float32(0.0),
        "least": np.float32(_LEAST),
        "tiny": np.float32(_TINY),
    }
    model = onnx.parser.parse_model(_TEXT.format(product=product))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    onnx.save(model, path)


def _rounded(vectors: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    """The node that multiplies a direction with vectors [P, D] rounded to bytes, and what it needs of them."""
    count, width = vectors.shape
    each = np.maximum(np.abs(vectors).max(1, keepdims=True), _LEAST_SCALE) / _MOST_BYTE
    if vectors.size > _CACHE_BYTES and width & (width - 1) == 0 and width >= _LEAST_BLOCK:
        found = (np.round(vectors / each) + _ZERO).astype(np.uint8).reshape(count, 1, width)
        return _BY_ROWS.format(width=width, items=count), {"bytes": found, "scale": each.astype(np.float32).ravel()}
    scale = float(each.max())
    found = np.ascontiguousarray(np.round(vectors / scale).astype(np.int8).T)
    return _BY_COLUMNS, {"bytes": found, "scale": np.asarray(scale, np.float32), "zero": np.asarray(0, np.int8)}
