"""The same results from any number of processes, and what is said of progress."""

import pytest
import torch

from ireg.drift.orders import follow
from ireg.system import parallel as module
from ireg.system.parallel import LinesOfProgress, Workers, workers
from tests.drift.small import OPTIMIZERS, quadratic


def threads(problem, number):
    return torch.get_num_threads(), number


@pytest.mark.slow
def test_processes_change_nothing_to_the_last_bit(capsys):
    problem = quadratic(OPTIMIZERS["momentum"], batch_size=5, steps=2)
    tasks = [(refinement, order) for refinement in (1, 2) for order in range(3)]
    found = []
    for processes in (1, 2):
        with workers(problem, processes, LinesOfProgress(9)) as team:
            found.append(team.map(follow, tasks, work=[refinement for refinement, _ in tasks]))
            assert team.map(threads, [(1,), (2,)]) == [(1, 1), (1, 2)]
    for alone, shared in zip(*found, strict=True):
        assert [stop.time for stop in alone] == [stop.time for stop in shared]
        assert [stop.values for stop in alone] == [stop.values for stop in shared]
        assert all(torch.equal(a.weights, b.weights) for a, b in zip(alone, shared, strict=True))


def test_in_this_process_the_threads_are_put_back():
    torch.set_num_threads(2)  # a fixture puts back what was
    with workers(quadratic(OPTIMIZERS["sgd"]), 1, LinesOfProgress(1)) as team:
        assert team.map(threads, [(0,)]) == [(1, 0)]
    assert torch.get_num_threads() == 2


def test_results_come_in_the_order_of_the_tasks_and_the_most_work_is_begun_first():
    begun = []

    def note(problem, name):
        begun.append(name)
        return name

    team = Workers(quadratic(OPTIMIZERS["sgd"]), None, LinesOfProgress(6))
    assert team.map(note, [("a",), ("b",), ("c",)], work=[1, 3, 2]) == ["a", "b", "c"]
    assert begun == ["b", "c", "a"]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_reported_after_the_first_order_and_then_each_some_seconds(clock, capsys):
    progress = LinesOfProgress(10)
    progress.add(0)
    assert capsys.readouterr().err == ""
    clock[0] = 20.0
    progress.add(2)
    assert capsys.readouterr().err == "2 of 10 epochs; time left: 1:20\n"
    clock[0] = 25.0
    progress.add(2)
    assert capsys.readouterr().err == ""
    progress.expect(30)
    clock[0] = 30.0
    progress.add(1)
    assert capsys.readouterr().err == "5 of 40 epochs; time left: 3:30\n"
    clock[0] = 100.0
    progress.add(40)
    assert capsys.readouterr().err == "45 epochs\n"


def test_after_an_error_nothing_is_waited_for(monkeypatch):
    done = []

    class Process:
        def terminate(self):
            done.append("terminated")

    class Pool:
        def __init__(self, *arguments, **named):
            self._processes = {7: Process()}

        def shutdown(self, *, cancel_futures):
            done.append(cancel_futures)

    monkeypatch.setattr(module, "ProcessPoolExecutor", Pool)
    with pytest.raises(KeyError), workers(None, 2, LinesOfProgress("orders")):
        raise KeyError
    assert done == ["terminated", True]
    with workers(None, 2, LinesOfProgress("orders")):
        pass
    assert done == ["terminated", True, True]
