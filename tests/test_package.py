"""The command `ireg`, and the package as it is installed: whole, without the checkout."""

import argparse
import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import ireg
from ireg.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
RAISES_NOTHING = {"functional_loss", "needs"}
"""Public functions of several arguments that refuse none."""


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, ireg; assert not {'torch', 'lightning', 'pandas', 'numpy'} & set(sys.modules);"
        "assert dir(ireg) == sorted(ireg.__all__) == ireg.__all__; print(len(dir(ireg)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(ireg.__all__)


def test_the_public_names():
    import ireg.measurement

    assert [getattr(ireg, name).__name__ for name in ireg.__all__] == ireg.__all__
    assert dir(ireg) == ireg.__all__  # modules that have been imported are not listed, nor what the file imports
    assert ireg.measure is ireg.measurement.measure
    with pytest.raises(AttributeError, match="has no attribute 'measures'"):
        _ = ireg.measures


def test_types_are_checked_of_what_is_imported():
    """The imports that type checkers see and the places that names are imported from at run time are the same."""
    tree = ast.parse((ROOT / "ireg" / "__init__.py").read_text(encoding="utf-8"))
    (typing_only,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in typing_only.body for alias in node.names}
    assert seen == ireg._PLACES
    assert sorted(seen) == ireg.__all__


@pytest.mark.parametrize("name", ireg.__all__)
def test_public_names_are_documented(name):
    """Each has an example; with several arguments also what they are, what is returned, and what is refused."""
    value = getattr(ireg, name)
    text = inspect.getdoc(value)
    assert re.search(r"^Example:\n +>>> ", text, re.MULTILINE)
    arguments = re.search(r"^(Args|Attributes):$", text, re.MULTILINE)
    if inspect.isclass(value):
        assert arguments or name in ("Need", "NotServedError")
    elif len(inspect.signature(value).parameters) > 1:
        assert arguments
        assert "\nReturns:\n" in text
        assert ("\nRaises:\n" in text) != (name in RAISES_NOTHING)


def documented():
    """What the page of the library lists: full name and object, found where Sphinx looks for it."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    current = ""
    for kind, name in re.findall(r"^\.\. (currentmodule|auto(?:function|class|exception|module)):: (\S+)$", page, re.M):
        if kind == "automodule":
            yield name, importlib.import_module(name)
        if kind in ("automodule", "currentmodule"):
            current = name  # of names without a module, until the next of the two
            continue
        module, _, attribute = (name if "." in name else f"{current}.{name}").rpartition(".")
        yield name, getattr(importlib.import_module(module), attribute)


def test_the_page_of_the_library_lists_all():
    listed = dict(documented())
    assert {*ireg.__all__, "ireg.options.Options"} <= set(listed)
    from ireg import regularizers

    penalties = {name for name in regularizers.__all__ if is_penalty(getattr(regularizers, name))}
    assert len(penalties) > 5
    assert {f"ireg.regularizers.{name}" for name in penalties} <= set(listed)
    modules = {f"ireg.terms.{path.stem}" for path in (ROOT / "ireg" / "terms").glob("*.py") if has_terms(path)}
    assert len(modules) > 5
    assert modules <= set(listed)


def test_the_page_of_the_library_has_each_option_of_an_entry_once():
    """Twice the same option ends the site's build."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\.\. auto\w+:: .*\n((?: +:.*\n)*)", page, re.MULTILINE)
    assert len(entries) > 40
    for options in entries:
        names = re.findall(r"^ +:([\w-]+):", options, re.MULTILINE)
        assert len(names) == len(set(names)), options


def is_penalty(value):
    return inspect.isclass(value) and issubclass(value, ireg.Regularizer) and value is not ireg.Regularizer


