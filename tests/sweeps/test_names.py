import pytest
from omegaconf import OmegaConf

from ireg.sweeps.names import MAX_LENGTH, folder_of, of_optimizer, quotient, register, run_name
from ireg.system.errors import UserError


@pytest.mark.parametrize(
    ("optimizer", "overrides", "expected"),
    [
        ("sgd", [], "sgd"),
        ("adam", ["optimizer=adam", "experiment=paper", "name=x"], "adam"),
        ("sgd", ["lr=1e-3"], "sgd_lr=0.001"),
        ("sgd", ["lr=0.0010"], "sgd_lr=0.001"),
        ("sgd", ["seed=1", "lr=0.1"], "sgd_lr=0.1_seed=1"),
        ("sgd", ["seed=007"], "sgd_seed=007"),
        (
            "momentum",
            [
                *("threads=2", "seed=1", "terms.every=5", "logger=csv", "epochs=3", "optimizer.momentum=0.8"),
                *("batch_size=16", "data.train_size=50", "lr=0.1", "logger.histograms=true"),
            ],
            "momentum_lr=0.1_batch_size=16_data.train_size=50_optimizer.momentum=0.8"
            "_seed=1_epochs=3_threads=2_terms.every=5",
        ),
        ("sgd", ["model.hidden=[64, 64]"], "sgd_model.hidden=64,64"),
        ("sgd", ["+trainer.gradient_clip_val=1.5"], "sgd_trainer.gradient_clip_val=1.5"),
        ("sgd", ["data.noise.kind=none"], "sgd_data.noise.kind=none"),
    ],
)
def test_name(optimizer, overrides, expected):
    assert run_name(optimizer, overrides) == expected


def test_what_is_lost_is_kept_apart_by_a_hash():
    first, second = run_name("sgd", ["data.root=/a/b"]), run_name("sgd", ["data.root=/a-b"])
    assert first != second
    assert first.startswith("sgd_data.root=-a-b-")
    assert "/" not in first


def test_long_names_are_cut_and_differ():
    long = [f"model.hidden=[{','.join(['256'] * 100)}]"]
    longer = [f"model.hidden=[{','.join(['256'] * 101)}]"]
    names = {run_name("sgd", long), run_name("sgd", longer)}
    assert len(names) == 2
    assert all(len(name) <= MAX_LENGTH for name in names)


def test_a_run_is_found_again_under_its_earlier_name(tmp_path):
    overrides = ["lr=1e-2", "epochs=5", "seed=1"]
    earlier, new = "sgd_epochs=5_lr=0.01_seed=1", "sgd_lr=0.01_seed=1_epochs=5"
    assert folder_of(tmp_path, "sgd", overrides) == new
    (tmp_path / earlier).mkdir()
    assert folder_of(tmp_path, "sgd", overrides) == new  # an empty folder holds no run
    (tmp_path / earlier / "status.json").touch()
    assert folder_of(tmp_path, "sgd", overrides) == earlier
    (tmp_path / new).mkdir()
    assert folder_of(tmp_path, "sgd", overrides) == new


def test_the_configuration_can_use_it(tmp_path):
    register()
    config = OmegaConf.create({"overrides": ["lr=1e-2"], "name": f"${{ireg_run_name:{tmp_path},sgd,${{overrides}}}}"})
    assert config.name == "sgd_lr=0.01"


RATES = "${ireg_of_optimizer:{sgd:0.32,adam:3e-3},${optimizer.name}}"


def composed_name(sweep, optimizer, *overrides, **values):
    """The folder's name where a configuration has these overrides, and these values for them."""
    register()
    name = f"${{ireg_run_name:{sweep},${{optimizer.name}},${{hydra.overrides.task}}}}"
    hydra = {"overrides": {"task": list(overrides)}, "name": name}
    return OmegaConf.create({"optimizer": {"name": optimizer, "eps": 1e-8}, "hydra": hydra, **values}).hydra.name


@pytest.mark.parametrize(
    ("optimizer", "overrides", "values", "expected"),
    [
        ("adam", [f"lr='{RATES}'"], {"lr": RATES}, "adam_lr=0.003"),
        ("sgd", [f'lr="{RATES}"'], {"lr": RATES}, "sgd_lr=0.32"),
        ("sgd", ["lr=${half}"], {"lr": "${half}", "half": 5e-1}, "sgd_lr=0.5"),
        ("sgd", ["++model.width=${.heads}"], {"model": {"width": "${.heads}", "heads": 8}}, "sgd_model.width=8"),
        ("sgd", ["model.hidden=[${n}, 4]"], {"model": {"hidden": ["${n}", 4]}, "n": 8}, "sgd_model.hidden=8,4"),
        ("sgd", ["terms.by=${none}"], {"terms": {"by": "${none}"}, "none": None}, "sgd_terms.by=None"),
        # What refers to nothing keeps its quotes, as before: it may be text.
        ("sgd", ["model.kind='3'"], {"model": {"kind": "3"}}, "sgd_model.kind=-3--347a805b"),
        (
            "sgd",
            ["data.noise=${other}"],
            {"data": {"noise": "${other}"}, "other": {"rate": 1}},
            "sgd_data.noise=-rate-",
        ),
    ],
)
def test_a_value_that_refers_to_others_is_named_as_it_is(tmp_path, optimizer, overrides, values, expected):
    assert composed_name(tmp_path, optimizer, *overrides, **values).startswith(expected)


@pytest.mark.parametrize("earlier", ["adam_lr=-0.003-_epochs=5-35dd3e10", "adam_epochs=5_lr=-0.003--cc54bfc3"])
def test_a_run_whose_name_had_the_quotes_is_found_again(tmp_path, earlier):
    """As earlier versions named it, in either order of the keys."""
    given = ["epochs=5", f"lr='{RATES}'"]
    assert composed_name(tmp_path, "adam", *given, lr=RATES) == "adam_lr=0.003_epochs=5"
    (tmp_path / earlier).mkdir()
    assert composed_name(tmp_path, "adam", *given, lr=RATES) == "adam_lr=0.003_epochs=5"  # no run in it
    (tmp_path / earlier / "status.json").touch()
    assert composed_name(tmp_path, "adam", *given, lr=RATES) == earlier
    (tmp_path / "adam_lr=0.003_epochs=5").mkdir()
    assert composed_name(tmp_path, "adam", *given, lr=RATES) == "adam_lr=0.003_epochs=5"


def test_what_is_given_for_each_optimizer_is_a_mapping():
    with pytest.raises(
        UserError, match=r"^ireg_of_optimizer:0.1: must be values by optimizer, like {sgd:0.1,adam:1e-3}$"
    ):
        of_optimizer(0.1, "sgd")


def test_an_experiment_has_values_by_optimizer():
    rates = {"sgd": 0.32, "adam": 1e-3}
    assert of_optimizer(rates, "adam") == 1e-3
    with pytest.raises(UserError, match=r"^optimizer=lion: there is a rate for sgd, adam alone; give lr=…, too$"):
        of_optimizer(rates, "lion")


@pytest.mark.parametrize(("number", "divisor"), [(1.5, 2), (3, 0), (3, -1), (True, 2), ("3", 2)])
def test_a_quotient_is_of_integers(number, divisor):
    with pytest.raises(UserError, match=f"ireg_quotient:{number},{divisor}: must be two integers, the second positive"):
        quotient(number, divisor)
