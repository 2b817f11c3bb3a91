"""Every file of conf/ composes and is read, and values out of range are refused."""

import copy
import inspect
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict

from ireg.config import schema
from ireg.config.read import read
from ireg.config.schema import (
    GROUPS,
    LOSSES,
    METHODS,
    NO_REGULARIZER,
    NOISE_KINDS,
    SAMPLINGS,
    SCHEDULES,
    SMALLEST_SAMPLE,
    active_terms,
)
from ireg.config.trainer_arguments import FUSED, trainer_ranges
from ireg.core import drawing, moments
from ireg.data import labels
from ireg.data.source import read_split
from ireg.data.text import read_blocks
from ireg.lit.data import NoisyImages
from ireg.lit.module import Classifier
from ireg.objective import CRITERIA
from ireg.optim import MuonAdamW, Switch, schedule
from ireg.regularizers import Regularizer
from ireg.system.errors import UserError

CONF = Path(__file__).parents[1] / "conf"


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_the_fixed_defaults(composed):
    settings = read(composed())
    assert (settings.lr, settings.batch_size, settings.epochs, settings.seed, settings.threads) == (1e-3, 64, 300, 0, 1)
    assert (settings.optimizer["name"], settings.data.name) == ("sgd", "mnist10k")
    assert (settings.data.noise.kind, settings.data.noise.rate) == ("symmetric", 0.3)
    assert settings.model["hidden"] == [256] * 4


LIBRARY = import_module("pytorch_optimizer") if find_spec("pytorch_optimizer") else None

# What each optimizer must be, from its documentation: class, and arguments beside lr.
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0, "nesterov": False, "weight_decay": 0}),
    "gd": (torch.optim.SGD, {"momentum": 0, "nesterov": False}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": False, "dampening": 0}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.99, "eps": 1e-8, "momentum": 0, "centered": False}),
    "adagrad": (torch.optim.Adagrad, {"eps": 1e-10}),
    "adam": (torch.optim.Adam, {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0}),
    "adamw": (torch.optim.AdamW, {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}),
    "nadam": (torch.optim.NAdam, {"betas": [0.9, 0.999], "eps": 1e-8, "momentum_decay": 0.004}),
    "adafactor": (torch.optim.Adafactor, {"beta2_decay": -0.8, "d": 1.0, "weight_decay": 0}),
    "switch": (Switch, {"lr": 0.125}),
    "muon": (getattr(torch.optim, "Muon", None), {"momentum": 0.95, "weight_decay": 0}),
    "muon_adamw": (MuonAdamW, {"momentum": 0.95, "weight_decay": 0.01}),
    "lion": (getattr(LIBRARY, "Lion", None), {"betas": [0.9, 0.99], "weight_decay": 0}),
    "signum": (getattr(LIBRARY, "SignSGD", None), {"momentum": 0.9, "weight_decay": 0}),
}


@pytest.mark.parametrize("name", options("optimizer"))
def test_optimizer(composed, name):
    settings = read(composed(f"optimizer={name}", "lr=0.125"))
    assert settings.optimizer["name"] == name
    assert settings.optimizer.get("full_batch", False) == (name == "gd")
    renamed = {"from": "first", "to": "second"}
    arguments = {
        renamed.get(key, key): value for key, value in settings.optimizer.items() if key not in ("name", "full_batch")
    }
    expected_class, expected = OPTIMIZERS.get(name, (torch.optim.Optimizer, {}))
    if expected_class is None:
        pytest.skip(f"NOT TESTED: {name} needs a newer torch, or pip install -e '.[optimizers]'")
    optimizer = instantiate(arguments)([torch.nn.Parameter(torch.zeros(1, 1))])
    assert type(optimizer) is expected_class or (name not in OPTIMIZERS and isinstance(optimizer, expected_class))
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.125
    assert {key: list(group[key]) if key == "betas" else group[key] for key in expected} == expected


@pytest.mark.parametrize("name", options("data"))
def test_data_set(composed, name):
    """What comes with the package is read, too, and has the sizes that its file names."""
    data = read(composed(f"data={name}")).data
    assert data.name == name
    assert data.source.get("root") == data.root
    if data.root is None:
        source = instantiate(data.source)
        for split, count in (("train", data.num_train), ("test", data.num_test)):
            if data.context is not None:
                _, found = read_blocks(
                    source,
                    split,
                    num_examples=(count - 1) // 64,
                    context=64,
                    num_classes=data.num_classes,
                )
                assert found.max() < data.num_classes
                continue
            _, found = read_split(source, split, num_examples=count, num_classes=data.num_classes)
            assert found.unique().tolist() == list(range(data.num_classes))
    if "root" in data.source:
        assert read(composed(f"data={name}", "data.root=elsewhere")).data.source["root"] == "elsewhere"


