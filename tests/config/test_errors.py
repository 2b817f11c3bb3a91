"""What Hydra refuses is one line with the key and the value, and what the line advises works."""

import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from yaml import YAMLError

from ireg.config.errors import explain, overrides_first, require_options
from ireg.config.read import read
from ireg.config.schema import GROUPS
from ireg.system.errors import UserError
from tests.conftest import ROOT


def explained(call):
    """The line of the error that a call raises."""
    with pytest.raises((HydraException, UserError, ValueError, TypeError, YAMLError)) as error:
        call()
    line = explain(error.value)
    assert line is not None
    assert "\n" not in line
    return line


# What is written, what the line holds, and what it advises.
REFUSED = [
    ("optimizer=nesterow", "optimizer=nesterow.*did you mean nesterov.*rmsprop", "optimizer=nesterov"),
    ("data=mine", "data=mine.*choose one of cifar10, digits", "data=digits"),
    ("terms=[sgdd]", "terms=sgdd.*--help", "terms=[sgd]"),
    ("optimizer=null", "choice|group.*--help", "optimizer=adagrad"),
    ("terms=null", "group.*NoneType.*terms=\\[\\]", "terms=[]"),
    ("terms=[sgd,1]", "int.*name.*--help", "terms=[sgd,default]"),
    ("~optimizer", "optimizer: none is chosen.*optimizer=sgd", "optimizer=sgd"),
    ("~data", "data: none is chosen.*data=mnist10k", "data=mnist10k"),
    ("+experiment=demo", "Multiple values for experiment.*leave \\+ out", "experiment=demo"),
    ("++optimizer=adam", "\\+\\+optimizer=adam", "optimizer=adam"),
    ("+lr=1", "already at 'lr'.*'\\+\\+lr=1'", "++lr=1"),
    ("lr=abc", "lr=abc.*Float", "lr=0.1"),
    ("epochs=1.5", "epochs=1.5.*Integer", "epochs=1"),
    ("lr=1,2", "lr=1,2.*-m to sweep", "lr=1"),
    ("lr", "lr: .*key=value", "lr=1"),
    ("batchsize=3", "batchsize: no such key, did you mean batch_size", "batch_size=3"),
    ("optimizer.eps=1", "optimizer.eps: no such key.*\\+\\+optimizer.eps=…", "++optimizer.eps=1"),
    ("trainer.profiler=simple", "trainer.profiler: .*\\+\\+trainer.profiler=…", "++trainer.profiler=simple"),
    ("trainer.max_epochs=2", "trainer.max_epochs: .*epochs=…", "epochs=2"),
    ("+trainer.max_epochs=2", "trainer.max_epochs=2: .*epochs=…", "epochs=2"),
    ("trainer.max_steps=2", "trainer.max_steps: .*max_steps=… terms", "max_steps=2 terms.every_n_steps=1"),
    ("max_steps=2", "terms.every_n_steps=None: .*an integer of at least 1", "max_steps=2 terms.every_n_steps=2"),
    ("trainer.foo=2", "trainer.foo: .*supported are accelerator, benchmark", "++trainer.benchmark=true"),
    ("+trainer.accumulate_grad_batches=2", "batch_size=…", "batch_size=128"),
    ("+trainer.limit_train_batches=2", "data.train_size=…", "data.train_size=128"),
    ("+trainer.limit_val_batches=2", "data.test_size=…", "data.test_size=128"),
    ("+trainer.check_val_every_n_epoch=2", "terms.every=…", "terms.every=2"),
    ("+trainer.enable_checkpointing=false", "checkpoint.every=…", "checkpoint.every=10"),
    ("+trainer.default_root_dir=a", "hydra.run.dir=…", "hydra.run.dir=a"),
    ("+trainer.fast_dev_run=true", "epochs=1 data.train_size=500", "epochs=1 data.train_size=500 data.test_size=200"),
    ("trainer.devices=[0]", "trainer.devices=\\[0\\]: .*trainer.devices=1 ", "trainer.devices=1"),
    ("+trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_val=1", "++trainer.gradient_clip_val=1"),
    ("terms.ireg.sgd=3", "terms.ireg.sgd=3: .*null", "terms.ireg.sgd=null"),
    ("terms.ireg=1", "terms.ireg=1: .*null", "terms.ireg=null"),
    ("model._target_=null", "model._target_=None: .*ireg.models.MLP", "model._target_=ireg.models.MLP"),
]


