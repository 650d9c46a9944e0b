from __future__ import annotations

import subprocess
import sys
import time

import dagster as dg
import pytest

from assets.partitions import PARTITIONS
from perturbridge_dagster.definitions import STAGE_ASSETS, build_definitions, defs
from perturbridge_dagster.stages import STAGES

HEAVY = ("rpy2", "great_expectations", "torch", "rdkit", "anndata", "matplotlib", "duckdb", "h5py")


def test_the_graph_loads_quickly_and_without_heavy_packages():
    code = "import sys, perturbridge_dagster.definitions; print(*(name for name in sys.argv[1:] if name in sys.modules))"
    started = time.monotonic()
    loaded = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - started
    assert loaded.stdout.strip() == ""
    assert seconds < 6, "3 s on a quiet machine; twice that where tests run side by side"


def test_the_graph_is_valid():
    dg.Definitions.validate_loadable(defs)


def test_the_flow_is_as_the_stages_say():
    assert [asset.key.path[-1] for asset in STAGE_ASSETS] == list(STAGES)
    assert set(PARTITIONS) == set(STAGES)


def described() -> dict[str, dict[str, object]]:
    graph = defs.resolve_asset_graph()
    nodes = {}
    for key in sorted(graph.get_all_asset_keys(), key=str):
        node = graph.get(key)
        nodes[key.to_user_string()] = {
            "group": node.group_name,
            "partitions": str(node.partitions_def) if node.partitions_def else None,
            "parents": sorted(parent.to_user_string() for parent in node.parent_keys),
            "checks": sorted(
                f"{check.name}{' (blocking)' if graph.get(check).blocking else ''}"
                for check in graph.asset_check_keys
                if check.asset_key == key
            ),
        }
    return nodes


def test_asset_keys_partitions_and_checks(snapshot):
    assert described() == snapshot


def test_jobs_and_sensors(snapshot):
    repository = defs.get_repository_def()
    assert {"jobs": sorted(repository.job_names), "sensors": sorted(sensor.name for sensor in repository.sensor_defs)} == snapshot


@pytest.mark.parametrize(
    "spec", sorted(defs.resolve_all_asset_specs(), key=lambda spec: spec.key), ids=lambda spec: spec.key.to_user_string()
)
def test_every_asset_says_what_it_is_and_what_makes_it_stale(spec: dg.AssetSpec):
    assert len(spec.description or "") > 100
    assert "stale" in (spec.description or "").lower() or spec.key.path[-1] == "coverage"
    assert spec.kinds
    assert spec.code_version
    assert spec.group_name[0].isdigit()
    if spec.key.path[-1] != "catalog":
        schema = spec.metadata["dagster/column_schema"]
        assert all(column.description for column in schema.columns)


def test_groups_lie_in_the_order_of_the_flow():
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        for parent in graph.get(key).parent_keys:
            assert graph.get(parent).group_name <= graph.get(key).group_name


def test_resources_can_be_replaced(tmp_path):
    from resources.store import Store

    replaced = build_definitions(home=tmp_path, resources={"store": Store(home="elsewhere")})
    assert replaced.resources["store"].home == "elsewhere"
    assert replaced.resources["compute"].home == str(tmp_path)