def axes(name):
    """The values of a sweep's axes, by key; none where the experiment is a single run."""
    text = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    params = yaml.safe_load(text).get("hydra", {}).get("sweeper", {}).get("params", {})
    return {key: str(values).split(",") for key, values in params.items() if "(" not in str(values)}


@pytest.mark.parametrize("name", options("experiment"))
def test_experiment(composed, name):
    """It is read with the last value of each axis, and names its own folder."""
    if name == "tune":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="NOT TESTED: pip install -e '.[tune]'")
    config = composed(f"experiment={name}", *(f"{key}={values[-1]}" for key, values in axes(name).items()), hydra=True)
    assert read(config).name.startswith(name.replace("study_networks", "study_tuning"))
    assert (config.hydra.mode is not None) == (config.hydra.sweeper.params is not None)


# Parameters of the networks of published runs, on images of 28 × 28 or blocks of 64 characters, and ten classes.
MODELS = {"cnn": 20_586, "gpt": 804_106, "linear": 7_850, "mlp": 400_906, "resnet": 77_562, "vit": 71_946}


@pytest.mark.parametrize("name", options("model"))
def test_model(composed, name):
    shape, inputs = (1, 28, 28), torch.rand(2, 1, 28, 28)
    if name == "gpt":
        shape, inputs = (64,), torch.zeros(2, 64, dtype=torch.long)
    model = instantiate(read(composed(f"model={name}")).model, input_shape=shape, num_classes=10)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == MODELS.get(name, count)
    assert model(inputs).shape == ((2, 64, 10) if name == "gpt" else (2, 10))


@pytest.mark.parametrize("name", options("schedule"))
def test_schedule(composed, name):
    settings = read(composed(f"schedule={name}", "schedule.warmup=5")).schedule
    assert (settings.name, settings.warmup, settings.final) == (name, 5, 0.0)


@pytest.mark.parametrize("name", options("weight_average"))
def test_weight_average(composed, name):
    settings = read(composed(f"weight_average={name}")).weight_average
    assert (settings.name, settings.decay) == (name, 0.999)


def test_steps_take_the_place_of_epochs(composed):
    settings = read(
        composed("max_steps=600", "terms.every_n_steps=100", "weight_average=ema", "objective=test/loss_ema")
    )
    assert (settings.epochs, settings.steps, settings.by_steps) == (6, 600, 100)
    assert read(composed("epochs=2")).steps == 2 * 157
    assert read(composed("epochs=2", "optimizer=gd")).steps == 2


@pytest.mark.parametrize("name", options("regularizer"))
def test_regularizer(composed, name):
    missing = [key for key, value in yaml.safe_load((CONF / f"regularizer/{name}.yaml").read_text()).items()
               if value == "???"]  # fmt: skip
    settings = read(composed(f"regularizer={name}", *(f"regularizer.{key}=1" for key in missing))).regularizer
    assert settings.pop("name") == name
    assert name == NO_REGULARIZER or isinstance(instantiate(settings), Regularizer)


def defaults_of(made):
    parameters = inspect.signature(made).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}


OF_SCHEMA = {"schedule": schema.Schedule, "weight_average": schema.WeightAverage, "logger": schema.Logging}
DEFAULTS = {
    "model": {"channels", "groups", "activation", "width", "blocks", "heads", "patch", "dropout"},
    "optimizer": {"tolerance", "relative", "average"},
    "regularizer": {"method", "step", "momentum"},
    "schedule": {"warmup", "final"},
    "weight_average": {"decay"},
    "logger": {"tensorboard", "histograms"},
}
"""Defaults that stand in a file of the group and in a class of this package."""


@pytest.mark.parametrize("group", DEFAULTS)
def test_classes_have_the_defaults_that_their_files_name(group):
    compared = set()
    for name in options(group) if group != "logger" else ["tensorboard"]:  # the others are for those who choose them
        content = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
        module, _, class_name = content.get("_target_", "").rpartition(".")
        if module.startswith("ireg.") or group in OF_SCHEMA:
            own = defaults_of(getattr(import_module(module), class_name) if module else OF_SCHEMA[group])
            for key in own.keys() & content.keys() & DEFAULTS[group]:
                assert (name, key, content[key]) == (name, key, OmegaConf.create([own[key]])[0])
                compared.add(key)
    assert compared == DEFAULTS[group]