def has_terms(path):
    """Whether a module has functions of a snapshot."""
    return re.search(r"^def [a-z]\w*\(snapshot: Snapshot", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_what_is_on_the_page_is_right_on_the_site():
    """Examples run with what the site imports for them, and no docstring has half a markup, which ends the build."""
    settings = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    (setup,) = re.findall(r'doctest_global_setup = """\n(.*?)"""', settings, re.DOTALL)
    names = {}
    exec(setup, names)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    for name, value in documented():
        for test in doctest.DocTestFinder().find(value, name, globs=names):
            if name != "sweep":  # which starts processes; its example runs with its module
                runner.run(test)
            assert runner.failures == 0, test.name
            assert half_markup(test.docstring or "") == [], test.name
            assert taken_for_types(test.docstring or "") == [], test.name
    assert runner.tries > 50


def taken_for_types(docstring):
    """First lines below "Returns:" with a colon: the site takes what is before it for the type."""
    first = re.findall(r"^ *Returns:\n *(.*)$", docstring, re.MULTILINE)
    return [line for line in first if re.search(r":(?:\s|$)", re.sub(r"`[^`]*`", "", line))]


@pytest.mark.parametrize(
    ("first", "taken"),
    [("The values: by tag.", True), ("The values:", True), ("`a: b`, and what is 1:1.", False), ("The values.", False)],
)
def test_what_is_taken_for_a_type(first, taken):
    assert taken_for_types(f"Do.\n\n    Args:\n        a: b.\n\n    Returns:\n        {first}\n        c: d.") == (
        [first] if taken else []
    )


def half_markup(docstring):
    """What reStructuredText takes for a substitution, a reference, or emphasis that does not end."""
    lines = [line for line in docstring.splitlines() if not re.match(r"\s*(>>>|\.\.\.)", line)]
    prose = re.sub(r"`[^`]*`", "", "\n".join(lines))
    after = r"(?=[\s'\")\]}>\-/:.,;!?]|$)"
    before = r"(?:^|(?<=[\s'\"(\[{<\-/:]))"
    return re.findall(rf"{before}\|\S[^|\n]*\|{after}|[^\W_]_{after}|{before}\*[^\s*][^*\n]*$", prose, re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "bad"), [("max |ω| of", 1), ("(c, *shape)", 1), ("of g_ alone", 1), ("Σ|ω_i|², h* is", 0)]
)
def test_half_markup_is_seen(text, bad):
    assert len(half_markup(text)) == bad
    assert half_markup(f"`{text}`") == []


USERS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.*"))]
DEEP = re.compile(r"\bireg\.(core|lit|certify|engine|measurement|measured_loss|monitor|objective|check|guard)\b[.\w]*")
ABOUT_THE_CODE = {"docs/certificates.md": {"ireg.core.optimizers", "ireg.core.mean_flow"}}
"""Where a page says which code has the constants, and sends nobody there."""
ROOMS = {
    "ireg",
    "ireg.analysis",
    "ireg.integrations.transformers",
    "ireg.regularizers",
    "ireg.statistics",
    "ireg.terms",
}


