"""Checkpoints: whole or absent, keyed by name, refused when they belong to another run."""

from __future__ import annotations

import json
import os

import pytest
import torch
from torch import nn

from omnimouse.support.outputs import identity_differences
from omnimouse.training.finetuning import finetune_checkpoint as module
from omnimouse.training.finetuning.finetune_checkpoint import (
    TrainingState,
    copy_parameters,
    load_parameters,
    newest_finetune_checkpoint,
    restore_groups,
    save_checkpoint,
)
from omnimouse.training.finetuning.finetune_identity import check_identity
from omnimouse.training.shared.checkpoint import append_history, remove_checkpoints, write_history
from omnimouse.training.shared.optimizers import ParameterGroup
from omnimouse.training.shared.recipe import OptimizerRecipe

RECIPE = OptimizerRecipe(learning_rate=0.1, weight_decay=0.01)


def make_groups(order=("a.x", "a.y", "b")):
    """Two groups of parameters of equal shape, so that nothing but the name tells them apart."""
    parameters = {name: nn.Parameter(torch.full((2, 3), float(ord(name[-1])))) for name in order}
    split = {"session": ["a.x", "a.y"], "core": ["b"]}
    groups = {}
    for group, names in split.items():
        chosen = {name: parameters[name] for name in order if name in names}
        groups[group] = ParameterGroup(RECIPE, chosen, torch.optim.AdamW(list(chosen.values()), lr=0.1))
    return groups


def train(groups, steps, *, skip=()):
    for step in range(steps):
        for group in groups.values():
            for name, parameter in group.parameters.items():
                parameter.grad = None if name in skip else parameter.detach().sin() + step
            group.optimizer.step()


def state(step, **fields):
    rows = [{"step": i + 1, "loss": 0.1 * i, "validation_loss": None} for i in range(step)]
    return TrainingState(step=step, seconds=1.5, history=rows, **fields)


