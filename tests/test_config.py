"""Every file of conf/ composes, is used, and is refused out of its range."""

import inspect
import re
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate

from ireg.config.read import read
from ireg.config.schema import LOSSES, METHODS, NOISE_KINDS, SAMPLINGS, SMALLEST_SAMPLE, active_terms
from ireg.config.trainer_arguments import FUSED
from ireg.core import drawing, moments
from ireg.data import labels
from ireg.objective import CRITERIA
from ireg.optim import Switch
from ireg.system.errors import UserError
from tests.test_regularizers import RUNS

CONF = Path(__file__).parents[1] / "conf"


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_the_fixed_defaults(composed):
    settings = read(composed())
    assert (settings.lr, settings.batch_size, settings.epochs, settings.seed, settings.threads) == (1e-3, 64, 300, 0, 1)
    assert (settings.optimizer["name"], settings.data.name) == ("sgd", "mnist10k")
    assert (settings.data.noise.kind, settings.data.noise.rate) == ("symmetric", 0.3)
    assert settings.model["hidden"] == [256] * 4


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
    expected_class, expected = OPTIMIZERS[name]
    if expected_class is None:
        pytest.skip(f"NOT TESTED: {name} needs a newer torch")
    optimizer = instantiate(arguments)([torch.nn.Parameter(torch.zeros(1, 1))])
    assert type(optimizer) is expected_class
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.125
    assert {key: list(group[key]) if key == "betas" else group[key] for key in expected} == expected


# Training examples, test examples, classes, and whether the package holds it.
DATA = {
    "mnist10k": (10_000, 10_000, 10, True),
    "fashion10k": (10_000, 10_000, 10, True),
    "digits": (1_437, 360, 10, True),
    "separable": (200, 1_000, 2, True),
    "cifar10": (50_000, 10_000, 10, False),
    "mnist": (60_000, 10_000, 10, False),
    "fashion_mnist": (60_000, 10_000, 10, False),
    "kmnist": (60_000, 10_000, 10, False),
}


@pytest.mark.parametrize("name", options("data"))
def test_data_set(composed, name):
    data = read(composed(f"data={name}")).data
    assert data.name == name
    assert (data.num_train, data.num_test, data.num_classes, data.root is None) == DATA[name]
    assert data.source.get("root") == data.root
    if name != "separable":  # made, not read
        assert read(composed(f"data={name}", "data.root=elsewhere")).data.source["root"] == "elsewhere"


def test_the_experiment_on_theory(composed):
    config = composed("experiment=theory", hydra=True)
    settings = read(config)
    assert (settings.name, settings.epochs, settings.terms["every"]) == ("theory", 300, 10)
    assert "strength" in settings.terms["ireg"]
    assert config.hydra.mode.name == "MULTIRUN"
    assert config.hydra.sweeper.params == {"optimizer": "adam,rmsprop,momentum,sgd", "lr": "1e-3,1e-6"}


@pytest.mark.parametrize(
    ("name", "axis", "epochs"),
    [
        ("architectures", {"model": "resnet,vit,cnn,mlp,linear"}, 50),
        ("datasets", {"data": "mnist10k,fashion10k,digits"}, 300),
    ],
)
def test_the_experiments_beyond_the_papers_network_and_data(composed, name, axis, epochs):
    config = composed(f"experiment={name}", hydra=True)
    assert (read(config).name, read(config).epochs) == (name, epochs)
    assert config.hydra.mode.name == "MULTIRUN"
    assert config.hydra.sweeper.params == {"optimizer": "adam,rmsprop,sgd", **axis}


def test_the_experiment_at_the_edge(composed):
    settings = read(composed("experiment=edge", "optimizer=momentum", "lr=0.3"))
    assert (settings.name, settings.data.name, settings.optimizer["full_batch"]) == ("edge", "digits", True)
    assert settings.optimizer["momentum"] == 0.9
    assert settings.model["activation"] == "tanh"
    names = ("lambda_max", "lambda_max_residual", "lambda_max_products", "preconditioned_sharpness", "edge_fraction")
    assert set(active_terms(settings.terms)) == {f"curvature/{name}" for name in names}