def test_classes_have_the_defaults_of_the_configuration(default):
    found = defaults_of(NoisyImages)
    for key in ("train_size", "test_size", "holdout", "subset_seed", "standardize", "eval_batch_size"):
        assert (key, found[key]) == (key, default.data[key])
    assert found["test_noise_rate"] == default.data.noise.test_rate
    assert defaults_of(schedule.Schedule) == {"warmup": default.schedule.warmup, "final": schema.Schedule().final}
    found = defaults_of(Classifier)
    assert (found["terms_every"], found["seed"]) == (default.terms.every, default.seed)


def test_no_file_is_untested():
    """The groups above and their files, and what each run composes."""
    groups = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    assert groups == {".", *GROUPS} - {"terms"} | {"hydra/hydra_logging", "hydra/job_logging", "hydra/launcher"}
    assert options("trainer") == ["default"]


def test_lists_of_choices_are_those_of_the_core():
    """They stand twice, because the configuration is checked before torch is imported."""
    assert set(NOISE_KINDS) == set(labels.NOISE_KINDS)
    assert set(METHODS) == {"auto", *moments.METHODS}
    assert list(LOSSES) == list(CRITERIA)
    assert SAMPLINGS == drawing.SAMPLINGS
    assert SMALLEST_SAMPLE == moments.SMALLEST
    assert SCHEDULES == schedule.SCHEDULES


