"""Run folders: which checkpoints stay, damaged ones, histories cut back; sums of gradients; what monitors tell."""

from __future__ import annotations

import json
import os

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.model.masking.masks import EVALUATION_MASKS, TASKS, TRAINING_MASKS
from omnimouse.training.runs import monitor as monitor_module
from omnimouse.training.runs.distributed import GradientSum, Processes
from omnimouse.training.runs.monitor import STEP_NUMBERS, Monitor, count_tokens, duration, mask_family, training_line
from omnimouse.training.runs.run_folder import (
    RunFolder,
    clear_run,
    newest_whole,
    read_history,
    steps_to_keep,
    trim_history,
    write_checkpoint,
)


@pytest.fixture
def alone():
    return Processes(Accelerator(cpu=True))


def write(folder, alone, step, *, keep_newest=2, keep_every=None):
    return write_checkpoint(
        RunFolder(folder),
        alone,
        core={"w": torch.full((3,), float(step))},
        sessions={"a-1-1": {"neuron_bias": torch.ones(2)}},
        windows={"a-1-1": "3 windows"},
        state={"step": step, "seconds": 1.0, "identity": {}, "log": {}, "sessions": {}},
        keep_newest=keep_newest,
        keep_every=keep_every,
    )


@given(
    st.sets(st.integers(1, 200)),
    st.integers(1, 5),
    st.none() | st.integers(1, 50),
    st.sets(st.integers(1, 200), max_size=5),
)
def test_keep_rules(steps, newest, every, sources):
    kept = steps_to_keep(steps, newest=newest, every=every, sources=sources)
    assert kept <= steps and set(sorted(steps)[-newest:]) <= kept and sources & steps <= kept
    assert all(step in kept for step in steps if every and step % every == 0)
    for step in kept - set(sorted(steps)[-newest:]) - sources:
        assert every and step % every == 0


def test_the_newest_those_to_anneal_and_multiples_stay(tmp_path, alone):
    folder = RunFolder(tmp_path)
    for step in range(1, 11):
        write(tmp_path, alone, step, keep_newest=2, keep_every=4)
        if step == 3:
            folder.add_anneal_sources([2])
    assert folder.checkpoint_steps() == [2, 4, 8, 9, 10]
    folder.add_anneal_sources([8])
    assert folder.anneal_sources() == [2, 8]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_round_trip_and_a_damaged_checkpoint_is_passed_over(tmp_path, alone):
    for step in (1, 2):
        write(tmp_path, alone, step)
    found = newest_whole(RunFolder(tmp_path), alone)
    assert found.step == 2 and torch.equal(found.core()["w"], torch.full((3,), 2.0))
    assert torch.equal(found.session("a-1-1")["neuron_bias"], torch.ones(2)) and found.state["processes"] == 1
    assert found.state["windows"] == {"a-1-1": "3 windows"}
    damaged = found.path / "sessions" / "a-1-1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="damaged checkpoint.*a-1-1.safetensors differs"):
        assert newest_whole(RunFolder(tmp_path), alone).step == 1
    write(tmp_path, alone, 2)
    assert newest_whole(RunFolder(tmp_path), alone).step == 2
    for content in ("", "[]", '{"format_version": 1}'):
        (found.path / "state.json").write_text(content)
        with pytest.warns(UserWarning, match="damaged checkpoint"):
            assert newest_whole(RunFolder(tmp_path), alone).step == 1


def test_everything_is_on_the_disk_before_the_checkpoint_has_its_name(tmp_path, alone, monkeypatch):
    fsync, replace, done = os.fsync, os.replace, []

    def noted_fsync(descriptor):
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def noted_replace(source, target):
        done.append(str(target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    path = write(tmp_path, alone, 1)
    moment = done.index(str(path))
    assert {file.stat().st_ino for file in (path, *path.rglob("*"))} <= set(done[:moment])
    assert tmp_path.stat().st_ino in done[moment:]


def test_beginning_anew_spares_a_run_with_anneals(tmp_path, alone):
    folder = RunFolder(tmp_path)
    write(tmp_path, alone, 1)
    folder.add_anneal_sources([1])
    with pytest.raises(ValueError, match="has anneals"):
        clear_run(folder)
    assert folder.checkpoint_steps() == [1]


def test_a_history_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "history.jsonl"
    rows = [{"kind": "training", "step": step} for step in (2, 4, 6, 6, 8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tra')
    assert [row["step"] for row in read_history(path)] == [2, 4, 6, 6, 8]
    trim_history(path, 6)
    assert [row["step"] for row in read_history(path)] == [2, 4, 6, 6]
    trim_history(tmp_path / "none.jsonl", 3)
    assert read_history(tmp_path / "none.jsonl") == []


def test_parameters_without_a_gradient_get_zeros_and_untouched_animals_none(alone):
    core = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))]
    animals = {"a": nn.Parameter(torch.ones(4)), "b": nn.Parameter(torch.ones(4))}
    sums = GradientSum(alone, core, animals, ["a", "b", "elsewhere"], identity_size=4, n_extra=2)
    core[0].grad = torch.arange(4.0).view(2, 2)
    animals["b"].grad = torch.arange(4.0)
    assert sums.fill(active=True, animal="b").isfinite()
    sums.exchange([5.0, torch.tensor(6.0)])  # the second yet on the device
    reduced = sums.read(torch.tensor(7.0))
    assert reduced.core_norm == 7.0
    assert reduced.n_active == 1 and reduced.animals == {"b"} and reduced.extra == [5.0, 6.0]
    assert torch.equal(core[0].grad, torch.arange(4.0).view(2, 2)) and torch.equal(core[1].grad, torch.zeros(3))
    assert torch.equal(animals["b"].grad, torch.arange(4.0)) and animals["a"].grad is None
    core[0].grad = torch.full((2, 2), float("nan"))
    assert not sums.fill(active=True, animal="b").isfinite()
    # A process without a session adds nothing, and has no weight.
    core[0].grad = None
    assert sums.fill(active=False, animal=None) == 0
    sums.exchange([0.0, 0.0])
    assert sums.read(torch.tensor(0.0)).n_active == 0
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in core)