def test_the_experiment_with_spikes(composed):
    settings = read(composed("experiment=spikes"))
    assert (settings.name, settings.optimizer["name"], settings.optimizer["full_batch"]) == ("spikes", "adam", True)
    assert (settings.loss, settings.terms["every"]) == ("squared_error", 1)
    assert set(active_terms(settings.terms)) == {
        f"curvature/{name}" for name in ("preconditioned_sharpness", "edge_fraction", "along_step")
    }


def test_the_experiment_on_the_drift(composed):
    config = composed("experiment=drift", hydra=True)
    settings = read(config)
    assert (settings.name, settings.epochs, settings.batch_size) == ("drift", 10, 64)
    assert config.hydra.mode.name == "MULTIRUN"
    assert sorted(config.hydra.sweeper.params.optimizer.split(",")) == ["adam", "momentum", "rmsprop", "sgd"]
    assert [float(rate) for rate in config.hydra.sweeper.params.lr.split(",")] == [1e-4, 1e-3, 1e-2, 1e-1]
    assert "joblib" in config.hydra.launcher._target_


@pytest.mark.parametrize(("experiment", "epochs"), [("paper", 300), ("demo", 10)])
def test_experiment(composed, experiment, epochs):
    config = composed(f"experiment={experiment}", hydra=True)
    settings = read(config)
    assert (settings.name, settings.epochs, settings.lr, settings.batch_size) == (experiment, epochs, 1e-3, 64)
    assert config.hydra.mode.name == "MULTIRUN"
    assert sorted(config.hydra.sweeper.params.optimizer.split(",")) == ["adam", "rmsprop", "sgd"]
    assert "joblib" in config.hydra.launcher._target_


def test_the_experiment_on_rates(composed):
    config = composed("experiment=lr_grid", hydra=True)
    settings = read(config)
    assert (settings.name, settings.epochs, settings.batch_size, settings.terms["every"]) == ("lr_grid", 10, 64, 10)
    assert settings.data.holdout == 2000
    assert config.hydra.mode.name == "MULTIRUN"
    params = config.hydra.sweeper.params
    assert sorted(params.optimizer.split(",")) == ["adam", "momentum", "rmsprop", "sgd"]
    rates = [float(rate) for rate in params.lr.split(",")]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1], len(rates)) == (1e-5, 1.0, 11)
    assert params.seed == "0,1,2"
    assert "joblib" in config.hydra.launcher._target_


def test_the_search_for_a_rate(composed):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="NOT TESTED: pip install -e '.[tune]'")
    config = composed("experiment=tune", "optimizer=adam", hydra=True)
    settings = read(config)
    assert (settings.name, settings.epochs, settings.batch_size, settings.objective) == ("tune", 10, 64, "test/error")
    hydra = config.hydra
    assert (hydra.mode.name, hydra.sweep.dir) == ("MULTIRUN", "multirun/tune/adam")
    assert (str(hydra.sweeper.direction), hydra.sweeper.n_trials % hydra.sweeper.n_jobs) == ("minimize", 0)
    assert hydra.sweeper.sampler._target_ == "optuna.samplers.TPESampler"
    assert hydra.sweeper.sampler.seed == 0
    assert hydra.sweeper.params == {"lr": "tag(log, interval(1e-5, 1))"}


# Parameters on images of 28 × 28 and ten classes.
MODELS = {"cnn": 20_586, "linear": 7_850, "mlp": 400_906, "resnet": 77_562, "vit": 71_946}


