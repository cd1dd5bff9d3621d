"""What a person does and sees in the browser: from the graph to a trained model in MLflow, and back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: uv pip install -e '.[test]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
QUIET = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"
PATIENCE_SECONDS = 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium that is on the PATH: apt install chromium"),
]


@dataclass
class Served:
    """A browser's page, and where `ssl-pipeline up` answers."""

    page: playwright.Page
    dagster: str
    mlflow: str
    run: str = ""
    """Of Dagster, the path of the run's page."""

    def open(self, path: str) -> playwright.Page:
        self.page.goto(f"{self.dagster}{path}")
        return self.page

    def of_the_location(self, path: str) -> playwright.Page:
        return self.open(f"/locations/__repository__@ssl_pipeline.definitions/{path}")

    def metadata(self, key: str) -> playwright.Locator:
        """The row of an asset's metadata."""
        return self.page.locator("tr").filter(has=self.page.get_by_text(key, exact=True)).last


@pytest.fixture(scope="module")
def served(automated_project: Path) -> Iterator[Served]:
    """A real `up`, and a recipe that was run in it by pressing its job's button."""
    hidden = ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "SSL_PIPELINE_STORE")
    ports = [str(free_port()), str(free_port())]
    started = subprocess.Popen(
        [sys.executable, "-m", "ssl_pipeline.cli", "up", "--port", ports[0], "--mlflow-port", ports[1]],
        cwd=automated_project, env={name: value for name, value in os.environ.items() if name not in hidden},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert started.stdout and any(line.startswith("Ctrl-C stops both") for line in started.stdout)
        with playwright.sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
            page = chromium.new_page(viewport={"width": 1500, "height": 950})
            page.set_default_timeout(60_000)
            found = Served(page, *(f"http://127.0.0.1:{port}" for port in ports))
            found.run = materialize(found, "shapes_simclr")
            yield found
            chromium.close()
    finally:
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0


def materialize(served: Served, job: str) -> str:
    """Presses the button of a job's page, follows the link that the page then shows, and waits for the end."""
    page = served.open("/jobs")
    page.locator(f"a[href$='/jobs/{job}']").click()
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_role("link", name="View", exact=True).click()
    expect = playwright.expect
    expect(page).to_have_title(re.compile(r"\[(SUCCESS|FAILURE|CANCELED)\]"), timeout=PATIENCE_SECONDS * 1000)
    expect(page).to_have_title(re.compile(r"\[SUCCESS\]"))
    return page.url.removeprefix(served.dagster)


def test_the_graph_leads_from_datasets_over_recipes_to_leaderboards(served: Served) -> None:
    page = served.open("/asset-groups")
    boxes = [page.locator("foreignObject, [class*=Group]").get_by_text(name, exact=True).last.bounding_box()
             for name in ("datasets", "shapes_simclr", "leaderboards")]  # fmt: skip
    left = [box["x"] for box in boxes if box]
    assert len(left) == 3 and left == sorted(left)


def test_every_stage_of_the_recipe_was_made(served: Served) -> None:
    page = served.of_the_location("asset-groups/shapes_simclr/list")
    page.get_by_text("Materialized").first.wait_for()
    rows = page.locator("body").inner_text().split("shapes_simclr / ")
    made = {row.split("\n")[0].strip() for row in rows if "\nMaterialized\n" in row}
    assert made >= {
        "pretext_labels",
        "pretrained_encoder",
        "features",
        "classification",
        "clustering",
        "registered_model",
    }


@pytest.mark.parametrize(
    ("asset", "picture"),
    [("pretext_labels", "sheet"), ("pretrained_encoder", "curves"), ("clustering", "projection")],
)
def test_pictures_are_shown(served: Served, asset: str, picture: str) -> None:
    """As an image that has pixels: a sanitiser that drops data: addresses would leave an empty one."""
    page = served.open(f"/assets/shapes_simclr/{asset}")
    served.metadata(f"picture: {picture}").get_by_text("Show Markdown").click()
    image = page.locator("img[src^='data:image/png;base64,']")
    image.wait_for()
    width, height, shown = image.evaluate("image => [image.naturalWidth, image.naturalHeight, image.clientWidth]")
    assert min(width, height, shown) > 100


def test_numbers_fit_into_the_page(served: Served) -> None:
    page = served.open("/assets/shapes_simclr/clustering")
    table = served.metadata("metrics").locator("table")
    table.wait_for()
    playwright.expect(table).to_contain_text("kmeans / nmi / all")
    cut, wide = table.evaluate(
        """table => {
            let box = table; while (box && getComputedStyle(box).overflowX == 'visible') box = box.parentElement;
            return [box.getBoundingClientRect().right, table.getBoundingClientRect().right];
        }"""
    )
    assert wide <= cut + 1, f"{wide - cut:.0f} pixels at the right are cut off"
    assert page.get_by_text("this recipe", exact=True).count()


def test_to_mlflow_and_back(served: Served) -> None:
    """The encoder's run and the registered version, by their links; from each of them back to its asset and its Dagster run."""
    for asset, link, in_mlflow in (
        ("pretrained_encoder", "mlflow run", "/#/experiments/1/runs/"),
        ("registered_model", "mlflow model", "/#/models/shapes_simclr/versions/1"),
    ):
        page = served.open(f"/assets/shapes_simclr/{asset}")
        there = served.metadata(link).get_by_role("link").first.get_attribute("href")
        assert there and there.startswith(served.mlflow + in_mlflow)
        page.goto(there)
        playwright.expect(page.get_by_text("shapes_simclr").first).to_be_visible()
        if asset == "registered_model":
            playwright.expect(page.get_by_text("champion", exact=False).first).to_be_visible()
        back = page.locator(f"a[href='{served.dagster}{served.run}']")
        playwright.expect(back).to_be_visible()
        back_to_asset = page.locator(f"a[href='{served.dagster}/assets/shapes_simclr/{asset}']")
        with (
            page.context.expect_page()
            if back_to_asset.get_attribute("target") == "_blank"
            else page.expect_navigation()
        ):
            back_to_asset.click()


def test_sensors_say_what_they_wait_for(served: Served) -> None:
    page = served.of_the_location("sensors/shapes_simclr_retrain_when_due")
    playwright.expect(page.get_by_text("Each tick says why, or why not")).to_be_visible()
    page.locator("tr").filter(has_text="View logs").first.get_by_text("runs requested").last.click()
    reason = page.get_by_text("Skip reason:")
    reason.wait_for()
    assert len(page.get_by_role("dialog").inner_text().partition("Skip reason:")[2].strip()) > 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
