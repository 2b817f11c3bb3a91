"""`python -m ireg.verify`."""

import sys
from dataclasses import replace

import pytest

from ireg import verify
from ireg.certify import CERTIFICATES, command
from ireg.certify.certificate import Coefficient, Curve
from ireg.certify.derivatives import NETWORKS
from ireg.certify.edges import Edge
from ireg.certify.epochs import EpochResult
from ireg.certify.exchange import Order
from ireg.certify.identity import Identity
from ireg.certify.logged import Comparison
from ireg.terms.named import TERMS


def test_options_are_checked_by_the_names_that_there_are():
    assert verify.PARTS == (command.CERTIFICATES_ONLY, *command.SECTIONS)
    assert list(verify.WITH_RULE) == list(dict.fromkeys(certificate.optimizer for certificate in CERTIFICATES))


def test_a_wrong_option_does_not_wait_for_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ireg.certify.command", None)
    assert verify.main(["--only", "edge"]) == 2
    assert capsys.readouterr().err.endswith(", networks, did you mean edges?\n")
    with pytest.raises(ImportError):
        verify.main(["--only", "edges"])


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_table_and_no_file(capsys, tmp_path):
    assert verify.main(["--optimizer", "gd", "--jobs", "1"]) == 0
    out, err = capsys.readouterr()
    assert "Barrett & Dherin 2021" in out
    assert "1/1" in out
    assert "holds" in out
    assert "1 of 1 certificates hold" in out
    assert err == ""
    assert "\x1b" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_range_of_rates_and_a_figure(capsys, tmp_path):
    path = tmp_path / "figures" / "errors.png"
    arguments = ["--optimizer", "gd", "--jobs", "1", "--lr-range", "0.005", "0.02", "--plot", str(path)]
    assert verify.main(arguments) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_rates_beyond_the_expansion_fail_and_say_why(capsys):
    assert verify.main(["--optimizer", "gd", "--jobs", "1", "--lr-range", "0.5", "1"]) == 1
    out = capsys.readouterr().out
    assert "FAILS" in out
    assert "gd, full batch: C + (η_e/4)(1+2L)‖ḡ‖²_P: the slope of the modified flow is not within 1.85 to 2.15" in out
    assert "0 of 1 certificates hold" in out


def test_a_control_that_is_not_rejected_fails(capsys, monkeypatch):
    right = CERTIFICATES[0].run()
    accepted = Curve(errors=(1.0, 0.25), slope=2.0, uncertainty=0.0)
    outcome = type(right)(**(vars(right) | {"controls": {"a wrong flow": accepted}}))
    monkeypatch.setattr(command, "run", lambda *arguments, **keywords: {0: outcome})
    assert verify.main(["--optimizer", "gd"]) == 1
    assert "not rejected: a wrong flow (slope 2.00)" in capsys.readouterr().out


