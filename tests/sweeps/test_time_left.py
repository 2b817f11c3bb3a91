from ireg.sweeps.time_left import time_left


def status(optimizer, done, seconds, *, state="running", took=None, starts=1):
    return {
        "state": state, "epochs": 10, "epochs_done": done, "epoch_seconds": seconds,
        "config": {"optimizer": {"name": optimizer}}, "starts": [{}] * starts,
        "started": "2025-01-01T00:00:00", "ended": took and f"2025-01-01T00:{took // 60:02d}:{took % 60:02d}",
    }  # fmt: skip


def test_a_run_that_waits_takes_as_long_as_its_optimizers_others():
    seen = [status("sgd", 10, 1.0, state="done", took=15), status("adam", 5, 3.0)]
    # 5 epochs of adam, and 5 s beside the epochs of each run that waits.
    assert time_left(seen, waiting=["sgd", "adam"]) == "time left: 1:05"  # 15 + (5 + 10) + (5 + 30)
    assert time_left(seen, waiting=["muon"]) == "time left: 0:50"  # as the slowest so far: 15 + (5 + 30)


def test_a_run_that_was_interrupted_says_nothing_of_starts():
    seen = [status("sgd", 10, 1.0, state="done", took=600, starts=2), status("sgd", 5, 1.0)]
    assert time_left(seen, waiting=["sgd"]) == "time left: 0:17"  # 5 + (2 + 10)


def test_side_by_side_the_slowest_run_counts():
    assert time_left([status("sgd", 9, 1.0), status("adam", 0, 9.0)], at_once=2) == "time left: 1:30"
    assert time_left([status("sgd", 9, 1.0), status("adam", 0, None)], at_once=2) == "time left: 0:10"


def test_before_the_first_epoch_nothing_is_known():
    assert time_left([status("sgd", 0, None)], waiting=["sgd"]) == "time left: unknown yet"
