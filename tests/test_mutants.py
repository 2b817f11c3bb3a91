"""Planting errors: every kind of them, the draw, and on a small package what is killed, survives and is resumed."""

import ast

import pytest

from tests import mutants as command
from tests.mutations import drawn, mutants

ROOT = command.HERE.parent
PLANTED = {
    "x = a + (b)": ["x = a - (b)"],
    "x = f(a) // b ** c": ["x = f(a) / b ** c", "x = f(a) // b * c"],
    "x -= y % z": ["pass", "x += y % z", "x -= y * z"],
    "x = (a) <= b != c": ["x = (a) < b != c", "x = (a) <= b == c"],
    "x = a is not b, c not in d, e > f": [
        "x = a is b, c not in d, e > f",
        "x = a is not b, c in d, e > f",
        "x = a is not b, c not in d, e >= f",
    ],
    "x = 1, 0.5, 0.0, 'ä' * 3": [
        "x = 0, 0.5, 0.0, 'ä' * 3",
        "x = 2, 0.5, 0.0, 'ä' * 3",
        "x = 1, 0.55, 0.0, 'ä' * 3",
        "x = 1, 0.5, 1.0, 'ä' * 3",
        "x = 1, 0.5, 0.0, 'ä' / 3",
        "x = 1, 0.5, 0.0, 'ä' * 2",
        "x = 1, 0.5, 0.0, 'ä' * 4",
    ],
    "x = f(g(y).clone(), z.detach(), w.clone(out))": [
        "x = f(g(y), z.detach(), w.clone(out))",
        "x = f(g(y).clone(), z, w.clone(out))",
    ],
    "x = not (a and b)": ["x = (a and b)", "x = not (a or b)"],
    "x = torch.where(a, (b), c)": ["x = torch.where(a, (c), b)"],
    "def f(x, *, sure=True, n: Literal[1] = None): return f'{x + 1}'": [
        "def f(x, *, sure=False, n: Literal[1] = None): return f'{x + 1}'"
    ],
    "for x in y: self.z = x": ["for x in y: pass"],
    "if x: raise E(x)": ["if x: pass"],
    "def f(x):\n    if x: return\n    g(x)\n    return x": ["if x: pass", "pass"],
    "zip(a, b, strict=True, other=True)": ["pass", "zip(a, b, strict=True, other=False)"],
    "axis.grid(alpha=0.3)": [],
    "figure = Figure(figsize=(8, 2 * rows), dpi=100)": [
        "figure = Figure(figsize=(8, 2 * rows), dpi=101)",
        "figure = Figure(figsize=(8, 2 * rows), dpi=99)",
    ],
    "x[0]": ["x[-1]", "x[1]"],
    "if __name__ == '__main__': f(1)": [],
}


@pytest.mark.parametrize("source", PLANTED)
def test_each_kind_is_planted_once_at_its_place(source):
    found = mutants("ireg/a.py", source.encode())
    assert [mutant.after for mutant in found] == PLANTED[source]
    for mutant in found:
        planted = mutant.planted(source.encode()).decode()
        ast.parse(planted)
        (line,) = (line for line in planted.splitlines() if line not in source.splitlines())
        assert line.strip() == mutant.after
        assert mutant.before in source
        assert mutant.before == source.splitlines()[mutant.line - 1].strip()


def test_the_draw_is_that_of_its_seed_and_takes_each_file_in_turn():
    sources = {f"ireg/{name}.py": b"x = 1 + 2 < 3\ny = 4\n" for name in "abc"}
    every = [mutant for file, source in sources.items() for mutant in mutants(file, source)]
    one, other = drawn(every, 7, seed=1), drawn(every, 7, seed=2)
    assert one == drawn(list(reversed(every)), 7, seed=1) != other
    assert one[:4] == drawn(every, 4, seed=1)  # a larger sample has the smaller one
    assert sorted(mutant.file for mutant in one[:3]) == sorted(sources)
    assert sorted(mutant.file for mutant in one[3:6]) == sorted(sources)
    assert len(set(one)) == 7
    assert set(drawn(every, 1000, seed=1)) == set(every)


def test_the_tests_that_are_run():
    near, far = command.tests_of(ROOT, "ireg/core/moments/hooks.py")
    assert near[:2] == ["ireg/core/moments/hooks.py", "tests/core/moments/test_hooks.py"]
    assert "tests/core/test_path.py" in far
    assert "tests/terms/test_terms.py" in far
    assert not set(near) & set(far)
    near, far = command.tests_of(ROOT, "ireg/analysis/curvature.py")  # which ireg/analysis/figures.py imports
    assert "tests/analysis/test_figures.py" in far[:5]
    assert [command.room(f"ireg/{file}") for file in ("core/moments/hooks.py", "run.py")] == ["core/moments", "run"]


def test_every_equivalent_still_stands_in_its_file():
    for file, before, after in command.read_equivalents(ROOT / "tests" / "equivalents.toml"):
        keys = {mutant.key for mutant in mutants(file, (ROOT / file).read_bytes())}
        assert (file, before, after) in keys


SMALL = '''
def first(values):
    """
    >>> first([1, 2, 1])
    1
    """
    return values[0]


def is_small(n):
    return n < 10


def emptied(queue):
    while queue:
        queue.pop()
    return queue
'''
FILES = {
    "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--doctest-modules --import-mode=importlib"\n',
    "ireg/__init__.py": "",
    "ireg/small.py": SMALL,
    "tests/test_small.py": """
import subprocess, sys
from ireg.small import emptied
def test_emptied():
    assert emptied([1]) == []
""",
    # Another room's, whose command reads the planted file in a process of its own.
    "tests/test_run.py": """
import subprocess, sys
def test_is_small():
    code = "from ireg.small import is_small; print(is_small(9), is_small(11))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True False\\n"
""",
    "tests/test_config.py": "import ireg.small\ndef test_of_another_machine():\n    assert False\n",
    "tests/equivalents.toml": """
[[equivalent]]
file = "ireg/small.py"
before = "return n < 10"
after = "return n <= 10"
reason = "n is never 10"
""",
}
TABLE = """
room | planted | equivalent | killed | survived | rate
---|---|---|---|---|---
small | 6 | 1 | 3 | 2 | 60%
all | 6 | 1 | 3 | 2 | 60%
"""
SURVIVED = """
ireg/small.py:7 (constant)
  - return values[0]
  + return values[-1]
"""


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.slow
def test_a_small_package(package, capsys, monkeypatch):
    """Killed: a doctest's, a process's, an endless loop. Tests that fail without an error count for nothing."""
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    records = package / "outputs" / "mutants-0.jsonl"
    command.main(["--seconds=3", "--sample=3"], root=package, slow=())
    with records.open("a") as file:
        file.write('{"mutant": ["ireg/sm')  # interrupted
    command.main(["--seconds=3"], root=package, slow=())
    output = capsys.readouterr().out
    assert TABLE in output
    assert SURVIVED in output
    assert output.count("timeout: ireg/small.py:16") == 1
    assert output.count("killed: ") == 2
    assert output.count("survived: ") == 2
    assert output.count("without an error they fail or take too long: tests/test_config.py") == 1
    assert {path: path.read_bytes() for path in package.rglob("*") if path.is_file() and path != records} == before

    monkeypatch.setattr(command, "judge", None)  # all stands in the records
    command.main([], root=package, slow=())
    assert capsys.readouterr().out.startswith(TABLE.strip())


def test_wrong_rooms(package, capsys):
    with pytest.raises(SystemExit):
        command.main(["--room=core"], root=package)
    assert "--room core: no such folder or file in ireg/" in capsys.readouterr().err
