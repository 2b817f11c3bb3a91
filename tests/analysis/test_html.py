"""The report: what stands there, and that it needs nothing else."""

import base64
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from ireg.analysis import FIGURES, write
from ireg.analysis.html import CAPTIONS, TITLES
from tests.run_folders import writes_runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Its text, its ids, what it refers to, and whether every element is closed in its turn."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.words, self.tags, self.ids, self.titles = [], [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]
        self.references += re.findall(r"url\((.*?)\)", " ".join(value or "" for _, value in attributes))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-2:] == ["circle", "title"]:
            self.titles.append(data)
        elif self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep whose report has been written, once for all tests that read it."""
    make_run = writes_runs(tmp_path_factory.mktemp("html"))
    for name, base in (("sgd", 0.3), ("adam", 0.2)):
        for rate in (0.01, 0.1):
            for seed in (0, 1, 2):
                error = base + rate + 0.01 * seed * (1 + rate)
                tags = {
                    "train/loss": [2.0, 1.0], "train/error": [0.9, error], "test/error": [0.9, error],
                    "ireg/own": [1e-3, 1e-5], "norm/l2": [1.0, 2.0],
                }  # fmt: skip
                config = {"optimizer.name": name, "lr": rate, "seed": seed}
                make_run(f"{name}-{rate}-{seed}", tags, config)
    folder = make_run("bad<i>", None, {"lr": 9.0}, state="failed", error="no <b>room</b> & more")
    assert folder / "report.html" in write(folder)
    return folder


def test_it_is_whole_and_needs_nothing_from_elsewhere(sweep):
    text = text_of(sweep)
    page = Page(text)
    assert page.references
    assert len(set(page.ids)) == len(page.ids) > 50
    assert {part for part in page.references if not part.startswith("data:")} == {f"#{name}" for name in page.ids}
    assert not re.search(r"https?://|@import|url\((?!#)|<\?|<!DOCTYPE svg|<metadata", text)
    assert page.tags.count("script") == page.tags.count("style") == 1
    words = " ".join(page.words)
    for part in (
        "13 runs 12 done, 1 failed",
        "network hidden 2 × 8",
        "data toy, label noise: 30 % of the training labels redrawn as another class (seed 0)",
        "Best: adam lr=0.01, test error 22.01 ±",
        "adam: the best, lr=0.01, is the smallest rate tried",
        "Differences between settings",
        "the regularizer of the run's own optimizer",
        "no <b>room</b> & more",  # as text, not as an element
        "At equal fit: against training loss",
        "Final errors against the learning rate. Data: toy; batch size: 64; epochs: 2; 3 seeds.",
    ):
        assert part in re.sub(r"\s+", " ", words), part
    assert "i" not in page.tags
    assert page.tags.count("figure") == page.tags.count("h3") == page.tags.count("figcaption") >= 6
    assert "img" not in page.tags


def test_points_say_their_values(sweep):
    """Of means over seeds, of single runs against the loss, and against the rate."""
    titles = Page(text_of(sweep)).titles
    for title in (
        "adam, lr=0.01 (3 seeds), epoch 1: 22 %",  # the mean of 0.21, 0.2201 and 0.2302
        "sgd, lr=0.1 (3 seeds), epoch 0: 90 %",
        "sgd, lr=0.1 (3 seeds), epoch 1: 1e-05",
        "adam, lr=0.1 (3 seeds), seed 2, training loss 1: 32.2 %",
        "adam, mean over seeds, learning rate 0.1: 31.1 %",
    ):
        assert title in titles, title


def test_the_table_of_runs_is_in_the_page(sweep):
    (link,) = re.findall(r'<a download="sweep_summary.csv" href="data:text/csv;base64,([^"]*)">', text_of(sweep))
    assert base64.b64decode(link) == (sweep / "summary.csv").read_bytes()


def test_contents_are_the_headings_in_their_order(sweep):
    text = text_of(sweep)
    listed = re.findall(r'<a href="#([^"]+)">', text)
    assert listed == re.findall(r'<h[23] id="([^"]+)">', text)
    equal_fit = "at-equal-training-loss-and-at-the-end"
    assert listed[:4] == ["settings", equal_fit, "differences-between-settings", "figures"]
    assert listed[4:6] == ["training_error", "test_error"]
    assert listed[-1] == "failures"


def test_every_figure_has_a_title_and_a_caption():
    assert list(TITLES) == list(CAPTIONS) == list(FIGURES)


def text_of(sweep):
    return (sweep / "report.html").read_text()


def test_equal_runs_give_equal_reports(sweep):
    first = (sweep / "report.html").read_bytes()
    write(sweep)
    assert (sweep / "report.html").read_bytes() == first


def test_one_run_without_seeds(make_run):
    sweep = make_run("a", {"test/error": [0.9, 0.5]})
    write(sweep)
    page = Page(text_of(sweep))
    words = " ".join(page.words)
    assert "Best" not in words
    assert "Differences" not in words
    assert "1 run 1 done" in words


@pytest.mark.skipif(CHROMIUM is None, reason="the report in a browser is NOT TESTED: it needs Chromium")
def test_it_opens_in_a_browser(sweep, tmp_path):
    """No error, every picture drawn, sorting works, and the page is no wider than a narrow window."""
    probe = """<script>
      window.addEventListener("load", async () => {
        const names = () => [...document.querySelector("tbody").rows].map(row => row.cells[0].textContent.trim());
        document.querySelector("th button").click();
        const up = names(); document.querySelector("th button").click();
        const result = {up, down: names(), pictures: [...document.querySelectorAll(".panel")].map(panel =>
            10 * panel.getBoundingClientRect().width / panel.viewBox.baseVal.width),
          fits: document.documentElement.scrollWidth <= window.innerWidth};
        document.title = JSON.stringify(result);
      });
      window.addEventListener("error", event => { document.title = "error: " + event.message });
    </script>"""
    path = tmp_path / "probe.html"
    path.write_text(text_of(sweep).replace("</body>", probe + "</body>"))
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=500,900", "--virtual-time-budget=5000", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.S).group(1))
    result = json.loads(title)
    assert len(result["pictures"]) >= 9
    assert min(result["pictures"]) > 10  # pixels of the figures' text
    assert result["fits"]
    assert result["up"] == sorted(result["up"])
    assert result["down"] == result["up"][::-1]
