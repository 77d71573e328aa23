import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.settings import _RENAMED, Settings, find_unknown_variables, settings


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.cache_clear()
    monkeypatch.setenv("RECSYS_MAX_BAD_SHARE", "much")
    with pytest.raises(ConfigurationError, match="RECSYS_MAX_BAD_SHARE='much'"):
        settings()
    settings.cache_clear()


def test_a_secret_does_not_reach_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.cache_clear()
    monkeypatch.setenv("RECSYS_ADMIN_TOKEN", "a-secret")
    assert "a-secret" not in repr(settings())
    settings.cache_clear()


def test_an_unknown_variable_is_reported_with_the_nearest_setting() -> None:
    (misspelled,) = find_unknown_variables(["RECSYS_TRAINING_SECOND", "RECSYS_SEED", "PATH"])
    assert "RECSYS_TRAINING_SECOND has no effect: did you mean RECSYS_TRAINING_SECONDS?" in misspelled.replace(
        "is no setting and ", ""
    )
    (renamed,) = find_unknown_variables(["RECSYS_KEPT_MEGABYTES"])
    assert "it is RECSYS_CACHE_MB since version 0.4.0" in renamed


def test_an_unknown_variable_is_reported_at_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.cache_clear()
    monkeypatch.setenv("RECSYS_CANARY_SHAR", "0.1")
    assert settings().canary_share == 0
    assert "did you mean RECSYS_CANARY_SHARE?" in caplog.text
    settings.cache_clear()


def test_every_renamed_setting_has_its_new_name() -> None:
    assert set(_RENAMED.values()) <= set(Settings.model_fields)
    assert not set(_RENAMED) & set(Settings.model_fields)
