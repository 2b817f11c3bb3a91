"""Where a run comes from stands in its status."""

import json
import os

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import read_write

from ireg.config.comments import first_comment
from ireg.runs import machine
from ireg.runs.origin import COMMAND, UNKNOWN, Origin, noting_the_command, origin_of, origin_of_this_job
from ireg.runs.status import Status, read_status

CONFIG = {"epochs": 3, "threads": 1}
QUESTION = (
    "Does Adam generalize worse than SGD? Three optimizers on 30 % wrong labels, at equal training loss and at the end"
)


@pytest.fixture
def job(composed):
    """Make a composed configuration the one of Hydra's present job."""
    before = HydraConfig.instance().cfg

    def begin(*overrides):
        config = composed(*overrides, hydra=True)
        HydraConfig.instance().set_config(config)
        return config

    yield begin
    HydraConfig.instance().cfg = before


def test_the_question_is_the_first_comment_of_the_experiment(job):
    job("experiment=demo")
    assert origin_of_this_job() == Origin(None, "demo", QUESTION)
    job()
    assert origin_of_this_job() == UNKNOWN


def test_an_experiment_whose_file_is_gone_has_no_question(job, tmp_path):
    config = job("experiment=demo")
    with read_write(config.hydra):
        for source in config.hydra.runtime.config_sources:
            source.path = str(tmp_path)
    HydraConfig.instance().set_config(config)
    assert origin_of_this_job() == Origin(None, "demo", None)


def test_the_command_is_as_it_was_typed(job):
    job()
    with noting_the_command(["python", "train.py", "-m", "lr=1e-2,1e-1", "model.hidden=[16]"]):
        assert origin_of_this_job().command == "python train.py -m lr=1e-2,1e-1 'model.hidden=[16]'"
        with noting_the_command(["ireg", "train"]):
            assert os.environ[COMMAND] == "ireg train"
        assert origin_of_this_job().command.startswith("python")
    assert COMMAND not in os.environ


def test_a_status_holds_the_origin_and_a_resumed_one_keeps_it(tmp_path):
    Status(tmp_path, CONFIG, Origin("python train.py experiment=demo", "demo", QUESTION))
    resumed = Status(tmp_path, CONFIG).fields
    assert (resumed["experiment"], resumed["question"]) == ("demo", QUESTION)
    assert [start["command"] for start in resumed["starts"]] == ["python train.py experiment=demo", None]
    assert set(resumed["starts"][0]["machine"]) == {"processor", "cores"}
    assert origin_of(read_status(tmp_path)) == Origin(None, "demo", QUESTION)


@pytest.mark.parametrize("wrong", [{"question": 5}, {"starts": [{"command": 5}]}, {"starts": [{"machine": "fast"}]}])
def test_another_origin_is_damage(tmp_path, wrong):
    (tmp_path / "status.json").write_text(json.dumps({"state": "done", "config": CONFIG} | wrong))
    with pytest.raises(Exception, match=f"damaged \\({next(iter(wrong))} is"):
        read_status(tmp_path)


def test_the_processor_is_the_systems(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor() != ""
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Fast 1000\nprocessor\t: 1\nmodel name\t: Fast 1000\n"
    )
    assert machine.machine() == {"processor": "Fast 1000", "cores": os.cpu_count()}


def test_a_file_without_a_comment_says_nothing(tmp_path):
    (tmp_path / "a.yaml").write_text("# @package _global_\nlr: 1\n")
    assert first_comment(tmp_path / "a.yaml") == ""
