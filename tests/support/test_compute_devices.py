"""Devices by name, a model on another one for a while, and `device=` of everything that computes."""

import numpy as np
import pytest
import torch
from small_models import build

from omnimouse import OmniMouseModel, evaluate, evaluation, finetune, predict
from omnimouse.cli.commands import scoring_commands
from omnimouse.cli.main import main
from omnimouse.model import modeling_omnimouse
from omnimouse.recordings.simulation.simulated import simulate_recording
from omnimouse.support import compute_devices
from omnimouse.support.compute_devices import available_devices, computing_on, resolve_device
from omnimouse.training.shared import accelerators

ABSENT = ("cuda:7", "mps:3", "meta", "banana", "CPU", "cpu:2", 0, True)


@pytest.fixture
def gpus(monkeypatch):
    """A machine that seems to have two GPUs of CUDA, the second of them current."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return simulate_recording(tmp_path_factory.mktemp("devices") / "mouse", 1, n_neurons=12, minutes=1.0)


@pytest.fixture
def model(recording):
    model = build()
    model.add_session(recording)
    return model


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, None),
        ("cpu", "cpu"),
        ("cpu:0", "cpu"),
        (torch.device("cpu"), "cpu"),
        ("cuda", "cuda:1"),
        ("cuda:0", "cuda:0"),
        (torch.device("cuda", 1), "cuda:1"),
    ],
)
def test_a_device_that_is_there_is_found_with_its_number(gpus, asked, found):
    assert resolve_device(asked) == (None if found is None else torch.device(found))


@pytest.mark.parametrize("asked", ABSENT)
def test_an_absent_device_is_refused_with_those_there_are(gpus, asked):
    with pytest.raises(ValueError, match=r"device is .*The devices of this machine are cuda:0, cuda:1, (mps, )?cpu\."):
        resolve_device(asked)


def test_cuda_on_a_machine_without_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"device is 'cuda', which this machine .* lacks\. The devices .* cpu\."):
        resolve_device("cuda")
    assert available_devices()[-1] == "cpu"


def test_cpu_and_another_device_contradict_each_other(gpus):
    assert resolve_device(None, cpu=True) == resolve_device("cpu", cpu=True) == torch.device("cpu")
    with pytest.raises(ValueError, match="cpu and device 'cuda:0' contradict each other"):
        resolve_device("cuda:0", cpu=True)


def test_a_model_is_where_it_was_afterwards_with_the_very_tensors_it_had(model):
    before = [*model.parameters(), *model.buffers()]
    with pytest.raises(RuntimeError, match="meanwhile"), computing_on(model, torch.device("meta")):
        assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}
        assert model.device.type == "meta"
        raise RuntimeError("meanwhile")
    after = [*model.parameters(), *model.buffers()]
    assert all(a is b for a, b in zip(after, before, strict=True)) and model.device.type == "cpu"


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_evaluate_and_predict_compute_where_they_are_told_and_put_the_model_back(model, recording, monkeypatch, name):
    """The meta device stands for a GPU: what is computed there is found there, and has no values to be copied back."""
    monkeypatch.setattr(compute_devices, "available_devices", lambda: ["meta", "cpu"])
    call = {"evaluate": evaluate, "predict": predict}[name]
    seen = []
    check = modeling_omnimouse.check_inputs

    def watched(*args, **options):
        seen.append(model.device.type)
        return check(*args, **options)

    monkeypatch.setattr(modeling_omnimouse, "check_inputs", watched)
    options = {"max_windows": 2, "progress": False}
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        call(model, recording, "stimulus", device="meta", **options)
    assert set(seen) == {"meta"} and model.device.type == "cpu"
    seen.clear()
    found, expected = (call(model, recording, "stimulus", device=device, **options) for device in ("cpu", None))
    assert set(seen) == {"cpu"}
    if name == "predict":
        np.testing.assert_array_equal(found.predictions, expected.predictions)
    else:
        assert found.to_dict() == expected.to_dict()


def test_inputs_on_another_device_than_the_model_are_refused(model, recording):
    with pytest.raises(ValueError, match=r"video is on meta, the model on cpu; pass video.to\(model\.device\)"):
        model(recording.session_key, video=torch.empty(1, 1, 60, 36, 64, device="meta"), mask="stimulus")


def test_everything_that_computes_refuses_an_absent_device(model, recording, tmp_path):
    calls = [
        lambda: evaluate(model, recording, "stimulus", device="banana"),
        lambda: predict(model, recording, "stimulus", device="banana"),
        lambda: finetune(model, recording, device="banana", output_dir=tmp_path / "run"),
        lambda: OmniMouseModel.from_pretrained("omnimouse-tiny", device="banana"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"'banana', which names no device.*The devices of this machine are"):
            call()
    assert not (tmp_path / "run").exists()


def test_from_pretrained_puts_core_and_sessions_on_the_device(monkeypatch, model, recording, tmp_path):
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(compute_devices, "available_devices", lambda: ["meta", "cpu"])
    loaded = OmniMouseModel.from_pretrained(tmp_path / "model", sessions="all", device="meta")
    assert {tensor.device.type for tensor in (*loaded.parameters(), *loaded.buffers())} == {"meta"}
    assert OmniMouseModel.from_pretrained(tmp_path / "model", device=torch.device("cpu")).device.type == "cpu"
    with pytest.raises(ValueError, match="device and device_map"):
        OmniMouseModel.from_pretrained(tmp_path / "model", device="cpu", device_map="cpu")


def test_a_device_that_accelerate_would_not_take_trains_to_the_same_bits(model, recording, monkeypatch):
    """Accelerate keeps one device for the whole process; another one is used without it."""
    options = {"steps": 2, "batch_size": 2, "validation_tier": None, "progress": False, "mixed_precision": "no"}
    finetune(model, recording, device="cpu", **options)
    expected = model.session_state(recording.session_key)
    other = build()
    other.add_session(recording)
    monkeypatch.setattr(accelerators, "available_devices", lambda: ["cuda:0", "cpu"])
    monkeypatch.setattr(accelerators, "start_accelerator", None)
    finetune(other, recording, cpu=True, **options)
    found = other.session_state(recording.session_key)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(found["neuron_embedding"], torch.zeros_like(found["neuron_embedding"]))


def test_accelerate_set_up_on_another_device_is_gone_around(monkeypatch):
    held = type("Held", (), {"device": torch.device("cpu"), "num_processes": 1, "mixed_precision": "no"})()
    monkeypatch.setattr(accelerators, "available_devices", lambda: ["cuda:0", "cpu"])
    monkeypatch.setattr(accelerators, "start_accelerator", lambda mixed_precision, cpu: held)
    assert accelerators.make_accelerator("no", None) is held
    made = accelerators.make_accelerator("bf16", torch.device("cuda", 0))
    assert (made.device, made.mixed_precision) == (torch.device("cuda", 0), "bf16")
    with pytest.raises(ValueError, match="mixed_precision is 'fp16'"):
        accelerators.make_accelerator("fp16", torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 were started"):
        accelerators.make_accelerator("no", torch.device("cpu"))


def test_the_shell_computes_on_the_first_device_there_is(recording, model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(scoring_commands, "available_devices", lambda: ["meta", "cpu"])
    seen = []

    def stop(model, *_, **__):
        seen.append(model.device.type)
        raise ValueError("that is all that is asked")

    monkeypatch.setattr(evaluation, "evaluate", stop)
    for more in ([], ["--cpu"]):
        assert main(["evaluate", str(recording.path), "--core", str(tmp_path / "model"), *more]) == 2
    assert seen == ["meta", "cpu"]


@pytest.mark.parametrize(
    "command",
    [
        ["finetune", "RECORDING", "--output", "OUT"],
        ["evaluate", "RECORDING", "--core", "omnimouse-tiny"],
        ["predict", "RECORDING", "--core", "omnimouse-tiny", "--task", "stimulus", "--output", "OUT/p.npz"],
        ["demo", "--output", "OUT"],
    ],
    ids=lambda command: command[0],
)
def test_the_shell_takes_a_device_and_refuses_an_absent_one(recording, tmp_path, capsys, command, gpus):
    names = {"RECORDING": str(recording.path), "OUT": str(tmp_path / "out"), "OUT/p.npz": str(tmp_path / "p.npz")}
    command = [names.get(part, part) for part in command]
    assert main([*command, "--device", "cuda:7"]) != 0
    assert "The devices of this machine are cuda:0, cuda:1" in capsys.readouterr().err
    assert main([*command, "--device", "cuda:0", "--cpu"]) != 0
    assert "contradict each other" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
