"""Fits the second stage of ranking to held-out sessions: LightGBM with a listwise loss, exported to ONNX.

Letters in shapes: Q questions, C candidates, F features.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from recsys_tasks.engine.catalog import CatalogColumns
from recsys_tasks.engine.second_stage import FEATURES, Candidates
from recsys_tasks.errors import ConfigurationError
from recsys_tasks.evaluation.protocol import LIST_LENGTH, PredictionTasks
from recsys_tasks.evaluation.served_lists import Moments, list_candidates
from recsys_tasks.features.encoded_snapshot import EncodedSnapshot

log = logging.getLogger(__name__)
MIN_QUESTIONS = 500  # with the target among the candidates
_NUM_TREES, _NUM_FOLDS = 100, 3
_MIN_STANDARD_ERRORS = 2.0
_PARAMETERS: dict[str, Any] = {
    "objective": "rank_xendcg",  # Bruch 2021; only the order of its scores is used
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "use_missing": False,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


class Questions(NamedTuple):
    """Questions whose target is among the candidates.

    Attributes:
        features: of all candidates.
        sizes: number of candidates of each question [Q].
        target: place of the target among them [Q].
        user: who it is [Q].
        num_asked: number of questions, with those whose target is not among the candidates.
    """

    features: np.ndarray
    sizes: np.ndarray
    target: np.ndarray
    user: np.ndarray
    num_asked: int

    def take(self, chosen: np.ndarray) -> Questions:
        """Returns some questions [Q], by a mask."""
        features = self.features[np.repeat(chosen, self.sizes)]
        return Questions(features, self.sizes[chosen], self.target[chosen], self.user[chosen], self.num_asked)


class FittedStage(NamedTuple):
    """ONNX graph of the trees, empty for none; and in words what was chosen."""

    graph: bytes
    description: str


def fit_second_stage(
    folder: Path, encoded: EncodedSnapshot, tasks: PredictionTasks, catalog: CatalogColumns, seed: int
) -> FittedStage:
    """Fits the trees to tasks that the model in a folder was not trained on; see `fit_questions`.

    Args:
        folder: exported model.
        encoded: snapshot, encoded with its vocabulary.
        tasks: held-out sessions.
        catalog: item metadata.
        seed: of the trees.
    """
    moments = Moments.of_tasks(encoded.timeline, tasks)
    candidates = list_candidates(folder, encoded, moments, catalog)
    return fit_questions(collect_questions(candidates, encoded.timeline.item[tasks.target], moments.user), seed)


def fit_questions(questions: Questions, seed: int) -> FittedStage:
    """Fits the trees to questions; none unless they raise MRR@20 in cross-validation by two standard errors.

    Raises:
        ConfigurationError: LightGBM cannot be loaded.
    """
    count = len(questions.sizes)
    if count < MIN_QUESTIONS:
        return FittedStage(b"", f"none: only {count} held-out sessions with the target among the candidates")
    gain, error = _cross_validate(questions, seed)
    share = count / questions.num_asked  # in the others, no order finds the target
    described = (
        f"{_NUM_TREES} trees, MRR@20 {share * gain:+.4f} ± {share * 1.96 * error:.4f} in cross-validation on"
        f" {questions.num_asked} sessions"
    )
    log.info("Second stage: %s", described)
    if gain <= _MIN_STANDARD_ERRORS * error:
        return FittedStage(b"", f"none: {described}")
    return FittedStage(to_onnx(_train(questions, seed)), described)


def collect_questions(
    found: Iterator[Candidates | None], targets: Sequence[int] | np.ndarray, users: Sequence[int] | np.ndarray
) -> Questions:
    """Returns the questions whose target is among the candidates; without candidates, nothing is asked."""
    features, rows, num_asked = [np.zeros((0, len(FEATURES)), np.float32)], [], 0
    for candidates, target, user in zip(found, targets, users, strict=True):
        if candidates is None:
            continue
        num_asked += 1
        place = np.flatnonzero(candidates.numbers == target)
        if len(place):
            features.append(candidates.features)
            rows.append((len(candidates.numbers), int(place[0]), int(user)))
    sizes, places, own_users = np.asarray(rows, np.int64).reshape(-1, 3).T
    return Questions(np.concatenate(features), sizes, places, own_users, num_asked)


def _cross_validate(questions: Questions, seed: int) -> tuple[float, float]:
    """Returns the mean gain in MRR@20 on questions of users that the trees were not fitted to, and its standard error
    clustered by user."""
    user = np.unique(questions.user, return_inverse=True)[1]
    fold = (np.random.default_rng(seed).permutation(int(user.max()) + 1) % _NUM_FOLDS)[user]
    gains = np.zeros(len(fold))
    for number in range(_NUM_FOLDS):
        held_out = questions.take(fold == number)
        booster = _train(questions.take(fold != number), seed)
        rank = _target_ranks(held_out, np.asarray(booster.predict(held_out.features)))
        gains[fold == number] = _reciprocal(rank) - _reciprocal(1 + held_out.target)
    error = math.sqrt(float((np.bincount(user, gains - gains.mean()) ** 2).sum())) / len(gains)
    return float(gains.mean()), error


def _train(questions: Questions, seed: int) -> Any:
    """Returns the fitted LightGBM booster."""
    lightgbm = import_lightgbm()
    label = np.zeros(len(questions.features))
    label[np.cumsum(questions.sizes) - questions.sizes + questions.target] = 1
    data = lightgbm.Dataset(questions.features, label, group=questions.sizes, feature_name=list(FEATURES))
    return lightgbm.train(_PARAMETERS | {"seed": seed}, data, _NUM_TREES)


def import_lightgbm() -> ModuleType:
    """Returns the module `lightgbm`.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    try:
        import lightgbm  # needs a library of the system, which trainings without a second stage do not
    except (ImportError, OSError) as error:
        raise ConfigurationError(
            f"The second stage needs LightGBM, which cannot be loaded: {error}. Install OpenMP (libgomp1), or set"
            " RECSYS_SECOND_STAGE=none"
        ) from error
    return lightgbm  # type: ignore[no-any-return]


