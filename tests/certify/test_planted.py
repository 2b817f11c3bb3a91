"""Errors planted in the formulas are rejected by the command that certifies them.

That takes minutes, and is tested where it is asked for: IREG_PLANTED=1 python -m pytest tests/certify/test_planted.py
"""

import os
import subprocess
import sys

import pytest

from tests.planted import PLANTED, ROOT, Planted, plant

NEEDED = {
    "terms/": 20,
    "core/mean_flow.py": 10,
    "core/sharpness.py": 5,
    "core/optimizers/": 20,
}
"""Errors in each of the places where constants stand, at least."""


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: f"{planted.file}: {planted.right}")
def test_the_right_text_stands_once(planted):
    text = (ROOT / "ireg" / planted.file).read_text(encoding="utf-8")
    assert text.count(planted.right) == 1
    assert planted.wrong != planted.right
    compile(text.replace(planted.right, planted.wrong), planted.file, "exec")


def test_every_place_of_constants_has_errors():
    assert len(set(PLANTED)) == len(PLANTED)
    for place, least in NEEDED.items():
        assert sum(planted.file.startswith(place) for planted in PLANTED) >= least
    terms = {path.name for path in (ROOT / "ireg" / "terms").glob("*.py")} - {"__init__.py", "named.py"}
    rules = {"adagrad.py", "adam.py", "memory.py", "nadam.py", "rmsprop.py", "sgd.py", "state.py"}
    assert terms | rules <= {planted.file.rpartition("/")[2] for planted in PLANTED}


def test_an_error_is_made_in_a_copy_alone(tmp_path):
    planted = Planted("terms/norm.py", "eigvalsh(square)[-1].sqrt()", "eigvalsh(square)[-1]")
    before = (ROOT / "ireg" / planted.file).read_text(encoding="utf-8")
    plant(planted, tmp_path)
    assert (ROOT / "ireg" / planted.file).read_text(encoding="utf-8") == before
    assert planted.right not in (tmp_path / "ireg" / planted.file).read_text(encoding="utf-8")


def test_all_are_rejected():
    if os.environ.get("IREG_PLANTED") != "1":
        pytest.skip("PLANTED ERRORS ARE NOT TESTED: IREG_PLANTED=1 plants them, which takes some ten minutes")
    done = subprocess.run([sys.executable, ROOT / "tests" / "planted.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