def assert_same(first, second):
    one, two = copy_parameters(first), copy_parameters(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_round_trip_continues_exactly(tmp_path):
    groups = make_groups()
    train(groups, 3, skip=("b",))
    best = copy_parameters(groups)
    train(groups, 2, skip=("b",))
    saved = state(5, best_step=3, best_validation_loss=0.25, initial_validation_loss=1 / 3, best_parameters=best)
    path = save_checkpoint(tmp_path, groups, saved, {"seed": 1})
    assert path.name == "checkpoint-00000005"

    # Other order, other values: names alone say what belongs where.
    others = make_groups(order=("b", "a.y", "a.x"))
    load_parameters(others, {name: value + 1 for name, value in copy_parameters(groups).items()})
    found = newest_finetune_checkpoint(tmp_path)
    loaded = restore_groups(found, others)
    assert found.identity == {"seed": 1}
    assert {**vars(loaded), "best_parameters": None} == {**vars(saved), "best_parameters": None}
    assert all(torch.equal(loaded.best_parameters[name], best[name]) for name in best)
    assert_same(groups, others)
    train(groups, 3)
    train(others, 3)
    assert_same(groups, others)


def test_a_parameter_without_gradients_has_no_moments(tmp_path):
    groups = make_groups()
    train(groups, 2, skip=("b",))
    save_checkpoint(tmp_path, groups, state(2), {})
    restored = make_groups()
    restore_groups(newest_finetune_checkpoint(tmp_path), restored)
    assert not restored["core"].optimizer.state
    assert len(restored["session"].optimizer.state) == 2


def test_the_random_state_comes_back(tmp_path):
    groups = make_groups()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        save_checkpoint(tmp_path, groups, state(1), {})
        expected = torch.rand(4)
        torch.manual_seed(12)
        restore_groups(newest_finetune_checkpoint(tmp_path), groups)
        assert torch.equal(torch.rand(4), expected)


def test_nothing_is_pickled(tmp_path):
    path = save_checkpoint(tmp_path, make_groups(), state(1), {})
    assert sorted(file.name for file in path.iterdir()) == ["state.json", "tensors.safetensors"]
    assert json.loads((path / "state.json").read_text())["state"]["step"] == 1


def test_only_the_newest_is_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, make_groups(), state(step), {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000010"]


def test_the_old_one_stays_until_the_new_one_is_there(tmp_path, monkeypatch):
    groups = make_groups()
    save_checkpoint(tmp_path, groups, state(1), {})

    def fail(*args):
        raise OSError("disk full")

    for name, where in (("save_file", module), ("replace", os)):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, fail)
            with pytest.raises(OSError, match="disk full"):
                save_checkpoint(tmp_path, groups, state(2), {})
        assert newest_finetune_checkpoint(tmp_path).state.step == 1
    save_checkpoint(tmp_path, groups, state(3), {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000003"]


def test_everything_is_on_the_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    fsync, replace, done = os.fsync, os.replace, []

    def noted_fsync(descriptor):
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def noted_replace(source, target):
        done.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    path = save_checkpoint(tmp_path, make_groups(), state(1), {})
    assert done.count("renamed") == 1
    before, after = done[: done.index("renamed")], done[done.index("renamed") + 1 :]
    assert {file.stat().st_ino for file in (path, *path.iterdir())} <= set(before)
    assert tmp_path.stat().st_ino in after


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def corrupt(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def other_format(path):
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))


@pytest.mark.parametrize(
    "file, damage",
    [
        ("tensors.safetensors", truncate),
        ("tensors.safetensors", corrupt),
        ("tensors.safetensors", lambda path: path.unlink()),
        ("state.json", truncate),
        ("state.json", lambda path: path.write_text("{}")),
        ("state.json", lambda path: path.unlink()),
        ("state.json", other_format),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, monkeypatch, file, damage):
    groups = make_groups()
    with monkeypatch.context() as patch:
        patch.setattr(module, "remove_checkpoints", lambda *args, **kwargs: None)
        save_checkpoint(tmp_path, groups, state(1), {})
        newest = save_checkpoint(tmp_path, groups, state(2), {})
    damage(newest / file)
    with pytest.warns(UserWarning, match="damaged checkpoint .*checkpoint-00000002"):
        assert newest_finetune_checkpoint(tmp_path).state.step == 1
    save_checkpoint(tmp_path, groups, state(2), {})
    assert newest_finetune_checkpoint(tmp_path).state.step == 2


def test_no_checkpoint(tmp_path):
    assert newest_finetune_checkpoint(tmp_path) is None
    assert newest_finetune_checkpoint(tmp_path / "absent") is None
    (tmp_path / ".partial-checkpoint-00000004-1").mkdir()
    assert newest_finetune_checkpoint(tmp_path) is None


def test_removing_leaves_other_files_alone(tmp_path):
    save_checkpoint(tmp_path, make_groups(), state(1), {})
    for name in ("checkpoint-of-mine", "adapter", ".partial-x"):
        (tmp_path / name).mkdir()
    remove_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "checkpoint-of-mine"]


def test_another_identity_is_refused_with_every_difference(tmp_path):
    save_checkpoint(tmp_path, make_groups(), state(1), {"seed": 1, "masks": (1, 2), "long": "x" * 500, "gone": 4})
    found = newest_finetune_checkpoint(tmp_path)
    check_identity(found, {"seed": 1, "masks": (1, 2), "long": "x" * 500, "gone": 4})
    with pytest.raises(ValueError) as error:
        check_identity(found, {"seed": 2, "masks": (1, 2), "long": "y" * 500})
    message = str(error.value)
    assert "seed: 1 in the checkpoint, 2 now" in message and "gone: 4 in the checkpoint, null now" in message
    assert "masks" not in message and "..." in message and "x" * 200 not in message
    assert "resume=False" in message and "output_dir" in message


def test_copies_do_not_follow_the_parameters():
    groups = make_groups()
    copy = copy_parameters(groups)
    train(groups, 1)
    assert torch.equal(copy["b"], torch.full((2, 3), float(ord("b"))))
    load_parameters(groups, copy)
    assert torch.equal(groups["core"].parameters["b"], copy["b"])


def test_history_is_rewritten_and_appended_to(tmp_path):
    path = tmp_path / "run" / "history.jsonl"
    rows = [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 1 / 3}]
    write_history(path, rows)
    append_history(path, {"step": 3, "loss": None})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [*rows, {"step": 3, "loss": None}]
    write_history(path, rows[:1])
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:1]
    assert [file.name for file in path.parent.iterdir()] == ["history.jsonl"]


def test_differences_inside_mappings_are_named():
    there = {"architecture": {"softplus_beta": 0.1, "guard_samples": 5}, "seed": 0, "validation": {"windows": "3"}}
    now = {"architecture": {"softplus_beta": 3.0, "guard_samples": 5}, "seed": 0, "validation": None}
    assert identity_differences(there, now) == [
        "  architecture.softplus_beta: 0.1 in the checkpoint, 3.0 now",
        '  validation: {"windows": "3"} in the checkpoint, null now',
    ]
