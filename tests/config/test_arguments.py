"""Arguments that a class does not take end a command in one line, before torch is imported, and leave nothing."""

import copy
import runpy
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from ireg.config.arguments import IN_PYTHON, OF_MODEL, OF_OPTIMIZER, require_arguments
from ireg.config.read import read
from ireg.config.schema import Data
from ireg.experiment.run import main as run_again
from ireg.system.errors import UserError
from tests.conftest import ROOT, call_train

MATRICES = "; use optimizer=muon_adamw, or model=mlp with +model.bias=false"
ALONE = "takes weights that are matrices alone, and this"
TARGET = "optimizer._target_"
WRONG = {
    "optimizer=muon": f"optimizer=muon: {ALONE} MLP has others{MATRICES}",
    "optimizer=muon model=vit": f"optimizer=muon: {ALONE} ViT has others{MATRICES}",
    "model=vit model.heads=3": "model: heads=3: must divide width=64",
    "model=gpt data=shakespeare model.heads=5": "model: heads=5: must divide width=128",
    "model=gpt data=shakespeare model.dropout=1.0": "model: dropout=1: must be at least 0 and below 1",
    "model=gpt": "model: GPT takes blocks of characters; data=mnist10k holds none; use data=shakespeare",
    "data=shakespeare": "model: MLP takes numbers; data=shakespeare holds characters; use model=gpt",
    "data=shakespeare model=cnn": "model: CNN takes numbers; data=shakespeare holds characters; use model=gpt",
    "model=cnn model.groups=5": "model: groups=5: must be 0, or divide each number of channels, as 16",
    "model=resnet model.channels=[]": "model: channels=[]: must be at least one number above 0",
    "model.activation=rellu": "model: activation=rellu: must be one of relu, tanh, gelu, silu, softplus",
    "model.init_scale=0": "model: init_scale=0: must be a finite number above 0, or 0 for a linear model",
    "model=vit model.heads=four": "model.heads=four: must be an integer",
    "model.depth=3": "model.depth=3: MLP has no such argument; it takes hidden, activation, bias, init_scale",
    "~model.hidden": "model.hidden: MLP needs it; give it a value",
    "model._target_=ireg.models.MPL": "model._target_=ireg.models.MPL: ireg.models has no MPL, did you mean MLP?",
    "optimizer=momentum optimizer.momentum=fast": "optimizer.momentum=fast: must be a number",
    "optimizer=momentum optimizer.momentum=null": "optimizer.momentum=None: must be a number",
    "optimizer.lrr=1": "optimizer.lrr=1: SGD has no such argument, did you mean lr?",
    "optimizer=adam optimizer.betas=[0.9]": "optimizer.betas=[0.9]: must be a list of 2 numbers",
    "optimizer=rmsprop optimizer.centered=perhaps": "optimizer.centered=perhaps: must be true or false",
    "optimizer=switch optimizer.to=[]": "optimizer.to=[]: must be a word",
    f"{TARGET}=torch.optim.SDG": f"{TARGET}=torch.optim.SDG: torch.optim has no SDG, did you mean SGD?",
    f"{TARGET}=torch.optm.SGD": f"{TARGET}=torch.optm.SGD: torch has no optm, did you mean optim?",
    "regularizer=sam regularizer.strength=1 regularizer._target_=ireg.regularizers.L3": "regularizer._target_=ireg.reg",
    "data.source.packed=true": "data.source.packed=True: idx has no such argument; it takes dataset, root, md5, ",
}


