"""What Hydra refuses is one line, and what the line advises works."""

import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from yaml import YAMLError

from ireg.config.composition import GROUPS, check_config_name
from ireg.config.errors import explain
from ireg.config.read import read
from ireg.system.errors import UserError
from tests.test_config import CONF


def explained(call):
    """The line of the error that a call raises."""
    with pytest.raises((HydraException, UserError, ValueError, TypeError, YAMLError)) as error:
        call()
    line = explain(error.value)
    assert line is not None
    assert "\n" not in line
    return line


# What is written, the line's beginning, and what it advises.
REFUSED = [
    (
        "optimizer=null",
        "optimizer=null: choose one of adafactor, adagrad, adam, adamw, gd, momentum, ",
        "optimizer=adagrad",
    ),
    (
        "data=1",
        "data=1: choose one of cifar10, digits, fashion10k, .*, separable, or leave it out",
        "data=mnist10k",
    ),
    (
        "model=null",
        "model=null: choose one of cnn, linear, mlp, resnet, vit, or leave it out for the default",
        "model=mlp",
    ),
    ("trainer=1.5", "trainer=1.5: choose one of default, or leave it out for the default", "trainer=default"),
    ("experiment=null", "experiment=null: choose one of architectures, basins, datasets, ", "experiment=demo"),
    ("+data=null", "\\+data=null: choose one of ", "data=mnist"),
    ("terms=null", "terms=null: choose one of .*; terms=\\[\\] is none of them", "terms=[]"),
    ("terms=[sgd,1]", "terms=\\[1\\]: choose one of .*, default, .*, sgd, ", "terms=[sgd,default]"),
    ("optimizer=[null]", "optimizer=\\[null\\]: choose one of adafactor, ", "optimizer=adam"),
    ("hydra/launcher=null", "hydra/launcher=null: choose one of basic, joblib, ", "hydra/launcher=joblib"),
    ("~optimizer", "optimizer: none is chosen; choose one, like optimizer=sgd", "optimizer=sgd"),
    ("~data", "data: none is chosen; choose one, like data=mnist10k", "data=mnist10k"),
    ("~model", "model: none is chosen; choose one, like model=mlp", "model=mlp"),
    ("~trainer", "trainer: none is chosen; choose one, like trainer=default", "trainer=default"),
    (
        "+experiment=demo",
        "\\+experiment=demo: experiment has a choice already; write experiment=demo ",
        "experiment=demo",
    ),
    ("++optimizer=adam", "\\+\\+optimizer=adam: write optimizer=adam, which replaces ", "optimizer=adam"),
    ("+lr=1", "lr: has a value already; write \\+\\+lr=…", "++lr=1"),
    (
        "optimizer.eps=1",
        "optimizer.eps: no such key; if .* of the optimizer, write \\+\\+optimizer.eps=…",
        "++optimizer.eps=1",
    ),
    ("model.bias=1", "model.bias: no such key; if .* of the model, write \\+\\+model.bias=…", "++model.bias=1"),
    (
        "trainer.profiler=simple",
        "trainer.profiler: no such key; .* \\+\\+trainer.profiler=…",
        "++trainer.profiler=simple",
    ),
    ("trainer.max_epochs=2", "trainer.max_epochs: not supported; use epochs=…", "epochs=2"),
    ("+trainer.max_epochs=2", "trainer.max_epochs=2: not supported; use epochs=…", "epochs=2"),
    ("max_epochs=2", "max_epochs: no such key; use epochs=…", "epochs=2"),
    ("max_steps=2", "max_steps: no such key; use epochs=…", "epochs=2"),
    ("trainer.foo=2", "trainer.foo: not supported; supported are accelerator, benchmark, ", "++trainer.benchmark=true"),
    ("+trainer.accumulate_grad_batches=2", ".*: not supported; batch_size=… is", "batch_size=128"),
    ("+trainer.limit_train_batches=2", ".*: not supported; data.train_size=… takes a part", "data.train_size=128"),
    ("+trainer.limit_val_batches=2", ".*: not supported; data.test_size=… takes a part", "data.test_size=128"),
    ("+trainer.check_val_every_n_epoch=2", ".* terms.every=… measures the terms less often", "terms.every=2"),
    ("+trainer.enable_checkpointing=false", ".*: not supported; checkpoint.every=… says", "checkpoint.every=10"),
    ("+trainer.default_root_dir=a", ".*: not supported; hydra.run.dir=… is the run's folder", "hydra.run.dir=a"),
    (
        "+trainer.fast_dev_run=true",
        ".*: not supported; use epochs=1 data.train_size=500 data.test_size=200",
        "epochs=1 data.train_size=500 data.test_size=200",
    ),
    ("trainer.devices=[0]", "trainer.devices=\\[0\\]: a run uses one device: trainer.devices=1 ", "trainer.devices=1"),
    (
        "+trainer.gradient_clip_algorithm=value",
        ".*: clips nothing without a bound; add it, like \\+\\+trainer.gradient_clip_val=1",
        "+trainer.gradient_clip_algorithm=value ++trainer.gradient_clip_val=1",
    ),
    ("terms.ireg.sgd=3", "terms.ireg.sgd=3: .*, or be null to leave the term out", "terms.ireg.sgd=null"),
    ("terms.ireg=1", "terms.ireg=1: .*; null is none of them", "terms.ireg=null"),
    (
        "model._target_=null",
        "model._target_=None: .*, like ireg.models.MLP",
        "model._target_=ireg.models.MLP",
    ),
]


@pytest.mark.parametrize(("written", "line", "advised"), REFUSED, ids=[written for written, _, _ in REFUSED])
def test_what_the_line_advises_is_taken(composed, written, line, advised):
    said = explained(lambda: read(composed(written)))
    assert re.match(line, said), said
    read(composed(*advised.split()))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_two_pluses_are_taken_by_every_optimizer_of_a_sweep(composed, optimizer):
    config = composed(f"optimizer={optimizer}", "++optimizer.eps=1e-7")
    assert read(config).optimizer["eps"] == 1e-7
    said = explained(lambda: composed("optimizer=adam", "+optimizer.eps=1e-7"))
    assert said == "optimizer.eps: has a value already; write ++optimizer.eps=…"


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n  y: [\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        said = explained(lambda: compose("config"))
    assert said == f'mapping values are not allowed here in "{tmp_path}/config.yaml", line 2, column 4'


def test_another_error_is_not_explained():
    assert explain(ValueError("of the program's own")) is None
    assert explain(TypeError("of the program's own")) is None


@pytest.mark.parametrize("option", [["-cn", "experiment/demo"], ["--config-name=experiment/demo", "lr=1"]])
def test_a_part_of_the_configuration_is_not_the_whole(composed, option):
    line = "^-cn experiment/demo: a part of the configuration is not the whole; write experiment=demo$"
    with pytest.raises(UserError, match=line):
        check_config_name(["-m", *option])
    assert read(composed("experiment=demo")).name == "demo"


@pytest.mark.parametrize("arguments", [[], ["lr=1"], ["-cn"], ["-cn", "mine"], ["-cn", "mine/config"]])
def test_a_whole_configuration_is_taken(arguments):
    check_config_name(arguments)


def test_a_configuration_that_is_not_there():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        said = explained(lambda: compose("demo"))
    assert said.startswith("-cn demo: no such file in conf; leave -cn out, and choose parts of the configuration, like")


def test_the_groups_are_those_of_conf():
    assert set(GROUPS) == {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"} | {"terms"}
