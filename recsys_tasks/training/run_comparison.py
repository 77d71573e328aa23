"""Comparison of two runs: on held-out sessions, and on lists that exploration filled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from recsys_tasks.evaluation.comparison import Comparison, compare, tasks_since
from recsys_tasks.evaluation.protocol import TEST, select_prediction_tasks
from recsys_tasks.evaluation.segments import segment_masks
from recsys_tasks.evaluation.served_lists import Moments
from recsys_tasks.experiments.counterfactual import CounterfactualComparison, compare_counterfactually
from recsys_tasks.experiments.explored_lists import LoggedLists
from recsys_tasks.features.sequences import Timeline
from recsys_tasks.features.snapshot import open_snapshot
from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.interval import Interval
from recsys_tasks.names import FIRST_ITEM, PADDING_ITEM
from recsys_tasks.registry import runs
from recsys_tasks.storage.folder import Folder
from recsys_tasks.training.lineage import trained_until
from recsys_tasks.training.opened_model import OpenedModel, open_model


def compare_runs(
    run_id: str, rival_id: str, snapshots: Folder, load_lists: Callable[[Interval], LoggedLists] | None = None
) -> Comparison:
    """Compares a run's model with another run's on the test part of the first run's snapshot.

    Only sessions count that neither run, nor a version that one of them started from, can have been trained on.

    Args:
        run_id, rival_id: the runs.
        snapshots: folder of the snapshots.
        load_lists: returns explored lists of an interval, for the counterfactual comparison; None for none.

    Raises:
        IncompatibleModelFormat: a model was written by another version of this package.
        InputError: a model was deleted.
    """
    snapshot = open_snapshot(snapshots, runs.load_snapshot_id(run_id))
    with open_model(run_id, snapshot) as own, open_model(rival_id, snapshot) as rival:
        all_tasks, timeline = select_prediction_tasks(own.encoded, TEST), own.encoded.timeline
        since = max(trained_until(run_id, snapshots), trained_until(rival_id, snapshots))
        tasks = tasks_since(timeline, all_tasks, since)
        counts = own.encoded.vocabulary.training_counts()
        # Coverage is over the catalog of the first run's snapshot, which is its vocabulary.
        rival_result, numbers = rival.rank(tasks), _common_numbers(own.encoded.vocabulary, rival.encoded.vocabulary)[1]
        own_number = np.where(numbers < len(own.encoded.vocabulary), numbers, PADDING_ITEM)
        gains = compare(
            own.rank(tasks),
            replace(rival_result, lists=own_number[rival_result.lists]),
            timeline.user[tasks.first],
            segment_masks(timeline, tasks, counts),
            counts,
        )
        counterfactual = None
        if load_lists is not None and since < snapshot.cutoff:
            examination = np.asarray(snapshot.examination_propensities)
            lists = load_lists(Interval(since, snapshot.cutoff)) if len(examination) else None
            counterfactual = lists and _compare_on_lists(own, rival, lists, examination, since.timestamp())
        return Comparison(gains, len(tasks), len(all_tasks) - len(tasks), since, counterfactual)


def _compare_on_lists(
    own: OpenedModel, rival: OpenedModel, lists: LoggedLists, examination: np.ndarray, since: float
) -> CounterfactualComparison | None:
    """Compares the clicks that two models would have got in place of explored lists; None without lists.

    Left out are users whom the snapshot does not know, and lists during a session that began before `since`.
    """
    timeline, vocabulary = own.encoded.timeline, own.encoded.vocabulary
    row_of = {user_id: row for row, user_id in reversed(list(enumerate(own.encoded.user_ids)))}  # not a causal copy
    lists = lists.keep(np.asarray([user_id in row_of for user_id in lists.user_ids], bool))
    user = np.asarray([row_of[user_id] for user_id in lists.user_ids], np.int64)
    moments = Moments.of_users(timeline, user, lists.seconds)
    goes_on = [_is_within_earlier_session(timeline, *at, since) for at in zip(user, lists.seconds, strict=True)]
    is_later = (moments.seconds >= since) & ~np.asarray(goes_on, bool)
    lists, moments = lists.keep(is_later), Moments(*(column[is_later] for column in moments))
    if not len(moments.user):
        return None
    length = int(lists.explored.num_candidates.max())
    own_numbers, rival_numbers = _common_numbers(vocabulary, rival.encoded.vocabulary)
    number_of = dict(zip(rival.encoded.vocabulary.item_ids, rival_numbers[FIRST_ITEM:].tolist(), strict=True))
    number_of |= dict(zip(vocabulary.item_ids, own_numbers[FIRST_ITEM:].tolist(), strict=True))
    shown = np.asarray([number_of.get(item_id, -1) for item_id in lists.item_ids], np.int64)
    logged = lists.explored._replace(item=shown[lists.explored.item])
    own_lists, rival_lists = own.list_at(moments, length), rival.list_at(moments, length)
    return compare_counterfactually(logged, own_numbers[own_lists], rival_numbers[rival_lists], examination)


def _is_within_earlier_session(timeline: Timeline, user: int, at: float, since: float) -> bool:
    """Whether a user has a session that began before `since` and goes on at a time: it may have been trained on."""
    events = slice(int(timeline.user_start[user]), int(timeline.user_start[user + 1]))
    return bool(((timeline.session_seconds[events] < since) & (timeline.seconds[events] >= at)).any())


def _common_numbers(vocabulary: Vocabulary, other: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Returns a number for each item number [V] of either vocabulary, the same for the same item; 0 for padding."""
    size = len(vocabulary)
    own = np.concatenate([np.full(FIRST_ITEM, PADDING_ITEM), np.arange(FIRST_ITEM, size)])
    numbers = vocabulary.numbers(other.item_ids)
    further = size + np.arange(len(numbers))
    known = np.where(numbers >= FIRST_ITEM, numbers, further)
    return own, np.concatenate([np.full(FIRST_ITEM, PADDING_ITEM), known])