@pytest.fixture(scope="module")
def default():
    """The default configuration, composed once."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config")


def changed(default, *overrides):
    """The settings after overrides, which are applied without Hydra: it would take a third of a second each time."""
    config = copy.deepcopy(default)
    with open_dict(config):
        for override in overrides:
            key, _, value = override.partition("=")
            if key.startswith("~"):
                config[key[1:].partition(".")[0]].pop(key.partition(".")[2])
            elif "." in key:
                OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value, force_add=True)
            elif key == "data":
                config.data = OmegaConf.merge(DATA, OmegaConf.load(ROOT / "conf" / "data" / f"{value}.yaml"))
            else:
                config[key] = OmegaConf.load(ROOT / "conf" / key / f"{value}.yaml")
    return read(config)


DATA = OmegaConf.structured(Data)


@pytest.fixture
def refused(monkeypatch, capfd, tmp_path):
    """What `train.py` ends with for these arguments, in this process, where a run cannot begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ireg.experiment.run", None)

    def line(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        with pytest.raises(SystemExit) as ending:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        assert ending.value.code == 2
        assert list(tmp_path.iterdir()) == []
        return capfd.readouterr().err

    return line


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_argument_is_one_line(default, arguments):
    with pytest.raises(UserError) as error:
        require_arguments(changed(default, *arguments.split()))
    assert str(error.value).startswith(WRONG[arguments])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", ["optimizer=muon", "-m model=vit seed=0,1 model.heads=3,4"])
def test_a_command_ends_before_the_run(refused, arguments):
    said = refused(*arguments.split())
    assert said.startswith(("error: optimizer=muon: takes", "error: model: heads=3"))
    assert said.count("\n") == 1


def test_a_command_does_not_wait_for_torch(tmp_path):
    """Torch cannot be imported there: a file of that name is found before it."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')\n")
    result = call_train("model=vit", "model.heads=3", cwd=tmp_path, PYTHONPATH=f"{tmp_path}")
    assert (result.returncode, result.stderr) == (2, "error: model: heads=3: must divide width=64\n")


def test_a_run_again_checks_its_arguments(tmp_path, small_run, capsys):
    with pytest.raises(UserError, match="Muon only supports 2D parameters"):
        small_run(tmp_path / "run", "optimizer=muon")
    assert run_again([str(tmp_path / "run"), "--into", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err == f"error: {WRONG['optimizer=muon']}\n"
    assert not (tmp_path / "other").exists()


def every_choice():
    for group in ("data", "model", "optimizer", "regularizer"):
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            fitting = {"gpt": ["data=shakespeare"], "shakespeare": ["model=gpt"], "muon": ["model.bias=false"]}
            missing = [
                f"regularizer.{line.partition(':')[0]}=1" for line in path.read_text().splitlines() if "???" in line
            ]
            yield [f"{group}={path.stem}", *fitting.get(path.stem, []), *missing]


@pytest.mark.parametrize("overrides", list(every_choice()), ids=" ".join)
def test_every_choice_passes(default, overrides):
    require_arguments(changed(default, *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer.weight_decay=1e-4", "optimizer.nesterov=false", "optimizer.foreach=null"),
        ("optimizer=adam", "optimizer.betas=[0,0.999]", "optimizer.eps=1"),
        ("optimizer=muon", "model=linear", "model.bias=false"),
        ("model=vit", "model.heads=8", "model.width=32"),
        ("optimizer._target_=somewhere.else.SGD", "optimizer.anything=1"),
        ("model._target_=somewhere.else.MLP", "model.anything=1"),
        ("data=shakespeare", "model._target_=somewhere.else.GPT"),
        ("optimizer._args_=[]", "optimizer.anything=1"),
    ],
)
def test_what_may_be_right_passes(default, overrides):
    require_arguments(changed(default, *overrides))


def test_the_names_of_keys_are_those_of_the_classes():
    from ireg.models import MLP
    from ireg.optim import Switch

    assert set(OF_MODEL) <= MLP.__init__.__kwdefaults__.keys() | MLP.__init__.__annotations__.keys()
    assert set(IN_PYTHON.values()) <= Switch.__init__.__annotations__.keys()
    assert not set(OF_OPTIMIZER) & Switch.__init__.__annotations__.keys()


def test_what_only_the_class_can_refuse_is_one_line_too(train, tmp_path):
    """The size of the images is not known before they are read. Hydra says nothing of its own."""
    result = train("model=vit", "model.patch=5", "data=digits", cwd=tmp_path)
    lines = [line for line in result.stderr.splitlines() if " | time left: " not in line]  # progress, once in 10 s
    assert (result.returncode, lines) == (2, ["error: model: patch=5: must divide the 8 × 8 pixels of an image"])
    assert result.stdout == ""
