"""The pages: their code, their links, and the numbers that are made from files."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from functools import cache, partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import ireg
from benchmarks import costs
from ireg.__main__ import COMMANDS, main
from ireg.config.read import read
from ireg.config.schema import GROUPS
from study.scripts import batches, claims, edge, norms, spikes, traces
from study.scripts import published as study
from tests.conftest import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / name / "README.md" for name in ("multirun", "ireg/assets")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NO_CODE = ("{toctree}", "{include}", "{eval-rst}")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def blocks(kind):
    for path in PAGES:
        for number, (language, code) in enumerate(FENCED.findall(path.read_text(encoding="utf-8"))):
            if language == kind:
                yield pytest.param(path, code, id=f"{path.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_is_in_blocks_with_a_language(path):
    text = path.read_text(encoding="utf-8")
    languages = {language.split()[0] for language, _ in FENCED.findall(text)}
    assert languages <= {"sh", "python", "yaml", "bibtex", "text", "math", *NO_CODE}
    outside = FENCED.sub("", text)
    assert not re.search(r"\n\n    \S", outside), "code without a block is not tested"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sum_is_taken_for_a_list(path):
    """A line that begins with a plus, within a formula too, begins a list where Markdown is read."""
    assert re.findall(r"^ *\+ .*", FENCED.sub("", path.read_text(encoding="utf-8")), re.MULTILINE) == []


def unbalanced(formula):
    """What a formula opens and does not close; the site would show an error in its place, and be built."""
    plain = re.sub(r"\\[{}]", "", formula)
    pairs = {"braces": (plain.count("{"), plain.count("}"))}
    for one, other in (("\\begin{", "\\end{"), ("\\lVert", "\\rVert"), ("\\langle", "\\rangle")):
        pairs[one] = (formula.count(one), formula.count(other))
    pairs["sizes"] = (len(re.findall(r"\\[bB]igl\b", formula)), len(re.findall(r"\\[bB]igr\b", formula)))
    return [name for name, (opened, closed) in pairs.items() if opened != closed]


def test_formulas_are_closed():
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    formulas = re.findall(r"^ *```math\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    assert len(formulas) > 40
    assert [(formula, unbalanced(formula)) for formula in formulas if unbalanced(formula)] == []
    assert 'myst_fence_as_directive = ["math"]' in (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("formula", "found"),
    [
        (r"\frac{a}{b", ["braces"]),
        (r"\Bigl\{ \frac{a}{b} \Bigr\}", []),
        (r"\lVert g ^2", ["\\lVert"]),
        (r"\bigl( a )", ["sizes"]),
        (r"\begin{aligned} a", ["\\begin{"]),
        (r"\langle a", ["\\langle"]),
    ],
)
def test_an_open_formula_is_seen(formula, found):
    assert unbalanced(formula) == found


def commands():
    for parameter in blocks("sh"):
        path, code = parameter.values
        for line in code.splitlines():
            yield pytest.param(line, id=f"{path.relative_to(ROOT)}: {line[:40]}")


@pytest.mark.parametrize("line", commands())
def test_commands_are_right(line, tmp_path, capsys):
    """Each is followed until it would begin its work."""
    program, *rest = shlex.split(line.removeprefix("PYTHONPATH=. "), comments=True)
    if program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS
    elif program.endswith("pip"):
        assert rest[0] == "install"
        assert {extra for found in re.findall(r"\.\[(.*?)\]", line) for extra in found.split(",")} <= set(EXTRAS)
    elif program in ("python", ".venv/bin/python", "python3") and rest[0] == "train.py":
        checks_the_configuration(rest[1:])
    elif program in ("python", ".venv/bin/python") and rest[0] == "-m" and rest[1].startswith("ireg.assets."):
        assert find_spec(rest[1]) is not None
    elif program in ("python", ".venv/bin/python") and rest[0] == "-m" and rest[1].startswith("ireg."):
        checks_the_options(rest[1].removeprefix("ireg."), rest[2:])
    elif program == "ireg" or rest[:2] == ["-m", "ireg"]:
        rest = rest if program == "ireg" else rest[2:]
        if rest:
            assert rest[0] in COMMANDS
            if rest[0] == "train":
                checks_the_configuration(rest[1:])
            else:
                checks_the_options(rest[0], rest[1:])
    else:
        known = (
            "python3 -m venv .venv",
            "mkdir -p mine/model",
            "printf ",
            "eval ",
            "python -m benchmarks.",
            "python -m study.scripts.",
        )
        assert line.startswith(known), "a command of a kind that is not tested"


def checks_the_configuration(words):
    if "--config-dir" in words:  # of the user's own, see test_what_contributing_adds_works
        return
    overrides = [word for word in words if not word.startswith("-")]
    single = []
    for override in overrides:
        key, _, value = override.partition("=")
        several = "," in value and not value.startswith(("[", "tag(", "choice(", '"'))
        single += [f"{key}={one}" for one in value.split(",")[:1]] if several else [override]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        read(compose("config", single))


def checks_the_options(name, words):
    """Compare with what --help lists, of a command below where the tool has such."""
    below = [word for word in words[:1] if name in ("data", "sweep")]
    assert all(word in shown_help(name, *below) for word in words if word.startswith("-"))


@cache
def shown_help(*words):
    shown = StringIO()
    with redirect_stdout(shown), pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return shown.getvalue()


@pytest.fixture
def prelude(tmp_path, monkeypatch):
    """What the examples of the pages take for granted: a network, minibatches, an optimizer, a module."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    examples = torch.utils.data.TensorDataset(torch.randn(12, 3), torch.randint(2, (12,)))
    loader = torch.utils.data.DataLoader(examples, batch_size=4)

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def training_step(self, batch, number):
            return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return {
        "ireg": ireg, "torch": torch, "model": model, "batches": list(loader), "loader": loader, "epochs": 2,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "cross_entropy": torch.nn.functional.cross_entropy, "module": Module(), "ModelCheckpoint": ModelCheckpoint,
        "Trainer": partial(Trainer, max_epochs=2, logger=False, enable_progress_bar=False, accelerator="cpu"),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("path", "code"), blocks("python"))