@pytest.mark.parametrize("name", options("model"))
def test_model(composed, name):
    model = instantiate(read(composed(f"model={name}")).model, input_shape=(1, 28, 28), num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS[name]
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_no_file_is_untested():
    groups = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    assert groups == {
        ".",
        "data",
        "experiment",
        "hydra/hydra_logging",
        "hydra/job_logging",
        "hydra/launcher",
        "logger",
        "model",
        "optimizer",
        "regularizer",
        "trainer",
    }
    assert options("regularizer") == sorted(["none", *RUNS])
    assert options("optimizer") == sorted(OPTIMIZERS)
    assert options("data") == sorted(DATA)
    assert options("experiment") == [
        "architectures",
        "basins",
        "datasets",
        "demo",
        "drift",
        "edge",
        "explicit",
        "lr_grid",
        "paper",
        "separable",
        "spikes",
        "study_batches",
        "study_end",
        "study_final",
        "study_networks",
        "study_start",
        "study_ties",
        "study_tuning",
        "swats",
        "theory",
        "tune",
    ]
    assert options("model") == sorted(MODELS)
    assert options("trainer") == ["default"]


def test_lists_of_choices_are_those_of_the_core():
    """They stand twice, because the configuration is checked before torch is imported."""
    assert set(NOISE_KINDS) == set(labels.NOISE_KINDS)
    assert set(METHODS) == {"auto", *moments.METHODS}
    assert list(LOSSES) == list(CRITERIA)
    assert SAMPLINGS == drawing.SAMPLINGS
    assert SMALLEST_SAMPLE == moments.SMALLEST


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("lr=-1", r"lr=-1.0: must be a finite number > 0; set it like lr=1e-3"),
        ("lr=0", "lr=0.0: must be"),
        ("lr=nan", "lr=nan: must be"),
        ("lr=inf", "lr=inf: must be"),
        ("optimizer.lr=0.1", r"optimizer.lr=0.1: the learning rate is set at the top level only \(lr=0.001 there\)"),
        ("batch_size=0", "batch_size=0: must be an integer of at least 1"),
        ("batch_size=10001", "batch_size=10001: must be at most 10000, the number of training examples"),
        ("epochs=-1", "epochs=-1: must be an integer of at least 1"),
        ("epochs=0", "epochs=0: must be"),
        ("seed=-1", r"seed=-1: must be an integer in \[0, 4294967295\]"),
        ("threads=0", "threads=0: must be"),
        ("threads=100000", "threads=100000: must be at most 1024; as many as the machine has cores is enough"),
        ("name=a/b", "name='a/b': must be a folder name"),
        ("name=..", "name='..': must be a folder name"),
        ("name=''", "name='': must be a folder name"),
        ("name=-rf", "name='-rf': must be a folder name"),
        ("name='~'", "name='~': must be a folder name"),
        ("name='a\nb'", r"name='a\\nb': must be a folder name"),
        ("name='a\x1b[2Jb'", r"name='a\\x1b\[2Jb': must be a folder name"),
        ("data.holdout=10000", r"data.holdout=10000: must be an integer in \[1, 9999\], so that training examples are"),
        ("objective=holdout/error", "objective=holdout/error: there are no held-out examples; set data.h"),
        ("data.holdout=0", r"data.holdout=0: must be an integer in \[1, 9999\]"),
        ("data.train_size=10001", r"data.train_size=10001: must be an integer in \[1, 10000\], the number of train"),
        ("data.test_size=0", r"data.test_size=0: must be an integer in \[1, 10000\]"),
        ("data.eval_batch_size=0", "data.eval_batch_size=0: must be"),
        ("data.subset_seed=-1", "data.subset_seed=-1: must be"),
        ("data.noise.seed=-1", "data.noise.seed=-1: must be"),
        ("data.noise.kind=salt", "data.noise.kind=salt: choose one of symmetric, uniform, pairflip, none"),
        ("data.noise.rate=1.5", r"data.noise.rate=1.5: must be a share in \[0, 1\]"),
        ("data.noise.test_rate=-0.1", r"data.noise.test_rate=-0.1: must be a share in \[0, 1\]"),
        ("terms.every=0", "terms.every=0: must be an integer of at least 1"),
        ("terms.every=often", "terms.every=often: must be an integer"),
        ("terms.method=magic", "terms.method=magic: choose one of auto, loop, vmap, ghost, layers"),
        ("model.hidden=256", r"model.hidden=256: must be a list of integers of at least 1, like \[256,256\]"),
        ("model.hidden=[0]", r"model.hidden=\[0\]: must be a list"),
        ("data.std=0", "data.std=0: must be a finite number > 0"),
        ("data.mean=nan", "data.mean=nan: must be a finite number"),
        ("data.mean=[0.5,inf]", "data.mean=.*: must be a finite number, or a list with one a channel"),
        ("data.std=[0.5,0]", "data.std=.*: must be a finite number > 0, or a list with one a channel"),
        ("data.std=wide", "data.std=wide: must be a finite number > 0"),
        ("+trainer.barebones=true", "trainer.barebones=True: not supported; supported are accelerator, "),
        ("+trainer.max_steps=3", "trainer.max_steps=3: not supported; use epochs=…$"),
        ("+trainer.strategy=ddp", "trainer.strategy=ddp: not supported; a run uses one device"),
        (
            "trainer.precision=16-true",
            "trainer.precision=16-true: choose one of 32-true, 64-true, 16-mixed, bf16-mixed",
        ),
        ("trainer.devices=2", "trainer.devices=2: a run uses one device: trainer.devices=1 "),
        ("trainer.devices=[0]", r"trainer.devices=\[0\]: a run uses one device: trainer.devices=1 "),
        ("trainer.devices=true", "trainer.devices=True: a run uses one device"),
        ("trainer.devices=1.0", "trainer.devices=1.0: a run uses one device"),
        ("trainer.fused=maybe", "trainer.fused=maybe: choose one of auto, true, false$"),
        ("trainer.fused=1", "trainer.fused=1: choose one of auto, true, false$"),
        ("+trainer.benchmark=maybe", "trainer.benchmark=maybe: choose one of true, false, null$"),
        ("+trainer.detect_anomaly=maybe", "trainer.detect_anomaly=maybe: choose one of true, false$"),
        ("+trainer.deterministic=maybe", "trainer.deterministic=maybe: choose one of true, false, warn, null$"),
        ("+trainer.profiler=xla", "trainer.profiler=xla: choose one of simple, advanced, pytorch, null$"),
        ("+trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1: must be a finite number > 0, or 0 or null"),
        ("+trainer.gradient_clip_val=nan", "trainer.gradient_clip_val=nan: must be"),
        ("+trainer.gradient_clip_val=inf", "trainer.gradient_clip_val=inf: must be"),
        ("+trainer.gradient_clip_val=true", "trainer.gradient_clip_val=True: must be"),
        ("+trainer.gradient_clip_val=abc", "trainer.gradient_clip_val=abc: must be"),
        ("+trainer.gradient_clip_algorithm=3", "trainer.gradient_clip_algorithm=3: choose one of norm, value, null$"),
        ("+trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_algorithm=value: clips nothing without a"),
        ("terms.num_batches=2", "terms.num_batches=2: must be an integer of at least 3, or null for all minibatches"),
        ("terms.num_batches=true", "terms.num_batches=True: must be an integer"),
        ("terms.every=true", "terms.every=True: must be an integer"),
        ("model.hidden=[true]", r"model.hidden=\[True\]: must be a list"),
        ("+optimizer.full_batch=maybe", "optimizer.full_batch=maybe: must be true or false"),
        ("~optimizer._target_", "optimizer._target_=None: must be the import path of what is called"),
        (
            "optimizer._target_=3",
            "optimizer._target_=3: must be the import path of what is called, like torch.optim.SGD",
        ),
        ("~model._target_", "model._target_=None: must be the import path"),
        ("+model._partial_=true", "model._partial_=True: must be false"),
        ("data.source._target_=null", "data.source._target_=None: must be the import path"),
        ("terms.ireg=1", "terms.ireg=1: must hold terms by their names; null is none of them"),
        ("terms.ireg.sgd=3", "terms.ireg.sgd=3: must hold a function's import path in _target_, or be null"),
        ("~terms.ireg.sgd._target_", "terms.ireg.sgd._target_=None: must be the import path of what is called"),
        ("~optimizer.name", "optimizer.name=None: must be a word"),
        ("+typo=1", "typo: no such key; python train.py --help lists the keys"),
        ("name=${nothing}", "nothing"),
    ],
)
def test_values_out_of_range(composed, override, match):
    with pytest.raises(UserError, match=match) as error:
        read(composed(override))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kernel", ["foreach", "fused"])
