"""A small sweep in TensorBoard and its report, in a real browser."""

import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.conftest import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("TensorBoard in a browser is NOT TESTED: chromium is not installed", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api",
    reason="TensorBoard in a browser is NOT TESTED: it needs pip install -e '.[browser]'",
)

NOT_OURS = (
    "Multiple instances of Three.js",
    "is deprecated",
    "cannot process domain type",
    "preloaded using link preload",
)
"""What TensorBoard's own pages say in the console."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A real sweep of two optimizers, two rates and two seeds, with one rate that makes SGD diverge."""
    folder = tmp_path_factory.mktemp("browser")
    command = [sys.executable, ROOT / "train.py", "-m", "name=small", "optimizer=sgd,adam", "lr=1e-2,1e9", "seed=0,1"]
    command += ["model.hidden=[16]", "epochs=2", "data.train_size=500", "data.test_size=200", "batch_size=50"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "multirun" / "small"


@pytest.fixture(scope="module")
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def link(sweep, port):
    """What `ireg browse` prints while TensorBoard runs."""
    command = [sys.executable, "-m", "ireg.browse", str(sweep), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    printed = process.stdout.readline().strip()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urlopen(f"http://localhost:{port}/data/runs", timeout=5) as answer:
                if b"summary/adam" in answer.read():
                    break
        except OSError:
            pass
        time.sleep(0.5)
    else:
        pytest.fail("TensorBoard did not read the sweep within a minute")
    yield printed
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened.troubles = []
    opened.on("requestfailed", lambda request: opened.troubles.append(f"{request.url}: {request.failure}"))
    opened.on(
        "response", lambda answer: answer.status >= 400 and opened.troubles.append(f"{answer.status} {answer.url}")
    )
    opened.on("pageerror", lambda error: opened.troubles.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and opened.troubles.append(said.text))
    yield opened
    opened.close()


def troubles(page):
    return [trouble for trouble in page.troubles if not any(part in trouble for part in NOT_OURS)]


def kept(page, name):
    """Keep a picture beside the test's other files, to be looked at."""
    page.screenshot(path=name)
    assert Path(name).stat().st_size > 10_000


def test_the_link_shows_the_papers_figures(page, link, tmp_path):
    page.goto(link)
    for tag in ("train/error", "test/error", "ireg/sgd", "norm/l2"):
        page.locator("metrics-pinned-view").get_by_text(tag, exact=True).wait_for(timeout=30_000)
    names = page.locator("tb-data-table-content-cell").all_inner_texts()
    shown = {name.strip() for name in names if name.startswith("summary/")}
    assert shown == {"summary/adam lr=0.01", "summary/adam lr=1000000000", "summary/sgd lr=0.01"}
    assert page.get_by_label("Scalars smoothing").or_(page.locator("input.slider-input")).first.input_value() == "0"
    kept(page, tmp_path / "figures.png")
    assert troubles(page) == []


def test_a_tag_says_what_it_means(page, port):
    described = page.request.get(f"http://localhost:{port}/data/plugin/timeseries/tags").json()
    assert "SGD's implicit regularizer" in str(described["scalars"]["tagDescriptions"]["ireg/sgd"])


def test_hyperparameters_have_a_column_for_what_differs(page, link, port, tmp_path):
    page.goto(f"http://localhost:{port}/#hparams")
    page.get_by_text("Show Metrics").first.wait_for(timeout=30_000)
    heads = [text.strip() for text in page.locator(".table-header").all_inner_texts() if text.strip()]
    assert heads[2:] == [
        "lr",
        "optimizer",
        "seed",
        "test/error",
        "train/error",
        "fit/clean_error",
        "fit/memorized",
        "fit/recovered",
    ]
    assert page.get_by_text("sgd_lr=0.01").count() == 2
    page.get_by_text("Parallel coordinates view").click()
    page.locator("svg .axis").first.wait_for(timeout=30_000)
    kept(page, tmp_path / "parallel.png")
    # Shares alone are shown, so that the runs that diverged leave room for the others.
    ticks = [text for axis in page.locator("svg .axis").all()[3:] for text in axis.locator("text").all_text_contents()]
    numbers = [float(text.replace(",", "")) for text in ticks if re.fullmatch(r"[\d.,]+", text)]
    assert numbers
    assert max(numbers) <= 1
    assert troubles(page) == []


def test_custom_scalars_show_a_band_a_setting(page, link, port, tmp_path):
    page.goto(f"http://localhost:{port}/#custom_scalars")
    page.get_by_text("mean, smallest and largest over the seeds").wait_for(timeout=30_000)
    page.get_by_text("Matches (3)").first.wait_for(timeout=30_000)
    assert page.locator("tf-custom-scalar-margin-chart-card").count() == 6
    kept(page, tmp_path / "bands.png")
    assert troubles(page) == []


def test_figures_and_tables_are_there(page, link, port):
    page.goto(f"http://localhost:{port}/#images")
    page.get_by_text("figures/1 training_error", exact=True).first.wait_for(timeout=30_000)
    page.wait_for_load_state("networkidle")  # a picture that is still loading would count as failed
    page.goto("about:blank")
    page.goto(f"http://localhost:{port}/#text")
    page.get_by_text("best: adam lr=0.01").wait_for(timeout=30_000)
    assert troubles(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_report_opens_from_the_disk(browser, sweep, tmp_path, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong = []
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((sweep / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widths = "panel => 10 * panel.getBoundingClientRect().width / panel.viewBox.baseVal.width"
    sizes = page.evaluate(f"[...document.querySelectorAll('.panel')].map({widths})")
    assert len(sizes) >= 7
    assert min(sizes) > 10  # pixels of the figures' text
    page.get_by_role("button", name="norm").click()
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    page.close()
    assert wrong == []
