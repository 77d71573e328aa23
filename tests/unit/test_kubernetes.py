"""Kubernetes manifests and Helm values, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from recsys_tasks.settings import find_unknown_variables

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
MANIFESTS: list[dict[str, Any]] = [
    document
    for name in ("endpoint.yaml", "mlflow.yaml")
    for document in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
]
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "airflow-values.yaml").read_text(encoding="utf-8"))
_VERSION = "1.33"


def _name(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def _containers() -> list[dict[str, Any]]:
    templates = [manifest["spec"]["template"] for manifest in MANIFESTS if "template" in manifest["spec"]]
    return [container for template in templates for container in template["spec"]["containers"]]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=_name)
def test_a_manifest_follows_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, _VERSION, strict=True)


def test_services_and_budgets_select_the_pods_of_a_workload() -> None:
    labels = [
        manifest["spec"]["template"]["metadata"]["labels"] for manifest in MANIFESTS if "template" in manifest["spec"]
    ]
    for manifest in (manifest for manifest in MANIFESTS if "selector" in manifest["spec"]):
        selector = manifest["spec"]["selector"]
        assert selector.get("matchLabels", selector) in labels, _name(manifest)


def test_secrets_are_referenced_and_never_written() -> None:
    for container in _containers():
        for variable in container["env"]:
            is_secret = any(word in variable["name"] for word in ("TOKEN", "KEYS", "URL", "URI"))
            assert ("valueFrom" in variable) == is_secret, variable["name"]


def test_environment_variables_are_settings_that_exist() -> None:
    names = [variable["name"] for container in _containers() for variable in container["env"]]
    names += [variable["name"] for variable in VALUES["env"]] + [secret["envName"] for secret in VALUES["secret"]]
    assert find_unknown_variables(names) == []


def test_the_pipeline_knows_every_pod_of_the_endpoint() -> None:
    pods = next(manifest for manifest in MANIFESTS if manifest["kind"] == "StatefulSet")
    service = pods["spec"]["serviceName"]
    (urls,) = (variable["value"] for variable in VALUES["env"] if variable["name"] == "RECSYS_ENDPOINT_URLS")
    expected = [f"http://endpoint-{n}.{service}:8080" for n in range(pods["spec"]["replicas"])]
    assert yaml.safe_load(urls) == expected


def test_every_claimed_volume_exists() -> None:
    claims = {manifest["metadata"]["name"] for manifest in MANIFESTS if manifest["kind"] == "PersistentVolumeClaim"}
    templates = [manifest["spec"]["template"]["spec"] for manifest in MANIFESTS if "template" in manifest["spec"]]
    volumes = [volume for template in templates for volume in template.get("volumes", [])]
    claimed = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume}
    assert claimed == claims