def test_the_kernel_of_an_optimizer_is_chosen_in_one_place(composed, kernel):
    assert kernel in read(composed(f"+optimizer.{kernel}=false", "trainer.fused=false")).optimizer
    with pytest.raises(UserError, match=f"optimizer.{kernel}=False: trainer.fused=true chooses the optimizer's kernel"):
        read(composed(f"+optimizer.{kernel}=false", "trainer.fused=true"))


FUSED_AND_CLIPPED = ("trainer.fused=true", "trainer.precision=bf16-mixed", "+trainer.gradient_clip_val=1")


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            FUSED_AND_CLIPPED,
            "gradient_clip_val=1: a fused optimizer clips no gradients in bf16-mixed; use trainer.fused=f",
        ),
        ((*FUSED_AND_CLIPPED, "optimizer=adam", "trainer.precision=16-mixed"), "clips no gradients in 16-mixed"),
        (
            (*FUSED_AND_CLIPPED, "trainer.fused=false", "+optimizer.fused=true"),
            "; use optimizer.fused=false or trainer.p",
        ),
        (
            ("trainer.accelerator=cpu", "trainer.precision=16-mixed"),
            "16-mixed: a CPU .*; use trainer.precision=bf16-mixed",
        ),
        (("sampling=independent", "optimizer=gd"), "sampling=independent: with the full batch nothing is drawn; leave"),
        (
            ("sampling=independent", "data.train_size=64"),
            "sampling=independent: an epoch of 64 examples has one minibatch of 64; set a smaller batch_size",
        ),
        (("sampling=iid",), "sampling=iid: choose one of epoch, independent"),
    ],
)
def test_values_that_do_not_go_together(composed, overrides, match):
    with pytest.raises(UserError, match=match) as error:
        read(composed(*overrides))
    assert "\n" not in str(error.value)


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
    read(composed(*FUSED_AND_CLIPPED, *further))


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
    with pytest.raises(UserError, match="objective=ireg/sgd: choose one of train/loss, .*, norm/l2$"):
        read(composed("terms=[sgd,l2]", "terms.ireg.sgd=null", "objective=ireg/sgd"))