@pytest.mark.parametrize(("written", "line", "advised"), REFUSED, ids=[written for written, _, _ in REFUSED])
def test_what_the_line_advises_is_taken(composed, written, line, advised):
    assert re.search(line, explained(lambda: read(composed(written))))
    read(composed(*advised.split()))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_two_pluses_are_taken_by_every_optimizer_of_a_sweep(composed, optimizer):
    assert read(composed(f"optimizer={optimizer}", "++optimizer.eps=1e-7")).optimizer["eps"] == 1e-7


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n  y: [\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        said = explained(lambda: compose("config"))
    assert said == f'mapping values are not allowed here in "{tmp_path}/config.yaml", line 2, column 4'


def test_another_error_is_not_explained():
    for error in (ValueError("of the program's own"), TypeError("of the program's own")):
        assert explain(error) is None
        with pytest.raises(type(error)) as raised:
            raise error
        assert explain(raised.value) is None


def test_a_configuration_that_is_not_there():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert "-cn demo: no such file" in explained(lambda: compose("demo"))


def test_the_groups_are_those_of_conf():
    assert set(GROUPS) == {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {"hydra"} | {"terms"}


def test_overrides_may_stand_before_and_after_options():
    given = ["epochs=1", "-m", "-cn", "config", "seed=0,1", "--package", "model", "~logger", "--cfg=job"]
    expected = ["epochs=1", "seed=0,1", "~logger", "-m", "-cn", "config", "--package", "model", "--cfg=job"]
    assert overrides_first(given) == expected
    assert overrides_first(["-m", "~logger", "lr"]) == ["~logger", "lr", "-m"]


@pytest.mark.parametrize("option", [["-cn", "experiment/demo"], ["--config-name=experiment/demo", "lr=1"]])
def test_a_part_of_the_configuration_is_not_the_whole(option):
    with pytest.raises(UserError, match="^-cn experiment/demo: .*experiment=demo$"):
        overrides_first(["-m", *option])
    assert overrides_first(["-cn", "mine/config"]) == ["-cn", "mine/config"]


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--epochs=3", "--epochs=3: no such option; keys have no dashes, write epochs=…"),
        ("--optimizer adam", "--optimizer: no such option; keys have no dashes, write optimizer=…"),
        ("-lr 0.1", "-lr: no such option; keys have no dashes, write lr=…"),
        ("--data.holdout 3", "--data.holdout: no such option; keys have no dashes, write data.holdout=…"),
        ("--multrun", "--multrun: no such option, did you mean --multirun?; python train.py --help lists the keys"),
        ("--zz", "--zz: no such option; python train.py --help lists the keys"),
        ("--cfg jobs", "argument --cfg/-c: invalid choice: 'jobs' (choose from job, hydra, all); "),
    ],
)
def test_a_wrong_option_is_one_line(capsys, option, line):
    with pytest.raises(UserError) as refused:
        require_options(overrides_first(["lr=1", *option.split()]))
    assert re.sub("'(job|hydra|all)'", r"\1", str(refused.value)).startswith(line)  # quoted by some versions
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("options", ["-m", "--multirun", "--cfg job", "-c job -p data", "--info", "-sc install=bash"])
def test_hydras_own_options_are_taken(options):
    require_options(overrides_first(["lr=1", *options.split()]))


def test_a_text_of_hydras_own_is_one_line():
    """Of an error that no cause and no kind explains."""
    assert explain(HydraException("What Hydra\n  says")) == "What Hydra says"