def test_python_runs(path, code, prelude, make_run, tmp_path):
    if path.name == "CONTRIBUTING.md":
        pytest.skip("see test_what_contributing_adds_works")
    if path.name == "in_lightning.md" and "trainer.fit" in code:
        pytest.skip("see tests/study/test_study_trainings.py")
    if path.name.startswith("tutorial_"):
        pytest.skip("see tests/study/test_study_tutorials.py")
    for extra in ("transformers", "accelerate"):
        if "from transformers import" in code:
            pytest.importorskip(extra)
    tags = {"test/error": [0.9, 0.1], "train/loss": [2.0, 0.5], "time/epoch": [1.0, 1.0]}
    for optimizer in ("sgd", "adam"):
        sweep = make_run(optimizer, tags, {"optimizer.name": optimizer})
    (tmp_path / "multirun").mkdir()
    (tmp_path / "multirun" / "NAME").symlink_to(sweep)
    exec(compile(code, str(path), "exec"), prelude)


def written_in_contributing(section=""):
    """The blocks of the page, or of one section, by the first line, which names the file."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    if section:
        text = text.split(section)[1].split("\n### ")[0]
    return dict(code.removeprefix("# ").split("\n", 1) for _, code in FENCED.findall(text))


def contributed(folder, monkeypatch):
    """Write the files of CONTRIBUTING's blocks below a folder, as modules of the user's."""
    for name, code in written_in_contributing().items():
        if name.startswith(("conf", "my_")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(code)
        if name.startswith("my_"):
            monkeypatch.setitem(sys.modules, Path(name).stem, None)  # so that it is forgotten after the test
            del sys.modules[Path(name).stem]
    monkeypatch.syspath_prepend(folder)


def test_a_data_set_and_a_penalty_of_contributing_are_trained_with(tmp_path, monkeypatch, small_run):
    contributed(tmp_path, monkeypatch)
    found = f"hydra.searchpath=[file://{tmp_path}/conf]"
    penalty = ["regularizer=l1", "regularizer.strength=0.01"]
    small_run(
        tmp_path / "run", found, "data=mine", *penalty, "optimizer=adam", "lr=0.01", "data.noise.kind=none", "epochs=8"
    )
    rows = ireg.load(tmp_path / "run")
    assert rows["test/error"].iloc[-1] < 0.2 < rows["test/error"].iloc[0]
    assert rows["penalty/value"].gt(0).all()
    from my_penalty import L1

    weight = torch.tensor([2.0, -3.0], requires_grad=True)
    added = L1(strength=0.5).penalized(None, {"w": weight}, weight.sum(), 1)
    (gradient,) = torch.autograd.grad(added.total, weight)
    assert (float(added.penalty), gradient.tolist()) == (2.5, [1.5, 0.5])


def test_what_contributing_adds_works(tmp_path, monkeypatch):
    """A data set, an architecture and a term of the user's, as the page writes them."""
    contributed(tmp_path, monkeypatch)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = ["data=mine", "model=convolutional", "terms=[sgd,largest]"]
        paths = ",".join(f"file://{tmp_path}/{folder}" for folder in ("conf", "conf_of_mine"))
        settings = read(compose("config", [*chosen, f"hydra.searchpath=[{paths}]"]))
    model = instantiate(settings.model, input_shape=(1, 4, 4), num_classes=3)
    images, labels = instantiate(settings.data.source)(train=True)
    assert model(images[:, None].float()).shape == (500, 3)
    assert len(labels) == settings.data.num_train
    assert list(settings.terms["ireg"]) == ["sgd"]
    term = instantiate(settings.terms["norm"]["largest"])
    assert float(term(SimpleNamespace(params={"w": torch.tensor([1.0, -3.0])}))) == 3.0


