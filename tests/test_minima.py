import tomllib

import pytest

from tests.minima import PYPROJECT, pins


def test_every_dependency_has_the_minimum_of_pyproject():
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    found = pins(project)
    assert {"lightning==2.6.6", "hydra-joblib-launcher==1.2", "curvlinops-for-pytorch==3.0.1"} <= set(found)
    assert len(found) == len(set(found)) >= len(project["dependencies"]) + 6


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch==2.7"])
def test_a_dependency_without_a_minimum_is_an_error(requirement):
    extras = {name: [] for name in ("parallel", "slurm", "test")}
    with pytest.raises(ValueError, match=f"{requirement}: must have a minimum, like name>=1.2"):
        pins({"name": "ireg", "dependencies": [requirement], "optional-dependencies": extras})
