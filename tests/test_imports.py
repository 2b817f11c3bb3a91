"""Who may import whom."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Room -> rooms it may import. `system` may be used by any room.
ARROWS = {
    "core": set(),
    "terms": {"catalogue", "core"},
    "certify": {
        "analysis",
        "core",
        "known_optimizers",
        "measurement",
        "models",
        "objective",
        "options",
        "regularizers",
        "terms",
    },
    "verify": {"certify", "known_optimizers"},
    "browse": {"commands"},
    "run": {"experiment"},
    "__main__": set(),  # it imports a tool by its name
    "models": {"known_models"},
    "data": {"core"},
    "regularizers": {"core"},
    "basins": {"analysis", "core", "drift", "known_optimizers", "optim", "runs", "statistics"},
    "objective": {"core", "regularizers"},
    "optim": {"core", "known_optimizers"},
    "assets": {"data"},
    "check": {"core"},
    "measured_loss": {"check", "core"},
    "cost": {"core", "measurement", "options"},
    "rows_figure": {"catalogue"},
    "engine": {"core", "measured_loss", "measurement", "options"},
    "flow": {"core", "engine", "measured_loss"},
    "guard": {"check", "core", "measured_loss"},
    "options": {"check", "core", "measured_loss", "regularizers", "terms"},
    "window": {"core", "options"},
    "joint": {"core", "options"},
    "explanations": {"catalogue"},
    "measured": {"catalogue", "explanations", "tables"},
    "reasons": {"core", "terms"},
    "measurement": {
        "check",
        "core",
        "joint",
        "measured",
        "measured_loss",
        "objective",
        "options",
        "reasons",
        "regularizers",
        "terms",
    },
    "monitor": {
        "catalogue",
        "core",
        "guard",
        "measured",
        "measured_loss",
        "measurement",
        "objective",
        "options",
        "regularizers",
        "rows_figure",
        "terms",
        "window",
    },
    "lit": {
        "core",
        "data",
        "events",
        "guard",
        "measured_loss",
        "measurement",
        "monitor",
        "objective",
        "optim",
        "options",
        "regularizers",
        "rows_figure",
        "runs",
        "terms",
        "window",
    },
    "integrations": {"core", "monitor", "terms"},
    "config": {"catalogue", "known_models", "known_optimizers"},
    "runs": {"catalogue", "config"},
    "sweeps": {"analysis", "catalogue", "config", "runs"},
    "analysis": {"catalogue", "events", "known_optimizers", "runs", "statistics", "tables"},
    "catalogue": set(),
    "known_models": set(),
    "known_optimizers": set(),
    "commands": {"analysis", "catalogue", "config", "data", "experiment", "runs", "sweeps", "tables"},
    "events": {"catalogue"},
    "experiment": {
        "config",
        "core",
        "data",
        "known_optimizers",
        "lit",
        "objective",
        "optim",
        "regularizers",
        "runs",
        "sweeps",
    },
    # A run is taken up where it ended: made again by what made it, found by its status.
    "drift": {
        "analysis",
        "catalogue",
        "certify",
        "config",
        "core",
        "experiment",
        "objective",
        "regularizers",
        "runs",
        "statistics",
    },
    "statistics": set(),
    "tables": set(),
    "train": {"commands", "system"},
    "system": set(),
}
PLAIN = {"system"}
# Library -> the only rooms that may import it.
ONLY_IN = {
    "lightning": {"lit"},
    "torchmetrics": {"lit"},
    "pandas": {"analysis", "commands", "lit", "monitor", "rows_figure"},
    "transformers": {"integrations"},
    "matplotlib": {"analysis", "lit", "monitor", "rows_figure"},
    "tensorboard": {"events", "lit"},
    "torchvision": {"data"},
    "hydra": {"commands", "config", "experiment", "runs", "sweeps"},
    "omegaconf": {"commands", "config", "experiment", "runs", "sweeps"},
}
PURE = {"core", "terms"}
PURE_MAY_USE = {"torch", "scipy", "ireg"} | set(sys.stdlib_module_names)


def _room(path):
    relative = path.relative_to(ROOT)
    return relative.stem if len(relative.parts) < 3 else relative.parts[1]


def _imports(path):
    """Full names of the modules a file imports, those for type checking alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(files):
    for path in files:
        room = _room(path)
        for name in _imports(path):
            top, _, rest = name.partition(".")
            if top == "ireg" and rest and (target := rest.split(".")[0]) in ARROWS:
                if target != room and target not in ARROWS[room] | PLAIN:
                    yield f"{path.relative_to(ROOT)}: {room} may not import {target}"
            elif room not in ONLY_IN.get(top, {room}) or (room in PURE and top not in PURE_MAY_USE):
                yield f"{path.relative_to(ROOT)}: {room} may not import {top}"


def _sources():
    package = [path for path in (ROOT / "ireg").rglob("*.py") if path != ROOT / "ireg" / "__init__.py"]
    return [*package, ROOT / "train.py"]


def test_every_import_follows_an_arrow():
    assert len(_sources()) > 20
    assert {_room(path) for path in _sources()} == set(ARROWS)
    assert list(violations(_sources())) == []


def test_a_forbidden_import_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    bad = tmp_path / "ireg" / "core" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text(
        "import lightning\nfrom ireg.lit import data\nimport numpy\nfrom ireg.system.errors import UserError\n"
    )
    assert [line.split(": ")[1] for line in violations([bad])] == [
        "core may not import lightning",
        "core may not import lit",
        "core may not import numpy",
    ]
