"""What each kind of content brings to items that were never trained on: `python benchmarks/item_vectors.py`.

Reads the latest snapshot of `RECSYS_HOME`. The events of a tenth of the items are withheld from the training; the
questions are the test sessions' purchases of these items. A network is trained for the same time with each kind of
content: tokens, text vectors, and as external vectors (`kind = "vectors"`) character n-grams of the texts and
vectors that stand for images. The latter are made, since the data has no images: directions of the items' co-occurrence
(singular vectors of their positive pointwise mutual information), and as much noise. They say what an encoder brings
that sees why households buy an item.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import host_info, print_table, write_json
from recsys_tasks.evaluation.protocol import TEST, PredictionTasks, iterate_batches, model_scorer
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot, build_vocabulary, encode_snapshot
from recsys_tasks.features.snapshot import Snapshot, find_snapshot
from recsys_tasks.features.text_encoder import load_text_encoder
from recsys_tasks.features.text_vectors import compose_item_text
from recsys_tasks.features.vector_spaces import prepare_vectors
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.training_loop import TrainingData, build_network, train
from recsys_tasks.names import FIRST_ITEM
from recsys_tasks.settings import settings
from recsys_tasks.training import recipe
from recsys_tasks.training.task import item_text_vectors, training_data
from recsys_tasks.warehouse import engine

_WITHHELD_SHARE, _DIM, _K = 0.1, 64, 20
_WITHHELD = "withheld"  # id of their events before the test part, which no item of the catalog has
_CONTENTS = (
    ("nothing", False, ()),
    ("tokens", True, ()),
    ("text", False, ("text",)),
    ("n-grams", False, ("n-grams",)),
    ("images", False, ("images",)),
    ("tokens, text", True, ("text",)),
    ("tokens, text, n-grams", True, ("text", "n-grams")),
    ("tokens, text, images", True, ("text", "images")),
)


@dataclass(frozen=True)
class _PartlyWithheld(Snapshot):
    """A snapshot without the events of some items before its test part."""

    withheld: pa.Array = None

    def events_table(self, columns: list[str] | None = None) -> pa.Table:  # type: ignore[override]
        table = super().events_table(columns)
        if "item_id" not in table.column_names:
            return table
        item = table["item_id"].cast(pa.string())
        is_earlier = pc.less(table["event_time"], pa.scalar(self.test_start))
        is_withheld = pc.and_(is_earlier, pc.is_in(item, self.withheld))
        kept = pc.if_else(is_withheld, _WITHHELD, item).dictionary_encode()
        return table.set_column(table.column_names.index("item_id"), "item_id", kept)


def main() -> None:
    """Trains a network with each kind of content and prints how well it places the withheld items."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="minutes of each training")
    parser.add_argument("--questions", type=int, default=1_500)
    parser.add_argument("--json")
    args = parser.parse_args()
    snapshot = find_snapshot(engine(), settings().snapshots)
    whole = encode_snapshot(snapshot, build_vocabulary(snapshot))
    random = np.random.default_rng(0)
    trained = np.asarray(whole.vocabulary.item_ids[: whole.vocabulary.num_trained - FIRST_ITEM])
    chosen = random.permutation(trained)[: int(_WITHHELD_SHARE * len(trained))]
    known = {field.name: getattr(snapshot, field.name) for field in fields(snapshot)}
    partly = _PartlyWithheld(**known, withheld=pa.array(chosen.tolist()))
    encoded = encode_snapshot(partly, build_vocabulary(partly))
    vocabulary, data = encoded.vocabulary, recipe.with_item_neighbors(training_data(encoded))
    cold = np.zeros(len(vocabulary), bool)
    cold[vocabulary.numbers(chosen.tolist())] = True
    tasks = _questions(encoded, cold, args.questions)
    spaces = _vector_spaces(whole, vocabulary, random)
    rows: list[dict[str, object]] = []
    for name, has_tokens, chosen_spaces in _CONTENTS:
        network_vocabulary = vocabulary if has_tokens else _without_text(vocabulary)
        given = {space: spaces[space] for space in chosen_spaces}
        metrics = _train(network_vocabulary, data, given, encoded, tasks, cold, 60 * args.minutes)
        rows.append({"content": name, **metrics})
        print(rows[-1], flush=True)
    host = host_info("torch") | {"threads": str(torch.get_num_threads()), "minutes each": str(args.minutes)}
    print_table(f"{len(tasks)} purchases of {int(cold.sum()):,} items without training events", rows, host)
    write_json(args.json, {"rows": rows, "machine": host})


def _questions(encoded: EncodedSnapshot, cold: np.ndarray, limit: int) -> PredictionTasks:
    """Events of the test part with a cold item, but not the first of a session; a random sample."""
    timeline = encoded.timeline
    first = timeline.session_start[:-1][timeline.session]
    index = np.arange(len(timeline))
    is_asked = cold[timeline.item] & (encoded.split[timeline.session] == TEST) & (index > first)
    if encoded.num_events:
        is_asked &= index < encoded.num_events
    drawn = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(is_asked))[:limit])
    return PredictionTasks(first[drawn], drawn)