@pytest.mark.parametrize("betas", ["[0,0.999]", "[0,0]", "[0.0,0.999]"])
def test_integers_in_a_list_of_an_optimizer_are_floats(composed, betas):
    found = read(composed("optimizer=adam", f"optimizer.betas={betas}")).optimizer["betas"]
    assert [(type(beta), beta) for beta in found] == [(float, 0.0), (float, 0.999 if "9" in betas else 0.0)]


@pytest.mark.parametrize("value", ["[true,0.5]", f"[{2**53 + 1},0.5]", "[null,1]", "[[0],1]"])
def test_other_lists_of_an_optimizer_stay(composed, value):
    expected = yaml.safe_load(value)
    found = read(composed(f"+optimizer.x={value}")).optimizer["x"]
    assert [(type(one), one) for one in found] == [(type(one), one) for one in expected]


def test_the_batch_size_is_held_against_the_subset(composed):
    with pytest.raises(UserError, match="batch_size=64: must be at most 50"):
        read(composed("data.train_size=50"))
    assert read(composed("data.train_size=50", "batch_size=50")).batch_size == 50
    with pytest.raises(UserError, match="batch_size=50: must be at most 49, the number of training examples"):
        read(composed("data.train_size=50", "data.holdout=1", "batch_size=50"))
    assert read(composed("data.train_size=50", "optimizer=gd")).batch_size == 64  # which takes the full batch


def test_loggers(composed):
    assert options("logger") == ["csv", "mlflow", "tensorboard", "wandb"]
    made = {name: read(composed(f"logger={name}", "name=mine")).logger for name in options("logger")}
    assert {name: logger.tensorboard for name, logger in made.items()} == {
        "csv": False, "mlflow": True, "tensorboard": True, "wandb": True,
    }  # fmt: skip
    assert made["tensorboard"].further == made["csv"].further == {}
    assert made["mlflow"].further["experiment_name"] == "mine"
    assert made["wandb"].further["_target_"] == "lightning.pytorch.loggers.WandbLogger"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["logger=csv", "logger.histograms=true"], "logger.histograms=True: needs logger.tensorboard=true"),
        (
            ["+logger.further.project=x"],
            "logger.further._target_=None: must be the import path of what is called, like",
        ),
    ],
)
def test_wrong_loggers_are_refused(composed, overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read(composed(*overrides))