def _target_ranks(questions: Questions, scores: np.ndarray) -> np.ndarray:
    """Rank of each target [Q], from 1; ties go to the better candidate of the first stage."""
    start = np.cumsum(questions.sizes) - questions.sizes
    own = np.repeat(scores[start + questions.target], questions.sizes)
    place = np.arange(len(scores)) - np.repeat(start, questions.sizes)
    is_better = (scores > own) | ((scores == own) & (place < np.repeat(questions.target, questions.sizes)))
    return 1 + np.add.reduceat(is_better, start)


def _reciprocal(rank: np.ndarray) -> np.ndarray:
    return np.where(rank <= LIST_LENGTH, 1 / rank, 0.0)


def to_onnx(booster: Any) -> bytes:
    """Returns the trees of a LightGBM booster as an ONNX graph from `features` [C, F] to `logits` [C, 1].

    Features and thresholds are in single precision: a threshold is rounded down, which changes no comparison with a
    number in single precision.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _NODE_COLUMNS}
    leaves: list[tuple[int, int, float]] = []
    for tree, dumped in enumerate(booster.dump_model()["tree_info"]):
        _add_node(dumped["tree_structure"], tree, columns, leaves)
    trees, nodes, weights = zip(*leaves, strict=True)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["logits"],
        domain="ai.onnx.ml",
        n_targets=1,
        post_transform="NONE",
        target_treeids=trees,
        target_nodeids=nodes,
        target_ids=[0] * len(leaves),
        target_weights=weights,
        **columns,
    )
    graph = helper.make_graph(
        [node],
        "second_stage",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(FEATURES)])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


_NODE_COLUMNS = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_modes",
    "nodes_values",
    "nodes_truenodeids",
    "nodes_falsenodeids",
)


def _add_node(
    dumped: dict[str, Any], tree: int, columns: dict[str, list[Any]], leaves: list[tuple[int, int, float]]
) -> int:
    """Adds a node of LightGBM's dump and those below it; returns its number in the tree."""
    own = columns["nodes_treeids"].count(tree)
    is_leaf = "leaf_value" in dumped
    row = (tree, own, 0, "LEAF", 0.0, 0, 0)
    if not is_leaf:
        row = (tree, own, int(dumped["split_feature"]), "BRANCH_LEQ", _round_down(dumped["threshold"]), 0, 0)
    place = len(columns["nodes_treeids"])
    for name, value in zip(_NODE_COLUMNS, row, strict=True):
        columns[name].append(value)
    if is_leaf:
        leaves.append((tree, own, float(dumped["leaf_value"])))
    else:
        columns["nodes_truenodeids"][place] = _add_node(dumped["left_child"], tree, columns, leaves)
        columns["nodes_falsenodeids"][place] = _add_node(dumped["right_child"], tree, columns, leaves)
    return own


def _round_down(threshold: float) -> float:
    """The largest number in single precision that is not above a threshold."""
    rounded = np.float32(threshold)
    return float(rounded if rounded <= threshold else np.nextafter(rounded, np.float32(-np.inf)))
