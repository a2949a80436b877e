"""The shell: options agree with the functions behind them, results arrive, errors are one clear message."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import SMALLEST

from omnimouse import OmniMouseConfig, OmniMouseModel, __version__
from omnimouse.cli import demo
from omnimouse.cli.main import main
from omnimouse.cli.output import hint
from omnimouse.cli.parser import build_parser
from omnimouse.corpus.downloading import download_sessions
from omnimouse.evaluation import Predictions, evaluate, predict
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import open_recording
from omnimouse.recordings.simulation.simulated import simulate_recording
from omnimouse.training import FinetuneRecipe, anneal, finetune, train

COMMANDS = (
    "demo", "simulate", "list", "download", "check", "finetune", "train", "anneal", "evaluate", "predict", "convert",
    "export", "push", "info",
)  # fmt: skip
N_NEURONS = 12


@pytest.fixture(scope="module")
def recording_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings") / "mouse"
    simulate_recording(folder, 5, n_neurons=N_NEURONS, minutes=2.5, animal="cli")
    return folder


@pytest.fixture(scope="module")
def core_folder(tmp_path_factory):
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST))
    model.processor = OmniMouseProcessor(profile="strict")
    folder = tmp_path_factory.mktemp("models") / "core"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finetuned(recording_folder, core_folder, tmp_path_factory):
    """Output folder of a short `omnimouse finetune`."""
    folder = tmp_path_factory.mktemp("finetuned")
    assert main(finetune_command(recording_folder, core_folder, folder)) == 0
    return folder


def finetune_command(recording, core, output, *more):
    """A run of two steps on what is cheapest to compute."""
    return [
        "finetune", str(recording), "--core", str(core), "--output", str(output), "--steps", "2", "--batch-size", "2",
        "--masks", "forecasting", "--validation-tier", "none", *more,
    ]  # fmt: skip


def run(capsys, *argv):
    """Exit status, standard output and standard error of a command."""
    capsys.readouterr()
    status = main([str(arg) for arg in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# The parser.


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_command_does_and_gives_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "example" in text and f"\n  omnimouse {command}" in text


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {command} " in text for command in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"omnimouse {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        [], ["train-a-mouse"], ["check"], ["finetune", "folder"], ["check", "folder", "--x"], ["demo", "--steps", "0"],
        ["finetune", "f", "--output", "o", "--steps", "2.5"], ["evaluate", "f", "--max-windows", "-1"],
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "usage: omnimouse" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "function", "own_options"),
    [
        (["simulate", "f"], simulate_recording, {"n_neurons", "minutes"}),
        (["finetune", "f", "--output", "o"], finetune, {"core", "json", "output_dir", "revision"}),
        (["train", "r.yaml"], train, {"json", "overrides"}),
        (["anneal", "r", "--at", "1"], anneal, {"json", "overrides"}),
        (["download", "k", "--output", "o"], download_sessions, {"collections", "dry_run", "json"}),
        (["evaluate", "f"], evaluate, {"core", "session_adapter", "output", "cpu", "json", "revision"}),
        (
            ["predict", "f", "--task", "t", "--output", "o.npz"],
            predict,
            {"core", "session_adapter", "output", "cpu", "json", "revision"},
        ),
    ],
)
def test_options_have_the_names_and_defaults_of_the_function(argv, function, own_options):
    options = vars(build_parser().parse_args(argv))
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    if function is finetune:  # the fields of its recipe are keywords of it
        defaults |= {field.name: field.default for field in dataclasses.fields(FinetuneRecipe)}
    same = {"auto": True, ("train",): ["train"]}
    compared = 0
    for name, value in options.items():
        if name in own_options | {"command", "debug"}:
            continue
        assert name in defaults, f"--{name} is no argument of {function.__name__}"
        default = defaults[name]
        if default is not inspect.Parameter.empty:
            assert value in (default, same.get(default)), name
            compared += 1
    assert compared >= 1


# check and info.


def test_check_describes_a_sound_recording(recording_folder, capsys):
    status, out, _ = run(capsys, "check", recording_folder)
    assert status == 0
    assert f"{N_NEURONS} neurons" in out and "final_test" in out and "30.00 Hz" in out and "Sound" in out


def test_check_json_is_all_there_is_on_standard_output(recording_folder, capsys):
    status, out, _ = run(capsys, "check", recording_folder, "--json")
    report = json.loads(out)
    assert status == 0 and report["sound"] is True
    recording = open_recording(recording_folder)
    assert report["recording"]["session_key"] == recording.session_key
    assert report["recording"]["n_neurons"] == N_NEURONS
    assert list(report["recording"]["tiers"]) == recording.tiers
    counted = sum(tier["trials"] for tier in report["recording"]["tiers"].values())
    assert counted == sum(trial.tier is not None for trial in recording.trials)
    assert report["recording"]["tiers"]["train"]["windows"] > 0


def test_check_lists_all_fatal_findings_and_exits_with_1(recording_folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(recording_folder, broken)
    (broken / "responses" / "data.npy").unlink()
    (broken / "screen" / "timestamps.npy").unlink()
    status, out, _ = run(capsys, "check", broken)
    assert status == 1
    fatal = [line for line in out.splitlines() if line.startswith("fatal")]
    assert any("responses" in line for line in fatal) and any("timestamps" in line for line in fatal)
    status, out, _ = run(capsys, "check", broken, "--json")
    report = json.loads(out)
    assert status == 1 and report["sound"] is False and report["recording"] is None
    assert set(report["findings"][0]) == {"severity", "path", "field", "expected", "found", "what_to_do"}


def test_check_of_a_missing_folder_is_fatal(tmp_path, capsys):
    status, out, _ = run(capsys, "check", tmp_path / "nowhere")
    assert status == 1 and "nowhere" in out


def test_info_without_a_name_lists_versions_models_and_tasks(capsys):
    status, out, _ = run(capsys, "info", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["versions"]["omnimouse"] == __version__ and report["versions"]["torch"] == torch.__version__
    assert "omnimouse-tiny" in report["models"] and "stimulus+behavior" in report["tasks"]
    status, out, _ = run(capsys, "info")
    assert status == 0 and "omnimouse-tiny" in out


def test_info_knows_recordings_models_and_session_adapters(recording_folder, core_folder, finetuned, capsys):
    key = open_recording(recording_folder).session_key
    for folder, kind in (
        (recording_folder, "recording"),
        (core_folder, "model"),
        (finetuned / "adapter", "session adapter"),
    ):
        status, out, _ = run(capsys, "info", folder, "--json")
        assert status == 0 and json.loads(out)["kind"] == kind
    model = OmniMouseModel.from_pretrained(core_folder)
    n_parameters = model.num_core_parameters()
    assert f"{n_parameters:,} parameters in the core" in run(capsys, "info", core_folder)[1]
    assert key in run(capsys, "info", recording_folder)[1]
    assert f"{N_NEURONS} x {SMALLEST['identity_size']}" in run(capsys, "info", finetuned / "adapter")[1]


# finetune, evaluate, predict.


def test_finetune_saves_an_adapter_that_evaluate_and_predict_use(recording_folder, finetuned, tmp_path, capsys):
    adapter = finetuned / "adapter"
    assert (adapter / "adapter_config.json").is_file() and (finetuned / "history.jsonl").is_file()
    common = [recording_folder, "--session-adapter", adapter, "--tier", "validation", "--max-windows", "2"]

    status, out, _ = run(
        capsys, "evaluate", *common, "--tasks", "forecasting", "--output", tmp_path / "s.json", "--json"
    )
    assert status == 0
    scores = json.loads(out)
    assert list(scores["tasks"]) == ["forecasting"] and scores["tier"] == "validation"
    stored = json.loads((tmp_path / "s.json").read_text())
    assert len(stored["tasks"]["forecasting"]["per_neuron"]) == N_NEURONS
    assert stored["tasks"]["forecasting"]["score"] == scores["tasks"]["forecasting"]["score"]

    status, out, _ = run(capsys, "evaluate", *common, "--tasks", "forecasting")
    assert status == 0 and "forecasting" in out and "ceiling" in out

    status, out, _ = run(capsys, "predict", *common, "--task", "forecasting", "--output", tmp_path / "p.npz", "--json")
    assert status == 0
    shapes = json.loads(out)["arrays"]
    predictions = Predictions.load(tmp_path / "p.npz")
    assert predictions.predictions.shape == tuple(shapes["predictions"]) == (2, 30, N_NEURONS)
    assert np.isfinite(predictions.predictions).all()


def test_train_core_saves_a_whole_model_that_needs_no_adapter(recording_folder, core_folder, tmp_path, capsys):
    command = finetune_command(recording_folder, core_folder, tmp_path / "out", "--train-core", "--json")
    status, out, _ = run(capsys, *command)
    assert status == 0
    assert json.loads(out)["saved"] == str(tmp_path / "out" / "model")
    key = open_recording(recording_folder).session_key
    trained = OmniMouseModel.from_pretrained(tmp_path / "out" / "model", sessions="all")
    assert trained.session_keys == [key]
    assert trained.core_hash() != OmniMouseModel.from_pretrained(core_folder).core_hash()
    status, out, _ = run(
        capsys, "evaluate", recording_folder, "--core", tmp_path / "out" / "model", "--tasks", "forecasting",
        "--tier", "validation", "--max-windows", "1", "--json",
    )  # fmt: skip
    assert status == 0 and json.loads(out)["session_key"] == key


def test_the_same_finetune_again_does_not_train_again_and_another_is_refused(
    recording_folder, core_folder, finetuned, capsys
):
    before = (finetuned / "adapter" / "adapter_model.safetensors").read_bytes()
    status, out, _ = run(capsys, *finetune_command(recording_folder, core_folder, finetuned, "--json"))
    assert status == 0 and json.loads(out)["resumed_from"] == 2
    assert (finetuned / "adapter" / "adapter_model.safetensors").read_bytes() == before
    status, _, err = run(capsys, *finetune_command(recording_folder, core_folder, finetuned, "--seed", "1"))
    assert status == 2 and "seed" in err


# Errors.


def test_errors_are_messages_that_say_what_to_do(recording_folder, core_folder, finetuned, tmp_path, capsys):
    adapter = finetuned / "adapter"
    other_mouse = tmp_path / "other"
    simulate_recording(other_mouse, 6, n_neurons=N_NEURONS, minutes=2, animal="other")
    torch.manual_seed(1)
    OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST)).save_pretrained(tmp_path / "other-core")
    (tmp_path / "empty").mkdir()
    use = ["--session-adapter", adapter]
    npz = ["--output", tmp_path / "p.npz"]
    cases = [
        (["evaluate", recording_folder], ["--session-adapter", "--core"]),
        (["evaluate", recording_folder, "--core", core_folder], ["no session", "no sessions at all"]),
        (["evaluate", recording_folder, "--core", "omnimouse-giant"], ["omnimouse-giant", "omnimouse-tiny"]),
        (["evaluate", recording_folder, *use, "--tier", "test"], ["'test'", "final_test"]),
        (["evaluate", recording_folder, *use, "--tasks", "forcasting"], ["forcasting", "forecasting"]),
        (["evaluate", recording_folder, *use, "--core", tmp_path / "other-core"], ["another core"]),
        (["evaluate", recording_folder, "--session-adapter", core_folder], ["adapter"]),
        (["evaluate", other_mouse, *use], ["cli-1-1", "other-1-1"]),
        (["evaluate", tmp_path / "empty", *use], ["empty"]),
        (["predict", recording_folder, *use, "--task", "nonsense", *npz], ["nonsense", "stimulus"]),
        (["predict", recording_folder, *use, "--task", "stimulus", "--output", "p.csv"], ["p.csv", ".npz"]),
        (["finetune", recording_folder, "--core", tmp_path / "empty", "--output", tmp_path / "x"], ["config.json"]),
        (["evaluate", recording_folder, "--session-adapter", finetuned], ["not a session adapter", str(adapter)]),
        (["evaluate", recording_folder, *use, "--output", tmp_path / "empty"], ["a folder", "name of a file"]),
        (["evaluate", recording_folder, *use, "--output", recording_folder / "s.json"], ["never written to"]),
        (
            ["predict", recording_folder, *use, "--task", "stimulus", "--output", recording_folder / "p.npz"],
            ["never written to"],
        ),
        (finetune_command(recording_folder, core_folder, recording_folder), ["never written to"]),
        (finetune_command(recording_folder, core_folder, core_folder / "config.json"), ["is a file"]),
        (finetune_command(recording_folder, core_folder, tmp_path / "x", "--masks", ","), ["masks is empty"]),
        (["simulate", recording_folder], [str(recording_folder)]),
        (["info", tmp_path / "nowhere"], ["nowhere", "omnimouse-tiny"]),
        (["info", tmp_path / "empty"], ["empty folder"]),
    ]
    for argv, expected in cases:
        status, out, err = run(capsys, *argv)
        assert status == 2, f"{argv}: {out}{err}"
        assert err.splitlines()[-1].startswith("omnimouse: error:") or "omnimouse: error:" in err, argv
        assert "Traceback" not in err and out == "", argv
        for part in expected:
            assert part in err, f"{argv}: {part!r} is not in {err!r}"


def test_failed_commands_leave_nothing_behind(recording_folder, core_folder, tmp_path, capsys):
    before = sorted(path.name for path in recording_folder.rglob("*"))
    output = tmp_path / "x"
    assert run(capsys, *finetune_command(recording_folder, core_folder, output, "--train-tiers", "none"))[0] == 2
    assert run(capsys, *finetune_command(recording_folder, core_folder, recording_folder))[0] == 2
    assert not output.exists()
    assert sorted(path.name for path in recording_folder.rglob("*")) == before


@pytest.mark.parametrize(
    "error, expected",
    [
        (RuntimeError("CUDA out of memory. Tried to allocate"), "--batch-size"),
        (MemoryError(), "--batch-size"),
        (KeyError("x"), "KeyError: 'x' (this was not foreseen"),
    ],
)
def test_errors_that_were_not_foreseen_are_one_line_too(error, expected, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("omnimouse.cli.describe.describe_path", fail)
    status, _, err = run(capsys, "info", tmp_path)
    assert status == 2 and expected in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_character_that_the_terminal_lacks_costs_that_character_only(encoding, tmp_path, monkeypatch):
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    assert main(["check", str(tmp_path / "実験")]) == 1
    assert main(["info", str(tmp_path / "実験")]) == 2
    for stream in streams.values():
        stream.flush()
        assert b"\\u5b9f\\u9a13" in stream.buffer.getvalue()


def test_debug_shows_the_traceback(tmp_path, capsys):
    status, _, err = run(capsys, "info", tmp_path / "nowhere", "--debug")
    assert status == 2 and "Traceback" in err


def test_a_truncated_weight_file_is_named(core_folder, finetuned, tmp_path, capsys):
    for source, name in ((core_folder, "model.safetensors"), (finetuned / "adapter", "adapter_model.safetensors")):
        broken = tmp_path / name.partition(".")[0]
        shutil.copytree(source, broken)
        (broken / name).write_bytes((source / name).read_bytes()[:100])
        status, _, err = run(capsys, "info", broken)
        assert status == 2 and name in err


# Hints.


def follow(capsys, text: str):
    """Runs the hint at the end of what a command printed, as a shell would read it."""
    program, *words = shlex.split(text.strip().splitlines()[-1].partition(" with: ")[2])
    assert Path(program).name.startswith(("omnimouse", "python"))
    if words[:2] == ["-m", "omnimouse"]:
        words = words[2:]
    status, out, err = run(capsys, *words)
    assert status == 0, err
    return out


def test_hints_work_as_they_are_printed(recording_folder, core_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(capsys, "simulate", "my mouse's/first day", "--n-neurons", "4", "--minutes", "1")
    assert "first day" in follow(capsys, out)
    shutil.copytree(recording_folder, "second day")
    _, out, _ = run(capsys, *finetune_command("second day", core_folder, "an output"))
    assert f"--core {core_folder} --session-adapter 'an output/adapter'" in out
    assert "population" in follow(capsys, out)
    _, out, _ = run(capsys, *finetune_command("second day", core_folder, "third", "--train-core"))
    assert "population" in follow(capsys, out)
    tiers = [*open_recording("second day").tiers]
    _, out, _ = run(capsys, *finetune_command("second day", core_folder, "4", "--train-tiers", ",".join(tiers)))
    assert out.endswith("no tier left to score it on, whose responses are known and were not trained on\n")


@pytest.mark.parametrize(
    ("on_path", "beside", "expected"),
    [
        ("bin/omnimouse", True, "omnimouse"),
        (None, True, "my venv/bin/omnimouse"),
        ("other", True, "my venv/bin/omnimouse"),
        (None, False, "my venv/bin/python -m omnimouse"),
        ("other", False, "omnimouse"),
    ],
)
def test_hints_name_the_program_by_what_the_shell_would_find(on_path, beside, expected, tmp_path, monkeypatch):
    bin_folder = tmp_path / "my venv" / "bin"
    bin_folder.mkdir(parents=True)
    (tmp_path / "other").touch()
    if beside:
        (bin_folder / "omnimouse").touch()
    found = {None: None, "other": tmp_path / "other"}.get(on_path, bin_folder / "omnimouse")
    monkeypatch.setattr(shutil, "which", lambda _: found and str(found))
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(hint("check", "a b"))
    assert words[-2:] == ["check", "a b"]
    assert " ".join(words[:-2]).removeprefix(f"{tmp_path}/") == expected


# The demonstration.


def test_demo_writes_report_scores_and_adapter(core_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "CORE", str(core_folder))
    monkeypatch.setattr(demo, "TASKS", ("forecasting",))
    monkeypatch.setattr(demo, "TRACE_TASKS", ("forecasting",))
    monkeypatch.setattr(demo, "TRACE_WINDOWS", 1)
    output = tmp_path / "demo"
    argv = ["demo", "--output", output, "--minutes", "2", "--n-neurons", N_NEURONS, "--steps", "1"]
    status, out, _ = run(capsys, *argv)
    assert status == 0
    assert "forecasting" in out and str(output / "report.html") in out and "omnimouse finetune" in out
    parts = re.search(r"^Time: +(.*); \d+ s in all$", out, re.MULTILINE)[1]
    told = ["simulation", "loading", "preparation", "steps", "validation", "scoring", "report"]
    assert re.findall("[a-z]+(?= [0-9]+ s)", parts) == told
    assert {path.name for path in output.iterdir()} == set(demo.PARTS)
    report = (output / "report.html").read_text()
    assert "<img" in report and "http://" not in report and "https://" not in report
    assert run(capsys, "info", output / "adapter")[0] == 0

    scores = (output / "scores.json").read_bytes()
    assert run(capsys, *argv)[0] == 0, "the same demo again"
    assert (output / "scores.json").read_bytes() == scores
    status, _, err = run(capsys, *argv, "--seed", "3")
    assert status == 2 and "--force" in err


def test_demo_leaves_other_folders_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    for force in ([], ["--force"]):
        status, _, err = run(capsys, "demo", "--output", tmp_path, *force)
        assert status == 2 and "not empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_force_removes_only_what_the_demo_wrote(tmp_path):
    settings = demo.DemoSettings(seed=1)
    demo.claim_folder(tmp_path, settings, force=False)
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "adapter").mkdir()
    demo.claim_folder(tmp_path, settings, force=False)
    assert (tmp_path / "adapter").is_dir()
    other = demo.DemoSettings(seed=2)  # the folder holds an adapter already
    with pytest.raises(ValueError, match="--force"):
        demo.claim_folder(tmp_path, other, force=False)
    demo.claim_folder(tmp_path, other, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.json", "mine.txt"]
    assert json.loads((tmp_path / "demo.json").read_text())["seed"] == 2


def test_a_demo_that_failed_before_it_wrote_anything_is_no_obstacle(tmp_path, capsys):
    status, _, err = run(capsys, "demo", "--output", tmp_path, "--minutes", "0")
    assert status == 2 and "minutes" in err
    demo.claim_folder(tmp_path, demo.DemoSettings(), force=False)
    assert json.loads((tmp_path / "demo.json").read_text())["n_neurons"] == demo.DemoSettings().n_neurons


def _called(monkeypatch, name, command):
    """Keyword arguments with which a command calls a public function."""
    found = {}

    def note(*_, **arguments):
        found.update(arguments)
        raise ValueError("called")

    for module in ("omnimouse.training", "omnimouse.evaluation"):
        if name in vars(sys.modules[module]):
            monkeypatch.setattr(sys.modules[module], name, note)
    assert main([str(part) for part in command]) == 2
    return found


def test_options_of_finetune_reach_it(recording_folder, core_folder, tmp_path, monkeypatch):
    options = {"steps": 3, "batch-size": 2, "patience": 4, "seed": 6, "session-learning-rate": 0.5}
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    command = ["finetune", recording_folder, "--output", tmp_path / "o", "--core", core_folder, *flags]
    found = _called(monkeypatch, "finetune", command)
    assert {name: found[name.replace("-", "_")] for name in options} == options


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_options_of_scoring_reach_it(recording_folder, finetuned, tmp_path, monkeypatch, name):
    options = {"tier": "oracle", "stride": 7, "batch-size": 2, "max-windows": 5}
    flags = [part for option, value in options.items() for part in (f"--{option}", value)]
    more = ["--task", "stimulus", "--output", tmp_path / "p.npz"] if name == "predict" else []
    command = [name, recording_folder, "--session-adapter", finetuned / "adapter", *flags, *more]
    found = _called(monkeypatch, name, command)
    assert {option: found[option.replace("-", "_")] for option in options} == options


def test_help_names_a_default_of_zero(capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    assert "windows and masks of every step (default: 0)" in " ".join(capsys.readouterr().out.split())
