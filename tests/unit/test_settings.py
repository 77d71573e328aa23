import pytest

from recsys_tasks.errors import ConfigurationError
from recsys_tasks.settings import settings


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