@pytest.fixture(scope="module")
def default():
    """The default configuration, composed once."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config")


def refused(default, **changes):
    """The line that refuses changes of the default, by key with __ for a dot; None deletes the key."""
    config = copy.deepcopy(default)
    with open_dict(config):
        for name, value in changes.items():
            parent, _, key = name.replace("__", ".").rpartition(".")
            inner = OmegaConf.select(config, parent) if parent else config
            inner.pop(key) if value is None else OmegaConf.update(inner, key, value, force_add=True)
    with pytest.raises(UserError) as error:
        read(config)
    assert "\n" not in str(error.value)
    return str(error.value)


INFINITE, NO_NUMBER = float("inf"), float("nan")
OUT_OF_RANGE = {
    "lr": [-1.0, 0.0, NO_NUMBER, INFINITE],
    "optimizer.lr": [0.1],
    "batch_size": [0, 10_001],
    "epochs": [-1, 0],
    "seed": [-1],
    "threads": [0, 100_000],
    "name": ["a/b", "..", "", "-rf", "~", "a\nb", "a\x1b[2Jb"],
    "objective": ["holdout/error", "nothing"],
    "sampling": ["iid"],
    "loss": ["hinge"],
    "data.holdout": [10_000, 0],
    "data.train_size": [10_001],
    "data.test_size": [0],
    "data.eval_batch_size": [0],
    "data.subset_seed": [-1],
    "data.mean": [NO_NUMBER, [0.5, INFINITE], "wide"],
    "data.std": [0, [0.5, 0], "wide"],
    "data.noise.seed": [-1],
    "data.noise.kind": ["salt"],
    "data.noise.rate": [1.5],
    "data.noise.test_rate": [-0.1],
    "checkpoint.every": [0],
    "max_steps": [0],
    "schedule.name": ["steps"],
    "schedule.warmup": [-1, 300 * 157],
    "schedule.final": [-0.1, 0.1, 1.5],
    "weight_average.name": ["mean"],
    "weight_average.decay": [0.0, 0.5, 1.0],
    "optimizer.decay_groups": ["matrices"],
    "terms.every_n_steps": [10],
    "terms.every": [0, "often", True],
    "terms.method": ["magic"],
    "terms.num_batches": [2, True],
    "terms.by": ["module", True],
    "terms.ireg": [1],
    "terms.ireg.sgd": [3],
    "model.hidden": [256, [0], [True]],
    "model._partial_": [True],
    "trainer.barebones": [True],
    "trainer.max_steps": [3],
    "trainer.strategy": ["ddp"],
    "trainer.precision": ["16-true"],
    "trainer.devices": [2, [0], True, 1.0],
    "trainer.fused": ["maybe", 1],
    "trainer.benchmark": ["maybe"],
    "trainer.detect_anomaly": ["maybe"],
    "trainer.deterministic": ["maybe"],
    "trainer.profiler": ["xla"],
    "trainer.gradient_clip_val": [-1, NO_NUMBER, INFINITE, True, "abc"],
    "trainer.gradient_clip_algorithm": [3, "value"],
    "optimizer.full_batch": ["maybe"],
    "optimizer._target_": [3],
    "logger.histograms": [1],
}
"""Values that are refused, by key."""
ADVICE = (
    *("must be", "must hold", "choose one of", "not supported", "a run uses", "needs", "there are"),
    *("a row every so many steps", "a constant rate", "without an average"),
    *("the learning rate is set at the top level only", "clips nothing"),
)
"""How the line begins that says what is allowed."""


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in OUT_OF_RANGE.items() for value in values])
def test_a_value_out_of_range_is_named(default, key, value):
    changes = {"logger__tensorboard": False} if key == "logger.histograms" else {}
    said, _, advice = refused(default, **{key.replace(".", "__"): value}, **changes).partition(": ")
    name, _, found = said.partition("=")
    assert name == key
    assert found in (str(value), repr(value), str(bool(value)))
    assert advice.startswith(ADVICE)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5, NO_NUMBER])
def test_the_decay_of_an_average_is_below_1(default, decay):
    said = refused(default, weight_average__name="ema", weight_average__decay=decay)
    assert said == f"weight_average.decay={decay}: must be above 0 and below 1, like 0.999"


ALLOWED = {
    "benchmark": [True, False, None],
    "detect_anomaly": [True, False],
    "deterministic": [True, False, "warn", None],
    "fused": ["auto", True, False],
    "precision": ["32-true", "64-true", "bf16-mixed"],
    "profiler": ["simple", "advanced", "pytorch", None],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ALLOWED.items() for value in values])
def test_an_argument_of_the_trainer_is_taken_as_it_is(default, key, value):
    config = copy.deepcopy(default)
    with open_dict(config):
        config.trainer[key] = value
    assert read(config).trainer[key] == value


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("optimizer._target_", "optimizer._target_=None: "),
        ("model._target_", "model._target_=None: "),
        ("terms.ireg.sgd._target_", "terms.ireg.sgd._target_=None: "),
        ("data.source._target_", "data.source._target_=None: "),
        ("optimizer.name", "optimizer.name=None: "),
        ("lr", "optimizer.lr: "),  # which refers to it
    ],
)
def test_a_key_that_is_missing_is_named(default, key, line):
    assert refused(default, **{key.replace(".", "__"): None}).startswith(line)


def test_a_key_that_is_unknown_is_named(default):
    assert refused(default, typo=1).startswith("typo: no such key")
    assert refused(default, name="${nothing}").startswith("name: Interpolation key 'nothing' not found")


@pytest.mark.parametrize("kernel", ["foreach", "fused"])
def test_the_kernel_of_an_optimizer_is_chosen_in_one_place(composed, kernel):
    assert kernel in read(composed(f"+optimizer.{kernel}=false", "trainer.fused=false")).optimizer
    with pytest.raises(UserError, match=f"optimizer.{kernel}=False: trainer.fused=true chooses the optimizer's kernel"):
        read(composed(f"+optimizer.{kernel}=false", "trainer.fused=true"))


@pytest.mark.parametrize("trainer", [{}, {"precision": "bf16-mixed", "gradient_clip_val": 1.0}])
def test_arguments_that_are_not_given_are_allowed(trainer):
    """One of Lightning's own defaults may be given too, or left out."""
    checks = list(trainer_ranges(trainer, {"_target_": "torch.optim.SGD"}))
    assert [check for check in checks if not check[2]] == []
    assert "trainer.devices" in {check[0] for check in checks}


FUSED_AND_CLIPPED = {"trainer__fused": True, "trainer__precision": "bf16-mixed", "trainer__gradient_clip_val": 1}


