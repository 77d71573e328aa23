"""The bundles of the integration tests."""

from tests.integration.conftest import bundles

__all__ = ["bundles"]
