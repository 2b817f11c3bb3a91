import pytest
from omegaconf import OmegaConf

from ireg.sweeps.names import MAX_LENGTH, folder_of, of_optimizer, register, run_name
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


def test_an_experiment_has_values_by_optimizer():
    rates = {"sgd": 0.32, "adam": 1e-3}
    assert of_optimizer(rates, "adam") == 1e-3
    with pytest.raises(
        UserError, match=r"^optimizer=lion: this experiment has a rate for sgd, adam alone; give lr=…, too$"
    ):
        of_optimizer(rates, "lion")
