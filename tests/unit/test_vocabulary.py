from pathlib import Path

import torch

from recsys_tasks.features.vocabulary import Vocabulary
from recsys_tasks.model.files import TrainedModel, warm_start
from recsys_tasks.model.network import NetworkConfig
from recsys_tasks.model.training import build_network
from recsys_tasks.names import FIRST_ITEM, UNKNOWN_ITEM
from tests.shops import vocabulary


def test_an_item_that_is_not_known_has_the_number_of_unknown() -> None:
    words = vocabulary()
    assert words.numbers(["i0", "nothing", None, "i39"]).tolist() == [
        FIRST_ITEM,
        UNKNOWN_ITEM,
        UNKNOWN_ITEM,
        FIRST_ITEM + 39,
    ]


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    words = vocabulary()
    words.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == words


def test_categories_are_numbered_at_two_depths() -> None:
    columns, sizes = vocabulary().categories()
    assert columns.shape == (len(vocabulary()), 2)
    assert (columns[:FIRST_ITEM] == 0).all()
    assert columns.max(0).tolist() == [sizes[0] - 1, sizes[1] - 1]


def test_a_new_vocabulary_takes_over_the_rows_of_items_both_know() -> None:
    old, new = vocabulary(10), vocabulary(12)
    champion = TrainedModel(build_network(NetworkConfig(len(old), old.categories()[1], width=8), old), old)
    reordered = Vocabulary(*(tuple(reversed(getattr(new, name))) for name in new.__dataclass_fields__))
    network = build_network(NetworkConfig(len(reordered), reordered.categories()[1], width=8), reordered)
    assert warm_start(network, reordered, champion) == 10
    for item_id in old.item_ids:
        mine = network.items.own.weight[reordered.number_of[item_id]]
        theirs = champion.network.items.own.weight[old.number_of[item_id]]
        assert torch.equal(mine, theirs)
    for level, names in enumerate(reordered.category_names()):
        for row, name in enumerate(names):
            place = old.category_names()[level].index(name)
            mine = network.items.of_category[level].weight[row]  # type: ignore[index]
            assert torch.equal(mine, champion.network.items.of_category[level].weight[place])  # type: ignore[index]