def test_a_term_is_three_files(tmp_path):
    """Those of the page, in a copy: it is composed, measured as its reference says, and refused without one."""
    files = written_in_contributing()
    for folder in ("conf", "docs", "ireg", "study", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "assets", "figures", "data" if folder == "docs" else "")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    module = tmp_path / "ireg" / "terms" / "norm.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n\n" + files["ireg/terms/norm.py"], encoding="utf-8")
    adds(tmp_path, files, "ireg/catalogue.py: CATALOGUE")
    adds(tmp_path, files, "tests/terms/references.py: REFERENCES")
    (tmp_path / "walk.py").write_text(WALK)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    walked = [sys.executable, "walk.py"]
    done = subprocess.run(walked, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "refused\nmeasured\n"), done.stderr
    assert "| `norm/relative_distance` | distance" in (tmp_path / "docs" / "terms.md").read_text(encoding="utf-8")


WALK = """
from hydra import compose, initialize_config_dir
from pathlib import Path

import ireg
from ireg.config.schema import register
from study.scripts.terms import main
from tests.terms import test_references as tests

assert Path(ireg.__file__).parents[1] == Path.cwd()
tag = "norm/relative_distance"
line = tests.REFERENCES.pop(tag)
try:
    tests.test_every_term_has_a_reference()
except AssertionError:
    print("refused")
tests.REFERENCES[tag] = line
tests.test_every_term_has_a_reference()
tests.test_a_term_has_the_value_of_its_reference(tag)
register()
with initialize_config_dir(str(Path("conf").absolute()), version_base="1.3"):
    for choice in ("[l2,relative_distance]", "margin"):
        assert "relative_distance" in compose("config", [f"terms={choice}", "hydra.output_subdir=null"]).terms.norm
main()
print("measured")
"""


def adds(copy, files, block):
    """Put a block at the start of the table that its first line names."""
    name, _, table = block.partition(": ")
    text = (copy / name).read_text(encoding="utf-8")
    (start,) = re.findall(rf"^{table}: .*= {{\n", text, re.MULTILINE)
    (copy / name).write_text(text.replace(start, start + files[block]), encoding="utf-8")


def headings(path):
    """The anchors of a page, as its readers make them."""
    lines = FENCED.sub("", path.read_text(encoding="utf-8")).splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in headings(there), target