@pytest.mark.parametrize("path", USERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_users_are_sent_to_public_names(path):
    text = path.read_text(encoding="utf-8")
    deep = {match.group().rstrip(".") for match in DEEP.finditer(text)}
    assert deep <= ABOUT_THE_CODE.get(path.relative_to(ROOT).as_posix(), set())
    imported = re.findall(r"^\W*(?:from|import) (ireg[.\w]*)", text, re.MULTILINE)
    assert set(imported) <= ROOMS


def test_deep_modules_are_seen():
    assert DEEP.search("`ireg.core.moments.kind`").group() == "ireg.core.moments.kind"
    assert DEEP.search("from ireg.core import x").group() == "ireg.core"
    assert not DEEP.search("`ireg.measure`, `ireg.regularizers`, ireg.corelike")


def test_the_tools_are_listed_and_run(capsys):
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"ireg {name}" in out for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ireg {ireg.__version__}\n"
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == (
        "error: trian: no such command, did you mean train?; choose one of train, analysis, browse, sweep, run, data, "
        "terms, basins, drift, verify\n"
    )
    for word, meant in (("analyze", "analysis"), ("--verison", "--version")):
        assert main([word]) == 2
        assert f"error: {word}: no such command, did you mean {meant}?; choose " in capsys.readouterr().err
    assert main(["analysis", "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err.replace("'", "")


def test_options_have_the_defaults_that_their_help_names(monkeypatch):
    options = []
    add = argparse._ActionsContainer.add_argument

    def noting(self, *names, **settings):
        options.append(add(self, *names, **settings))
        return options[-1]

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", noting)
    for name in COMMANDS.keys() - {"train"}:  # which is Hydra's
        with pytest.raises(SystemExit):
            main([name, "--help"])
    named = {}
    for option in options:
        if option.nargs != 0 and option.default not in (None, [], argparse.SUPPRESS):
            several = option.default if isinstance(option.default, list) else [option.default]
            named[option.dest] = " ".join(map(str, several))
            assert f"(default: {named[option.dest]})" in option.help
    assert {"jobs", "orders", "refinements", "processes", "seed", "step", "optimizers", "loss"} <= named.keys()


def test_help_and_version_come_before_torch():
    """With torch made impossible to import, every tool still answers, by the name that it was called by."""
    code = (
        "import contextlib, sys; sys.modules['torch'] = None; from ireg.__main__ import COMMANDS, main\n"
        "for name in COMMANDS:\n    print('@@', name)\n"
        "    for option in ('--version', '--help'):\n        sys.argv = ['ireg', name, option]\n"
        "        with contextlib.suppress(SystemExit): main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    answers = dict(part.split("\n", 1) for part in done.stdout.split("@@ ")[1:])
    for name in COMMANDS:
        beginning = "ireg train: train a network" if name == "train" else f"usage: ireg {name} [-h]"
        assert answers[name].startswith(f"ireg {ireg.__version__}\n{beginning}")


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ireg.__version__
    latest = re.search(r"^## ([\d.]+) \(([\d-]+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert latest.groups() == (ireg.__version__, str(citation["date-released"]))
    (software,) = re.findall(r"@software\{.*?\n\}", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert f"version = {{{ireg.__version__}}}" in software
    assert f"year   = {{{citation['date-released'].year}}}" in software


def test_a_hosts_checks_are_ours():
    """The workflow runs the lines of `.ci/run`; the forms have what GitHub requires of each."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    steps = [step["run"] for step in workflow["jobs"]["tests"]["steps"] if "run" in step]
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    made = [line for line in lines if line.startswith("make ")]
    assert len(made) == 2
    assert [step for step in steps if step.startswith("make ")] == made
    forms = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))]
    assert [form["name"] for form in forms] == ["Bug", "New optimizer", "Wrong number"]
    for form in forms:
        assert form["description"]
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        identities = [field["id"] for field in fields]
        assert len(set(identities)) == len(fields) > 3
        assert all(field["attributes"]["label"] for field in fields)


WRONG = (
    "verify --only edge",
    "verify --optimizer adan",
    "drift nowhere",
    "drift nowhere --orders 3",
    "basins nowhere",
    "basins nowhere --optimizers adan",
    "run nowhere",
)


def test_what_is_wrong_comes_before_torch():
    """With torch made impossible to import, a wrong option or folder is one line."""
    code = (
        "import sys; sys.modules['torch'] = None; from ireg.__main__ import main\n"
        f"assert [main(line.split()) for line in {WRONG}] == [2] * {len(WRONG)}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(WRONG)
    assert all(line.startswith("error: ") for line in lines)


def test_every_package_is_named():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("ireg/**/__init__.py")}
    assert sorted(settings["packages"]) == settings["packages"]
    assert set(settings["packages"]) == found | {"ireg.conf"}


def test_the_wheel_is_whole(tmp_path):
    copy = tmp_path / "checkout"
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    listed = names.stdout.splitlines() or [str(path.relative_to(ROOT)) for path in ROOT.glob("[!.]*/**/*")]
    for name in listed:  # a build leaves files in its folder
        if name.startswith(("ireg/", "conf/", "pyproject.toml", "README.md", "LICENSE")) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    options = ["--quiet", "--no-deps", "--disable-pip-version-check", "-w", tmp_path]
    command = [sys.executable, "-m", "pip", "wheel", *options, copy]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if built.returncode and "setuptools" in built.stderr and "No matching distribution" in built.stderr:
        pytest.skip("the wheel is NOT TESTED: it needs setuptools from the package index")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
        names = archive.namelist()
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"ireg/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    packed = ("Digits/raw/t10k-labels-idx1-ubyte.gz", "Shakespeare/raw/plays.txt.gz")
    assert {"ireg/py.typed", *(f"ireg/assets/{name}" for name in packed)} <= set(names)
    assert not any(name.startswith(("tests", "conf")) for name in names)
    (tmp_path / "elsewhere").mkdir()
    (described,) = (tmp_path / "installed").glob("*.dist-info/METADATA")
    asked = [line for line in described.read_text(encoding="utf-8").splitlines() if line.startswith("Requires-Dist: ")]
    assert "Requires-Dist: hydra-joblib-launcher<2,>=1.2" in asked  # experiments do their runs with it
    small = ["optimizer=sgd", "seed=0", "epochs=1", "data=digits", "data.train_size=64", "data.test_size=64"]
    small += ["model.hidden=[8]", "hydra.launcher.n_jobs=1"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ireg", "train", "experiment=demo", *small],
        cwd=tmp_path / "elsewhere",
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 run (1 done)" in done.stdout
    sweep = tmp_path / "elsewhere" / "multirun" / "demo"
    assert len(list(sweep.glob("*/metrics.csv"))) == 1
    assert (sweep / "report.html").exists()