def test_families_of_masks():
    assert {name: mask_family(mask) for name, mask in TASKS.items() if "+" not in name} == {
        name: name for name in ("forecasting", "population", "stimulus", "behavior")
    }
    names = {name: mask_family(mask) for name, mask in EVALUATION_MASKS["validation"].items()}
    assert names["all_response_only"] == "behavior" and names["stimulus_driven"] == "stimulus"
    assert names["population_1024_response_behavior"] == "population"
    assert names["causal_response_behavior"] == "forecasting"
    assert {mask_family(mask) for mask in TRAINING_MASKS} == {"forecasting", "population", "stimulus", "behavior"}


def test_tokens_are_counted_as_the_model_lays_them_out():
    config = OmniMouseConfig.from_preset("tiny")
    model = OmniMouseModel(config)
    for name, mask in TASKS.items():
        plan = model._plans.get(mask.resolve(12, config), config, torch.device("cpu"))
        keys = 0 if plan.encoder is None else plan.encoder.key_rotary[0].shape[-2]
        fused, queries = (t[0].shape[-2] for t in (plan.decoder.key_rotary, plan.decoder.query_rotary))
        assert count_tokens(mask, 12, config) == keys + fused + queries, name


def test_sums_go_on_over_a_checkpoint(tmp_path):
    def numbers(step):
        return {name: float(step + i) for i, name in enumerate(STEP_NUMBERS)}

    def run(monitor, steps):
        for step in steps:
            monitor.note(step, numbers(step), {"core": 0.1}, 2.0)
        return monitor

    run(Monitor(tmp_path / "whole.jsonl", log_every=4, last=6, progress=False), range(1, 7))
    first = run(Monitor(tmp_path / "parts.jsonl", log_every=4, last=6, progress=False), range(1, 4))
    sums = json.loads(json.dumps(first.sums))
    run(Monitor(tmp_path / "parts.jsonl", log_every=4, last=6, progress=False, sums=sums), range(4, 7))
    whole, parts = (read_history(tmp_path / name) for name in ("whole.jsonl", "parts.jsonl"))
    times = ("seconds", "steps_per_second", "tokens_per_second", "first_steps", "seconds_left", "memory_gib")
    assert [{k: v for k, v in row.items() if k not in times} for row in whole] == [
        {k: v for k, v in row.items() if k not in times} for row in parts
    ]
    assert [row["step"] for row in whole] == [4, 6] and whole[0]["memory_gib"] > 0


def test_first_steps_are_timed_apart(tmp_path, monkeypatch):
    """What is met for the first time is planned and compiled; evaluation and checkpoints are no part of a step."""
    clock = iter([0.0, 0.0, 7.0, 9.0, 9.0, 109.0, 113.0, 113.0]).__next__
    monkeypatch.setattr(monitor_module.time, "perf_counter", clock)
    monitor = Monitor(tmp_path / "history.jsonl", log_every=2, last=4, progress=False)
    monkeypatch.setattr(Monitor, "seconds", 1.0)
    monitor.mark()
    numbers = {**dict.fromkeys(STEP_NUMBERS, 0.0), "behavior/count": 1.0, "tokens": 8.0}
    monitor.note(1, {**numbers, "first": 1.0}, {}, 1.0)
    monitor.note(2, numbers, {}, 1.0)
    (row,) = read_history(tmp_path / "history.jsonl")
    assert row["first_steps"] == {"count": 1, "seconds": 7} and row["steps_per_second"] == 0.5
    assert row["tokens_per_second"] == 4
    monitor.mark()
    monitor.note(3, numbers, {}, 1.0)
    assert monitor._speed[False] == [2, 6, 16]
    assert "0.5 steps/s" in training_line(row, 4) and "first steps: 1, 7.0 s" in training_line(row, 4)


def test_durations():
    assert [duration(s) for s in (3, 300, 3 * 3600, 72 * 3600)] == ["3 s", "5 min", "3.0 h", "3.0 d"]