@pytest.mark.parametrize(
    ("changes", "key", "advice"),
    [
        (FUSED_AND_CLIPPED, "trainer.gradient_clip_val=1", "trainer.fused=false"),
        (
            FUSED_AND_CLIPPED | {"trainer__fused": False, "optimizer__fused": True},
            "trainer.gradient_clip_val=1",
            "optimizer.fused=false",
        ),
        ({"trainer__accelerator": "cpu", "trainer__precision": "16-mixed"}, "trainer.precision", "bf16-mixed"),
        ({"sampling": "independent", "optimizer__full_batch": True}, "sampling=independent", "leave sampling out"),
        ({"sampling": "independent", "data__train_size": 64}, "sampling=independent", "smaller batch_size"),
        ({"logger__tensorboard": False, "logger__histograms": True}, "logger.histograms", "logger.tensorboard=true"),
        ({"logger__further": {"project": "x"}}, "logger.further._target_=None", "WandbLogger"),
        ({"regularizer__strength": 1}, "regularizer.strength=1", "regularizer=minibatch"),
        ({"max_steps": 10}, "terms.every_n_steps=None", "at least 1"),
        ({"max_steps": 10, "terms__every_n_steps": 0}, "terms.every_n_steps=0", "at least 1"),
        ({"max_steps": 10, "terms__every_n_steps": 4}, "max_steps=10", "multiple of terms.every_n_steps=4"),
        (
            {"max_steps": 10, "terms__every_n_steps": 1, "sampling": "independent"},
            "terms.every_n_steps=1",
            "at least 2",
        ),
        (
            {"max_steps": 10, "terms__every_n_steps": 2, "terms__num_batches": 3},
            "terms.every_n_steps=2",
            "at least 3",
        ),
        ({"max_steps": 10, "terms__every_n_steps": 5, "schedule__warmup": 10}, "schedule.warmup=10", "[0, 9]"),
        (
            {"optimizer___target_": "ireg.optim.Switch", "schedule__name": "cosine"},
            "schedule.name=cosine",
            "optimizer=switch sets its rates itself",
        ),
        ({"objective": "test/error_ema"}, "objective=test/error_ema", "choose one of"),
        ({"data__context": 64}, "data.noise.kind=symmetric", "use data.noise.kind=none"),
        (
            {"data__context": 64, "data__noise__kind": "none", "data__standardize": True},
            "data.standardize=True",
            "=false",
        ),
        ({"data__context": 10_000, "data__noise__kind": "none"}, "data.context=10000", "in [1, 9999]"),
        ({"data__context": 0, "data__noise__kind": "none"}, "data.context=0", "in [1, 9999]"),
        (
            {"data__context": 64, "data__noise__kind": "none", "objective": "fit/clean_error"},
            "objective=fit/clean_error",
            "choose one of train/loss",
        ),
        ({"data__train_size": 50}, "batch_size=64", "at most 50"),
        ({"data__train_size": 64, "data__holdout": 1}, "batch_size=64", "at most 63"),
    ],
)
def test_values_that_do_not_go_together(default, changes, key, advice):
    said = refused(default, **changes)
    assert said.startswith(key)
    assert advice in said


@pytest.mark.parametrize(
    "further",
    [
        ("trainer.fused=false",),
        ("trainer.precision=32-true",),
        ("trainer.gradient_clip_val=0",),
        ("trainer.gradient_clip_val=null",),
        ("optimizer=rmsprop",),  # has no fused kernel, and takes its ordinary one
    ],
)
def test_values_that_go_together(composed, further):
    read(composed("trainer.fused=true", "trainer.precision=bf16-mixed", "+trainer.gradient_clip_val=1", *further))


def test_the_full_batch_may_be_smaller_than_the_batch_size(composed):
    assert read(composed("data.train_size=50", "optimizer=gd")).batch_size == 64


def test_fused_kernels_are_those_of_torch():
    """The list stands apart, because the configuration is checked before torch is imported."""
    with_kernel = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and "fused" in inspect.signature(kind).parameters
    }
    assert with_kernel == set(FUSED)


def test_null_switches_a_term_or_a_group_off(composed):
    terms = read(composed("terms=[sgd,full_batch,l2]", "terms.ireg.sgd=null")).terms
    assert set(active_terms(terms)) == {"ireg/full_batch", "norm/l2"}
    assert set(active_terms(read(composed("terms=[sgd,l2]", "terms.ireg=null")).terms)) == {"norm/l2"}
    with pytest.raises(UserError, match="objective=ireg/sgd: .*norm/l2$"):
        read(composed("terms=[sgd,l2]", "terms.ireg.sgd=null", "objective=ireg/sgd"))


@pytest.mark.parametrize(
    "value", ["[0,0.999]", "[0,0]", "[true,0.5]", f"[{2**53},-{2**53}]", f"[{2**53 + 1},0.5]", "[null,1]", "[[0],1]"]
)
def test_numbers_of_a_list_of_an_optimizer_are_floats(composed, value):
    """Integers that no float equals stay, and so do lists of other things."""
    given = yaml.safe_load(value)
    numbers = all(type(one) in (int, float) for one in given)
    expected = [float(one) if numbers and float(one) == one else one for one in given]
    found = read(composed(f"+optimizer.x={value}")).optimizer["x"]
    assert [(type(one), one) for one in found] == [(type(one), one) for one in expected]


@pytest.mark.parametrize("name", options("logger"))
def test_logger(composed, name):
    logger = read(composed(f"logger={name}", "name=mine")).logger
    assert logger.tensorboard == (name != "csv")
    assert bool(logger.further) == (name in ("mlflow", "wandb"))
    assert logger.further.get("experiment_name", "mine") == "mine"