def test_files_that_are_named_are_there():
    """On pages and in docstrings; a file that has moved leaves a wrong name behind."""
    named = [
        (path, name)
        for path in [*PAGES, *sorted(ROOT.glob("ireg/**/*.py"))]
        for name in re.findall(r"\b(?:tests|ireg|study|benchmarks)/[\w/]+\.py\b", path.read_text(encoding="utf-8"))
    ]
    assert len(named) > 20
    assert [(str(path), name) for path, name in named if not (ROOT / name).is_file()] == []


def test_every_page_is_on_the_site():
    listed = set(re.findall(r"^([a-z_/0-9]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages - {"index"} | {"notebook"}


def test_every_tool_group_and_data_set_is_on_a_page():
    configuration = (ROOT / "docs" / "configuration.md").read_text()
    assert all(f"| `{group}` |" in configuration for group in GROUPS)
    for group in ("optimizer", "model", "data", "logger"):
        row = next(line for line in configuration.splitlines() if line.startswith(f"| `{group}` |"))
        choices = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
        assert choices <= set(re.findall(r"\w+", row))
    assert all(f"`ireg {name}" in (ROOT / "docs" / "commands.md").read_text() for name in COMMANDS)


@pytest.mark.parametrize(
    ("page", "name", "made"),
    [
        ("README.md", "claims", claims.claims),
        ("docs/results.md", "claims", claims.claims),
        ("docs/results.md", "numbers", claims.numbers),
    ],
)
def test_the_papers_claims_are_compared_with_committed_numbers(page, name, made):
    text = (ROOT / page).read_text(encoding="utf-8")
    between = text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]
    assert between == made(pd.read_csv(claims.CSV))


STUDIES = {"edge": edge, "traces": traces, "batches": batches, "norms": norms, "spikes": spikes, "costs": costs}


@pytest.mark.parametrize(("name", "made"), STUDIES.items())
def test_the_page_on_curvature_has_committed_numbers(name, made):
    text = (ROOT / "docs" / "curvature.md").read_text(encoding="utf-8")
    assert text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0] == made.table(pd.read_csv(made.CSV))


def test_the_page_on_curvature_has_committed_sizes():
    text = (ROOT / "docs" / "curvature.md").read_text(encoding="utf-8")
    expected = costs.memory_table(pd.read_csv(costs.CSV))
    assert text.split("<!-- memory -->\n")[1].split("<!-- /memory -->")[0] == expected


def test_tables_are_put_on_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "DATA", tmp_path / "docs" / "data")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    assert study.published("a", "new\n", "page.md") == "new\n"
    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match=r"page\.md has no marks <!-- b --> and <!-- /b -->"):
        study.published("b", "new\n", "page.md")


def test_traces_are_those_at_a_training_loss():
    rows = [
        {"optimizer": "sgd", "lr": 0.1, "seed": 0, "epoch": epoch, "train/loss": loss, "curvature/trace": 100 * loss,
         "curvature/trace_root": 7.0}
        for epoch, loss in ((0, 2.0), (10, 0.8), (20, 0.3), (30, 0.15))
    ]  # fmt: skip
    found = traces.measured(pd.DataFrame(rows))
    assert found["loss"].tolist() == [0.5, 0.2]  # the others were not reached
    assert found["curvature/trace"].tolist() == pytest.approx([50, 20], rel=1e-12)
    assert found["curvature/trace_root"].tolist() == pytest.approx([7, 7], rel=1e-12)


def test_what_counts_as_at_the_edge():
    values = [0.1, 0.95, 0.5, 1.3, 0.2]
    rows = [
        {"optimizer": "adam", "lr": 0.1, "epoch": number, "curvature/edge_fraction": value,
         "curvature/lambda_max": 7.0 + number, "train/loss": 2.0 - number / 10, "loss": "squared_error", "seed": 0}
        for number, value in enumerate(values)
    ]  # fmt: skip
    (row,) = edge.measured(pd.DataFrame(rows)).to_dict("records")
    assert (row["first"], row["last"], row["median"], row["loss last"]) == (1, 3, 0.95, 1.7)
    assert (row["sharpness at the start"], row["sharpness at the edge"]) == (7.0, 9.0)


