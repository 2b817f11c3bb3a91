"""Print the oldest versions that pyproject.toml allows, as `make test-minima` installs them: `name==version`."""

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("slurm", "test")


def pins(project: dict) -> list[str]:
    """The minima of the dependencies and of what the tests need; a requirement without one is an error."""
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *(requirement for extra in EXTRAS for requirement in extras[extra])]
    return [_pin(requirement) for requirement in named if not requirement.startswith(f"{project['name']}[")]


def _pin(requirement: str) -> str:
    found = re.match(r"([\w-]+)>=([\d.]+)", requirement)
    if found is None:
        raise ValueError(f"{requirement}: must have a minimum, like name>=1.2")
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print("\n".join(pins(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])))