def _vector_spaces(
    whole: EncodedSnapshot, vocabulary: Vocabulary, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Prepared vectors of each space, in the order of a vocabulary."""
    columns = zip(vocabulary.titles, vocabulary.category_paths, vocabulary.brands, strict=True)
    texts = [compose_item_text(*column) for column in columns]
    hashed = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), n_features=2**16).transform(texts)
    n_grams = np.zeros((len(vocabulary), _DIM), np.float32)
    n_grams[FIRST_ITEM:] = TruncatedSVD(_DIM, random_state=0).fit_transform(hashed)
    images = np.zeros((len(vocabulary), 2 * _DIM), np.float32)
    numbers = vocabulary.numbers(list(whole.vocabulary.item_ids))
    images[numbers] = _image_like(whole, random)[FIRST_ITEM:]
    found = {"n-grams": prepare_vectors(n_grams), "images": prepare_vectors(images)}
    encoder = load_text_encoder(settings().text_encoder, settings().text_encoders)
    if encoder is not None:
        found["text"] = item_text_vectors(vocabulary, encoder, settings().text_vectors)
    return found


def _image_like(encoded: EncodedSnapshot, random: np.random.Generator) -> np.ndarray:
    """Directions of co-occurrence before the test part, and as many dimensions of noise of the same length, rotated."""
    timeline, num_items = encoded.timeline, len(encoded.vocabulary)
    rows = np.flatnonzero(encoded.split[timeline.session] < TEST)
    baskets = csr_array((np.ones(len(rows)), (timeline.session[rows], timeline.item[rows])))
    baskets.resize((baskets.shape[0], num_items))
    baskets.data[:] = 1.0
    pairs = (baskets.T @ baskets).tocsr()
    pairs.setdiag(0)
    pairs.eliminate_zeros()
    count = np.maximum(np.asarray(pairs.sum(0)).ravel(), 1.0)
    pairs = diags_array(1 / count) @ pairs @ diags_array(1 / count) * count.sum()
    information = csr_array(pairs)
    information.data = np.maximum(np.log(information.data), 0.0)
    left, values, _ = svds(information, k=_DIM, random_state=0)
    signal = left * np.sqrt(values)
    signal /= np.maximum(np.linalg.norm(signal, axis=1, keepdims=True), 1e-9)
    noise = random.normal(size=signal.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    rotation = np.linalg.qr(random.normal(size=(2 * _DIM, 2 * _DIM)))[0]
    found: np.ndarray = (np.concatenate([signal, noise], axis=1) @ rotation).astype(np.float32)
    return found


def _without_text(vocabulary: Vocabulary) -> Vocabulary:
    nothing = ("",) * len(vocabulary.item_ids)
    return replace(vocabulary, titles=nothing, category_paths=nothing, brands=nothing)


def _train(
    vocabulary: Vocabulary,
    data: TrainingData,
    spaces: dict[str, np.ndarray],
    encoded: EncodedSnapshot,
    tasks: PredictionTasks,
    cold: np.ndarray,
    seconds: float,
) -> dict[str, object]:
    torch.manual_seed(0)
    dims = {name: vectors.shape[1] for name, vectors in spaces.items()}
    config = recipe.network_config(data, vocabulary, True, seconds)
    query_words = config.query_words if config.num_content_tokens else 0  # the data is encoded with all tokens
    config = replace(config, vector_spaces=dims, query_words=query_words)
    vectors = np.concatenate(list(spaces.values()), axis=1) if spaces else None
    network = build_network(config, vocabulary, spaces=vectors)
    schedule = recipe.training_config(data, vocabulary, True, seconds, seed=0)
    report = train(network, data, schedule, lambda _: 0.0)
    score = model_scorer(network, encoded.timeline)
    ranks, ranks_among_cold = [], []
    for part in iterate_batches(encoded.timeline, tasks):
        scores = score(tasks[part])
        own = scores[np.arange(len(scores)), encoded.timeline.item[tasks[part].target]][:, None]
        is_better = scores >= own
        ranks.append(is_better.sum(1))
        ranks_among_cold.append(is_better[:, cold].sum(1))
    among_all, among_cold = np.concatenate(ranks), np.concatenate(ranks_among_cold)
    return {
        "Recall@20": f"{(among_all <= _K).mean():.4f}",
        "median rank": int(np.median(among_all)),
        "Recall@20 among them": f"{(among_cold <= _K).mean():.4f}",
        "MRR among them": f"{(1 / among_cold).mean():.4f}",
        "events": report.tokens_per_second * report.seconds,
    }


if __name__ == "__main__":
    main()