def test_batches_are_looked_at_in_their_last_third():
    rows = [
        {"batch_size": 32, "lr": 0.5, "seed": 0, "epoch": epoch, "train/loss": 1.0, "curvature/lambda_max": 1.0,
         "curvature/edge_fraction": epoch / 10, "curvature/batch_sharpness": 2.0, "curvature/gni": 3.0,
         "data.noise.kind": "none"}
        for epoch in range(10)
    ]  # fmt: skip
    (row,) = batches.measured(pd.DataFrame(rows)).to_dict("records")
    assert row["curvature/edge_fraction"] == pytest.approx(0.75)  # of epochs 6 to 9
    line = batches.table(pd.DataFrame([row, {**row, "seed": 1}])).splitlines()[-1]
    assert line == "| right | 32 | 1.00 ± 0.00 | 0.25 ± 0.00 | 0.50 ± 0.00 | 0.75 ± 0.00 |"


def test_growth_is_that_of_all_epochs():
    tags = dict.fromkeys(norms.PARTS, 2.0)
    rows = [
        {"optimizer": "sgd", "lr": 0.1, "seed": 0, "epoch": epoch, "norm/l2": 3.0 + epoch, **tags} for epoch in (1, 2)
    ]
    rows.insert(0, {**rows[0], "epoch": 0, "norm/l2": 3.0, **dict.fromkeys(norms.PARTS)})
    (row,) = norms.measured(pd.DataFrame(rows)).to_dict("records")
    assert (row["norm at the start"], row["norm at the end"], row["path/radial"]) == (3.0, 5.0, 4.0)
    assert norms.table(pd.DataFrame([row, {**row, "seed": 1}])).count("| 50.0 ± 0.0 % |") == 2


def test_a_spike_and_a_passage_without_one():
    """A planted spike at step 150, three steps after a passage, and a passage at step 250 without one."""
    loss = [1.0] * 300
    loss[150:153] = [1.5, 2.0, 1.3]
    along, edges = [0.5] * 300, [0.5] * 300
    along[147:150], edges[140:150], along[230] = [1.1] * 3, [1.1] * 10, 1.2
    rows = pd.DataFrame(
        # The loss of a row is that before its step: of the weights of the row before.
        {"seed": 0, "epoch": range(300), "train/loss": [1.0, *loss[:-1]], "curvature/along_step": along,
         "curvature/edge_fraction": edges}
    )  # fmt: skip
    spike, other = spikes.measured(rows).to_dict("records")
    assert (spike["kind"], spike["step"], spike["rise"]) == ("spike", 150, 2.0)
    assert (spike["along leads by"], spike["edge leads by"]) == (3, 10)
    assert (other["kind"], other["step"], other["rise"]) == ("no spike", 230, 1.0)


def test_values_of_runs_are_medians_and_those_at_sgds_fit():
    rows = [
        {"optimizer": optimizer, "seed": 0, "epoch": epoch, "train/error": error, "test/error": 2 * error,
         "fit/memorized": 0.0, "ireg/sgd": float(epoch), "ireg/rmsprop": 0.0, "norm/l2": 1.0 + epoch}
        for optimizer, errors in (("sgd", [0.9] * 10 + [0.4] * 10), ("adam", [0.9, 0.5, 0.3] + [0.1] * 16 + [0.9]))
        for epoch, error in enumerate(errors)
    ]  # fmt: skip
    runs = claims.measured(pd.DataFrame(rows)).set_index("optimizer")
    assert runs.loc["adam", "train/error"] == 0.1  # one spike changes nothing
    assert (runs.loc["adam", "fit epoch"], runs.loc["adam", "fit test/error"]) == (2, 0.6)
    assert (runs.loc["sgd", "fit epoch"], runs.loc["sgd", "norm/l2"]) == (10, 15.5)
    assert runs.loc["adam", "best test/error"] == 0.2
