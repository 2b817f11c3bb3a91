import tomllib

import pytest

from tests.minima import PYPROJECT, pins


def test_every_dependency_has_the_minimum_of_pyproject():
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    found = pins(project)
    assert {"lightning==2.6.6", "hydra-joblib-launcher==1.2", "curvlinops-for-pytorch==3.0.1"} <= set(found)
    assert len(found) == len(set(found)) >= len(project["dependencies"]) + 6


# The release that fixes the last known hole of each: raised by hand, and never lowered.
FIXED = {"torch": (2, 10), "lightning": (2, 6, 6), "filelock": (3, 20, 3), "joblib": (1, 2)}
FIXED_BESIDE = {"mlflow": (3, 11), "setuptools": (78, 1, 1)}


def test_no_minimum_is_below_a_known_fix():
    settings = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    minima = dict(pin.split("==") for pin in pins(settings["project"]))
    minima |= dict(requirement.split(">=") for requirement in settings["project"]["optional-dependencies"]["mlflow"])
    minima |= dict(requirement.split(">=") for requirement in settings["build-system"]["requires"])
    for name, fixed in (FIXED | FIXED_BESIDE).items():
        assert tuple(int(part) for part in minima[name].split(".")) >= fixed, name


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch==2.10"])
def test_a_dependency_without_a_minimum_is_an_error(requirement):
    extras = {name: [] for name in ("slurm", "test")}
    with pytest.raises(ValueError, match=f"{requirement}: must have a minimum, like name>=1.2"):
        pins({"name": "ireg", "dependencies": [requirement], "optional-dependencies": extras})
