"""The web UI on the materialized sample, as a person sees it: the graph, a partition, a check, a picture."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from assets.presentation import GROUPS, OVERVIEW

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = 30_000


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def address(demo_home, tmp_path_factory) -> Iterator[str]:
    """A web server on the demo's instance."""
    port = free_port()
    environment = os.environ | {"DAGSTER_HOME": str(demo_home.path / "dagster"), "PERTURBRIDGE_HOME": str(demo_home.path)}
    command = [str(Path(sys.executable).parent / "dagster-webserver"), "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    log = (tmp_path_factory.mktemp("server") / "log").open("w+")
    server = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, Path(log.name).read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@pytest.fixture(scope="module")
def page(address: str):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(SECONDS)
        query = {"query": "mutation { setNuxSeen }"}
        page.request.post(f"{address}/graphql", data=query)
        yield page
        browser.close()


@pytest.fixture
def shot(page, request):
    """Keeps a screenshot of each test where $PERTURBRIDGE_SCREENSHOTS says."""
    yield
    if folder := os.environ.get("PERTURBRIDGE_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{request.node.name}.png"))


def show_picture(page) -> None:
    """Open the first picture of a materialization; the UI keeps Markdown behind a link."""
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.locator("img[src^='data:image/png']").first
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 300


def test_the_graph_shows_every_stage_in_groups_in_the_order_of_the_flow(page, address, shot):
    groups = dict.fromkeys([*GROUPS.values(), OVERVIEW])
    page.goto(f"{address}/asset-groups?expanded={','.join(f'global@global:{group}' for group in groups)}")
    # the UI shortens long names in the graph
    for name in ("source_files", "harmoni", "condition_effects", "cross_d", "compou", "catalog"):
        page.get_by_text(name).first.wait_for()
    left = {group: page.get_by_text(group, exact=True).last.bounding_box()["x"] for group in groups}
    assert sorted(left, key=left.get)[0] == "1_sources"
    assert left["2_harmonized"] < left["3_effects"] < min(left["4_agreement"], left["5_representation"]) <= left["6_overview"]


def test_a_partition_shows_its_table_and_picture(page, address, shot):
    page.goto(f"{address}/assets/condition_effects?view=partitions&partition=CVCL_0031%7Csciplex")
    page.get_by_text("picture_strongest_contrast", exact=True).first.wait_for()
    page.get_by_text("Luminespib").first.wait_for()
    show_picture(page)


def test_a_check_says_what_it_looks_at_and_its_verdict(page, address, shot):
    page.goto(f"{address}/assets/harmonized_samples?view=checks&checkDetail=controls")
    page.get_by_text("Every cell context has vehicle controls").first.wait_for()
    page.get_by_text("Partitions", exact=True).first.wait_for()


def test_an_asset_says_what_it_is_and_has_a_column_schema_with_units(page, address, shot):
    page.goto(f"{address}/assets/harmonized_samples?view=overview")
    page.get_by_text("Samples of a dataset in the contract").first.wait_for()
    page.get_by_text("pert_dose_uM").first.wait_for()
    page.get_by_text("[µM]").first.wait_for()


def test_coverage_shows_what_is_there(page, address, shot):
    page.goto(f"{address}/assets/coverage?view=events")
    page.get_by_text("picture_coverage", exact=True).first.wait_for()
    show_picture(page)