def test_the_networks_derivatives(capsys, monkeypatch):
    monkeypatch.setattr(command, "run", lambda *arguments, **keywords: {})
    monkeypatch.setattr(command, "of_optimizers", lambda: {"sgd": Edge(2.0, 2.0, ())})
    monkeypatch.setattr(command, "all_identities", lambda: {"growth": Identity(0.0)})
    monkeypatch.setattr(command, "all_exchanges", lambda: {"SAM": Order(order=2, slope=2.0, controls={"half": 1.0})})
    monkeypatch.setattr(command, "all_drawings", lambda: {"SGD": Order(order=3, slope=3.0, controls={"wrong": 2.0})})
    monkeypatch.setattr(command, "all_schedules", lambda: {"SGD": Order(order=3, slope=3.1, controls={"mean": 2.1})})
    monkeypatch.setattr(command, "all_norms", lambda: {"lion": Order(order=2, slope=1.9, controls={"L": 1.0})})
    monkeypatch.setattr(command, "all_clipped", lambda: {"clip": Order(order=2, slope=2.0, controls={})})
    monkeypatch.setattr(command, "all_fluctuations", lambda: {"muon": Order(order=3, slope=3.0, controls={"τ": 2.0})})
    right = [Comparison(tag=tag, where="sgd", error=0.0) for tag in TERMS]
    monkeypatch.setattr(command, "all_logged", lambda: right)
    epoch = EpochResult(
        Order(order=3, slope=2.98, controls={}), {"full_batch": Coefficient(value=0.999, uncertainty=0.0)}
    )
    monkeypatch.setattr(command, "all_epochs", lambda: {"equation 1": epoch})
    assert verify.main([]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 edges hold" in out
    assert "1 of 1 identities hold" in out
    assert "1 of 1 exchanges hold" in out
    assert "1 of 1 drawings hold" in out
    assert "1 of 1 schedules hold" in out
    assert "2 of 2 norms hold" in out
    assert "φ*: 2.1601 by singular values, 1.7936 as ⟨∇C, T(∇C)⟩ of these steps" in out
    assert "1 of 1 fluctuations hold" in out
    assert f"{len(TERMS)} of {len(TERMS)} logged values are right" in out
    assert "1 of 1 epochs hold" in out
    assert "half 1.00" in out
    assert f"{len(NETWORKS)} of {len(NETWORKS)} networks have right derivatives, to 1e-05" in out
    monkeypatch.setattr(command, "of_networks", lambda: {"vit": (1e-9, 1e-9, 0.1)})
    assert verify.main([]) == 1
    assert "WRONG" in (out := capsys.readouterr().out)
    assert "0 of 1 networks" in out
    monkeypatch.setattr(command, "of_networks", lambda: {"vit": (1e-9, 1e-9, 1e-9)})
    monkeypatch.setattr(command, "of_optimizers", lambda: {"sgd": Edge(2.0, 2.1, ())})
    assert verify.main([]) == 1
    monkeypatch.setattr(command, "of_optimizers", lambda: {"sgd": Edge(2.0, 2.0, ())})
    monkeypatch.setattr(command, "all_identities", lambda: {"growth": Identity(1.0)})
    assert verify.main([]) == 1
    monkeypatch.setattr(command, "all_identities", lambda: {"growth": Identity(0.0)})
    monkeypatch.setattr(command, "all_drawings", lambda: {"SGD": Order(order=3, slope=2.0, controls={"wrong": 2.0})})
    assert verify.main([]) == 1
    assert verify.main(["--only", "edges", "logged"]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 edges hold" in out[out.rindex("logged values are right") :]
    wrong = Comparison(tag="ireg/sgd", where="adam", error=1.0)
    monkeypatch.setattr(command, "all_logged", lambda: [*right, wrong])
    assert verify.main(["--only", "logged"]) == 1
    assert "identities" not in capsys.readouterr().out
    monkeypatch.setattr(command, "all_logged", lambda: right)
    far = {"equation 1": EpochResult(epoch.order, {"full_batch": Coefficient(value=0.9, uncertainty=0.0)})}
    monkeypatch.setattr(command, "all_epochs", lambda: far)
    assert verify.main(["--only", "logged"]) == 1


def test_a_part_of_another_size_fails_and_says_which(capsys, monkeypatch):
    right = CERTIFICATES[0].run()
    shares = {"‖ḡ‖²": Coefficient(value=1.0, uncertainty=0.0), "Var": Coefficient(value=0.9, uncertainty=0.001)}
    outcome = replace(right, coefficients=shares)
    monkeypatch.setattr(command, "run", lambda *arguments, **keywords: {0: outcome})
    assert verify.main(["--optimizer", "gd"]) == 1
    out = capsys.readouterr().out
    assert f"{CERTIFICATES[0].name}: the measured share of Var is 0.900 ± 0.001; must be 1 to 0.02" in out
    assert "the measured share of ‖ḡ‖²" not in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--optimizer", "adan"], "--optimizer adan: no certificate for it; choose among sgd, momentum, "),
        (["--lr-range", "low", "0.1"], "--lr-range low 0.1: must be two numbers, like 0.001 0.01"),
        (["--lr-range", "0.1", "0.01"], "--lr-range 0.1 0.01: must rise, between 0.0001 and 1, like 0.001 0.01"),
        (["--lr-range", "1e-9", "0.01"], "--lr-range 1e-9 0.01: must rise, between"),
        (["--lr-range", "nan", "0.01"], "--lr-range nan 0.01: must rise, between"),
        (["--plot", "errors.txt"], "--plot errors.txt: must end in .png, .pdf or .svg"),
        (["--jobs", "0"], "--jobs 0: must be a whole number, at least 1"),
        (
            ["--only", "edge"],
            "--only edge: must be one of certificates, logged, edges, identities, penalties, drawings, schedules, "
            "norms, noise, networks",
        ),
        (["--only", "edges", "--optimizer", "gd"], "--only and --optimizer: give one of them; "),
        (
            ["--optimizer", "torch.optim.Adamm"],
            "--optimizer torch.optim.Adamm: torch.optim has no Adamm, did you mean Adam?; write package.module.Class",
        ),
        (["--optimizer", "torch.optm.Adam"], "--optimizer torch.optm.Adam: torch has no optm, did you mean optim?"),
        (["--optimizer", "torch.optim.Adam", "--set", "betaz=1"], "--set betaz=1: Adam has no such argument, did you"),
        (["--optimizer", "torch.optim.Adam", "--set", "betas=1"], "--set betas=1: must be a list of 2 numbers"),
        (["--optimizer", "torch.optim.Adam", "--set", "lr=1"], "--set lr=1: the rates are chosen by what the "),
    ],
)
def test_what_the_user_can_mend_is_one_line(arguments, line, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ireg.certify.command", None)  # which imports torch
    assert verify.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_a_value_that_the_class_refuses_is_one_line(capsys):
    assert verify.main(["--optimizer", "torch.optim.SGD", "--set", "momentum=-1", "nesterov=true"]) == 2
    line = "--optimizer torch.optim.SGD: cannot be made with momentum=-1, nesterov=True: Invalid momentum value: -1"
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_figure_that_fails_costs_no_table(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("ireg.analysis.certificates.errors_against_rate", lambda curves: 1 / 0)
    assert verify.main(["--optimizer", "gd", "--jobs", "1", "--plot", "errors.svg"]) == 0
    out, err = capsys.readouterr()
    assert "1 of 1 certificates hold" in out
    assert err == "figure errors cannot be drawn: ZeroDivisionError: division by zero\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_figure(tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    assert verify.main(["--plot", "folder.png"]) == 2
    assert "error: --plot folder.png: cannot be written; choose another place" in capsys.readouterr().err


@pytest.mark.slow
def test_several_at_a_time_find_the_same():
    chosen = [k for k, certificate in enumerate(CERTIFICATES) if certificate.optimizer == "sgd"]
    assert len(chosen) == 2
    assert command.run(chosen, (0.01, 0.005), jobs=2) == command.run(chosen, (0.01, 0.005), jobs=1)


@pytest.mark.parametrize(("cores", "jobs"), [(7, 7), (None, 1)])
def test_as_many_jobs_as_cores(monkeypatch, cores, jobs):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert command._jobs(None) == jobs
