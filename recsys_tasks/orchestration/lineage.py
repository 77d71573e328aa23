"""OpenLineage: what each task read and wrote. Airflow's provider loads `TaskExtractor`, by its configuration.

Assets become datasets of the namespace `session-recommender`; the provider itself knows few schemes of URIs. Batches
are a facet of a run; snapshots and model versions are facets of the dataset that the task announces.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import attrs
from airflow.providers.openlineage.extractors import BaseExtractor, OperatorLineage
from airflow.providers.openlineage.plugins.listener import get_openlineage_listener
from airflow.sdk import Asset
from airflow.sdk._shared.secrets_masker import _secrets_masker
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    DatasetFacet,
    RunFacet,
    dataset_version_dataset,
    output_statistics_output_dataset,
)

from recsys_tasks.names import LINEAGE_NAMESPACE
from recsys_tasks.orchestration.notes import get_recorded_batches


@attrs.define
class BatchesRunFacet(RunFacet):  # type: ignore[misc]
    """The batches that a task loaded: id, and numbers of rows."""

    batches: list[dict[str, Any]]


@attrs.define
class SnapshotDatasetFacet(DatasetFacet):  # type: ignore[misc]
    """The feature snapshot that a task built."""

    snapshotId: str


@attrs.define
class ModelVersionDatasetFacet(DatasetFacet):  # type: ignore[misc]
    """The version of the registered model that a task registered or activated."""

    modelVersion: str


class TaskExtractor(BaseExtractor):  # type: ignore[misc]
    """Extracts the lineage of a task from its inlets, its outlets, and what it announced."""

    @classmethod
    def get_operator_classnames(cls) -> list[str]:
        """Returns the operators behind `@task` and `@task.sensor`."""
        return ["_PythonDecoratedOperator", "DecoratedSensorOperator"]

    def _execute_extraction(self) -> OperatorLineage:
        return self._lineage({}, [])

    def extract_on_complete(self, task_instance: Any) -> OperatorLineage:
        """Returns the lineage of a task that succeeded or skipped."""
        context = task_instance.get_template_context()
        announced = {asset.uri: context["outlet_events"][asset].extra for asset in self._assets(self.operator.outlets)}
        return self._lineage(announced, get_recorded_batches(context))

    def extract_on_failure(self, task_instance: Any) -> OperatorLineage:
        """Returns the lineage of a task that failed, once its error message hides the secrets that are known by now.

        The provider hides only those that were known when it started.
        """
        redactor, masker = get_openlineage_listener().adapter._redacter, _secrets_masker()
        redactor.patterns, redactor.replacer = masker.patterns, masker.replacer
        return self.extract_on_complete(task_instance)

    def _lineage(self, announced: dict[str, dict[str, Any]], batches: list[dict[str, Any]]) -> OperatorLineage:
        return OperatorLineage(
            inputs=[InputDataset(LINEAGE_NAMESPACE, _name(asset)) for asset in self._assets(self.operator.inlets)],
            outputs=[_output(asset, announced.get(asset.uri) or {}) for asset in self._assets(self.operator.outlets)],
            run_facets={"recsys_batches": BatchesRunFacet(batches)} if batches else {},
        )

    @staticmethod
    def _assets(names: list[Any]) -> list[Asset]:
        return [asset for asset in names if isinstance(asset, Asset)]


def _name(asset: Asset) -> str:
    parts = urlsplit(str(asset.uri))
    return parts.netloc + parts.path


def _output(asset: Asset, extra: dict[str, Any]) -> OutputDataset:
    facets: dict[str, Any] = {}
    if "snapshot_id" in extra:
        facets |= {"recsys_snapshot": SnapshotDatasetFacet(extra["snapshot_id"]), **_version(extra["snapshot_id"])}
    if "version" in extra:
        facets |= {"recsys_model_version": ModelVersionDatasetFacet(extra["version"]), **_version(extra["version"])}
    statistics: dict[str, Any] = {}
    if "inserted" in extra:
        count = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=extra["inserted"])
        statistics["outputStatistics"] = count
    return OutputDataset(LINEAGE_NAMESPACE, _name(asset), facets=facets, outputFacets=statistics)


def _version(version: str) -> dict[str, Any]:
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(version)}
