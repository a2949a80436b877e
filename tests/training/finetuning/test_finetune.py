"""finetune: what it trains, that it resumes exactly, and how it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omnimouse import OmniMouseModel, OmniMouseProcessor, evaluate
from omnimouse.cli.describe import describe_path, to_text
from omnimouse.model.masking.masks import TASKS, TRAINING_MASKS
from omnimouse.training import FinetuneRecipe
from omnimouse.training import finetune as finetune_function
from omnimouse.training.finetuning import loop

QUICK = {"steps": 4, "batch_size": 2, "max_validation_windows": 2, "validate_every": 2, "cpu": True, "progress": False}


def run(model, recording, **settings):
    return finetune_function(model, recording, **{**QUICK, **settings})


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


# What it trains


def test_trains_only_the_session_tables_by_default(model, recording):
    model.add_session("other", n_neurons=3, animal_id="another")
    before = weights(model)
    core = model.core_hash()
    model.train()
    result = run(model, recording, validation_tier=None)
    key = recording.session_key
    assert result.session == key and key in model.session_keys
    assert model.core_hash() == core
    after = weights(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert model.training
    state = model.session_state(key)
    assert not torch.equal(state["neuron_embedding"][0], state["neuron_embedding"][1])


def test_lowers_the_validation_loss(model, recording):
    result = run(model, recording, steps=30, masks=["stimulus+behavior"], validate_every=10, batch_size=4)
    assert result.best_validation_loss < result.initial_validation_loss
    validated = {row["step"]: row["validation_loss"] for row in result.history if row["validation_loss"] is not None}
    assert list(validated) == [10, 20, 30]
    assert result.best_validation_loss == min(validated.values()) == validated[result.best_step]


def test_leaves_the_best_weights_in_the_model(model, recording):
    result = run(model, recording, steps=6, session_learning_rate=30.0, warmup_steps=0, validate_every=1)
    assert result.best_step < 6  # so large a rate does not improve to the end
    again = run(model, recording, steps=1, session_learning_rate=1e-9)
    assert again.initial_validation_loss == pytest.approx(result.best_validation_loss, rel=1e-6)


STANDING_STILL = {"session_learning_rate": 1e-30, "start_from": "mean"}
"""Steps that are too small for float32 leave the weights as they began."""


def test_the_last_step_is_validated_and_of_equal_losses_the_first_is_kept(model, recording):
    result = run(model, recording, steps=3, masks=["stimulus"], **STANDING_STILL)
    validated = [row["step"] for row in result.history if row["validation_loss"] is not None]
    assert (validated, result.best_step) == ([2, 3], 0)


def test_validation_does_not_depend_on_how_windows_fall_into_batches(killed_run, recording):
    options = {"steps": 1, "max_validation_windows": 3, "masks": ["population"]}
    losses = [
        run(killed_run.small_model(), recording, batch_size=size, **options).initial_validation_loss for size in (2, 3)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_validation_masks_serve_the_population_that_is_drawn(model, recording):
    # It shows 10 of the 12 neurons for the whole window; the model takes 10 at once, of which none would be left.
    mask = replace(TASKS["population"], n_visible_neurons=10, n_target_neurons="all", behavior="absent")
    mask.resolve(12, model.config)
    with pytest.raises(ValueError, match="A population of 10 neurons cannot be validated"):
        run(model, recording, validation_tasks=[mask])


def test_no_window_has_more_neurons_than_the_model_takes_at_once(model, recording, monkeypatch):
    forward, sizes = model.forward, []

    def noted(*args, **kwargs):
        sizes.append(kwargs["neuron_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", noted)
    run(model, recording, steps=2, validate_every=1, masks=["behavior"], start_from="mean")
    assert (len(sizes), set(sizes)) == (5, {model.config.max_population})


@pytest.mark.parametrize("tiers", [("train",), ("train", "oracle")])
def test_biases_start_at_the_mean_response_in_the_training_tiers(model, recording, tiers):
    options = {"steps": 1, "masks": ["stimulus"], "validation_tier": None, **STANDING_STILL}
    run(model, recording, train_tiers=tiers, **options)
    begun = model.session_state(recording.session_key)["neuron_bias"]
    # Trial by trial, with the statistics of the recording.
    rate, rows = recording.responses.sampling_rate, []
    for trial in recording.trials:
        if trial.tier in tiers:
            bounds = (np.array([trial.start, trial.end]) - recording.responses.start_time) * rate
            rows.append(np.arange(*np.ceil(np.clip(bounds, 0, recording.responses.shape[0])).astype(int)))
    means = np.asarray(recording.responses.data)[np.concatenate(rows)].mean(axis=0, dtype=np.float64)
    means /= model.processor.floored_response_stds(recording.responses.stds)
    started = torch.nn.functional.softplus(begun.double(), beta=model.config.softplus_beta)
    np.testing.assert_allclose(started.numpy(), np.maximum(means, 1e-3), rtol=1e-4)
    if tiers == ("train",):
        model.remove_session(recording.session_key)
        model.add_session(recording)
        torch.testing.assert_close(model.session_state(recording.session_key)["neuron_bias"], begun)


def test_without_validation_the_last_weights_stay(model, recording):
    result = run(model, recording, validation_tier=None)
    assert (result.best_step, result.best_validation_loss, result.initial_validation_loss) == (4, None, None)


def test_train_core_moves_the_core_with_a_rate_and_clip_of_its_own(model, recording):
    before = model.core_hash()
    options = {"warmup_steps": 0, "decay_steps": 0, "validation_tier": None}
    result = run(model, recording, train_core=True, core_learning_rate=2e-4, **options)
    assert model.core_hash() != before
    assert result.history[0]["learning_rate"] == {"session": 3e-3, "core": 2e-4}
    assert set(result.history[0]["gradient_norm"]) == {"session", "core"}


def test_the_animal_vector_is_left_alone_when_a_trained_session_shares_it(model, recording):
    model.add_session("sibling", n_neurons=3, animal_id=recording.animal_id)
    torch.nn.init.normal_(model.sessions.table("sibling").neuron_embedding)
    before = {name: tensor.clone() for name, tensor in model.session_state("sibling").items()}
    run(model, recording, validation_tier=None)
    assert_equal(before, model.session_state("sibling"))
    run(model, recording, train_animal=True, validation_tier=None)
    assert not torch.equal(before["animal_embedding"], model.session_state("sibling")["animal_embedding"])


def test_a_sibling_that_was_merely_added_freezes_nothing(model, recording, tmp_path):
    model.add_session("sibling", n_neurons=12, animal_id=recording.animal_id)
    before = model.session_state("sibling")["animal_embedding"]
    run(model, recording, validation_tier=None, start_from="mean")
    trained = model.session_state(recording.session_key)["animal_embedding"]
    assert not torch.equal(before, trained)
    # The next session of the mouse is trained with the vector of the first, which so stays what it was.
    run(model, recording, validation_tier=None, session="sibling")
    assert torch.equal(model.session_state(recording.session_key)["animal_embedding"], trained)
    for key in model.session_keys:
        model.save_session(key, tmp_path / key)
    for key in list(model.session_keys):
        model.remove_session(key)
    for key in ("sibling", recording.session_key):
        model.load_session(tmp_path / key)  # adapters trained one after another go together
    assert torch.equal(model.session_state("sibling")["animal_embedding"], trained)


def test_the_processor_of_a_run_is_that_of_its_session(model, recording, tmp_path):
    model.processor = OmniMouseProcessor(profile="strict")
    own = OmniMouseProcessor(profile="published", video_mean=100.0)
    settings = {"tasks": "stimulus", "tier": "final_test", "max_windows": 2, "progress": False}
    key = recording.session_key
    run(model, recording, steps=1, processor=own)
    assert model.session_processor(key) == own != model.processor == model.session_processor("another")
    expected = evaluate(model, recording, processor=own, **settings)
    assert expected.tasks != evaluate(model, recording, processor=model.processor, **settings).tasks
    model.save_session(key, tmp_path / "adapter")
    model.save_pretrained(tmp_path / "model")
    loaded = OmniMouseModel.from_pretrained(tmp_path / "model")
    loaded.load_session(tmp_path / "adapter")
    for found in (model, loaded, OmniMouseModel.from_pretrained(tmp_path / "model", sessions="all")):
        scores = evaluate(found, recording, **settings)
        assert scores.settings["profile"] == "published" and scores.to_dict() == expected.to_dict()
    again = run(loaded, recording, steps=1, output_dir=tmp_path / "run")
    assert again.best_step is not None and loaded.session_processor(key) == own
    texts = [to_text(describe_path(tmp_path / name)) for name in ("adapter", "model")]
    assert all("profile published, video_mean 100.0" in text for text in texts)
    config = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({name: value for name, value in content.items() if name != "processor"}))
    old = OmniMouseModel.from_pretrained(tmp_path / "model")
    old.load_session(tmp_path / "adapter")
    assert old.session_processor(key) == old.processor == OmniMouseProcessor(profile="strict")
    assert "processor: the model's" in to_text(describe_path(tmp_path / "adapter"))
    config.write_text(json.dumps(content | {"processor": {"profile": "unheard of"}}))
    old.remove_session(key)
    old.load_session(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"stored with session .*cannot be used: .*unheard of"):
        evaluate(old, recording, **settings)


def test_history_rows(model, recording, tmp_path):
    result = run(model, recording, output_dir=tmp_path, masks=["behavior", "stimulus+behavior"])
    lines = (tmp_path / loop.HISTORY_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    assert [row["step"] for row in result.history] == [1, 2, 3, 4]
    seconds = [row["seconds"] for row in result.history]
    assert seconds == sorted(seconds) and result.seconds == seconds[-1]
    for row in result.history:
        if row["mask"] == "behavior":
            assert row["response_loss"] is None
            assert row["loss"] == pytest.approx(0.1 * row["behavior_loss"], rel=1e-6)
        else:
            assert row["behavior_loss"] is None and row["loss"] == row["response_loss"]
        assert (row["validation_loss"] is None) == (row["step"] % 2 == 1)
    assert set(result.history[1]["validation_losses"]) == {"behavior", "stimulus+behavior"}


def test_masks_the_population_cannot_serve_are_left_out_and_reported_once(model, recording, capsys):
    result = run(model, recording, steps=1, progress=True)
    assert result.left_out_masks and all(name.startswith("training/") for name in result.left_out_masks)
    assert "history" not in repr(result) and "Mask(" not in repr(result)
    said = capsys.readouterr().err
    assert said.count("masks are left out") == 1
    assert "training/1 and " in said and "Mask(" not in said and said.count("Nothing to predict") == 1


def test_patience_stops_early(model, recording):
    result = run(model, recording, steps=12, session_learning_rate=30.0, warmup_steps=0, validate_every=1, patience=2)
    assert result.stopped_early
    assert result.history[-1]["step"] == result.best_step + 2 < 12


def test_validation_on_the_whole_population(model, recording):
    shuffled = run(model, recording, steps=1)
    model.remove_session(recording.session_key)
    whole = run(model, recording, steps=1, validation_all_neurons=True)
    assert whole.initial_validation_loss != shuffled.initial_validation_loss


def test_windows_cut_ahead_change_nothing(killed_run, recording):
    results, models = [], []
    for num_workers, on_device in ((0, False), (1, False), (1, True)):
        models.append(killed_run.small_model())
        results.append(run(models[-1], recording, num_workers=num_workers, on_device=on_device))
    for place in (1, 2):
        assert without_seconds(results[0].history) == without_seconds(results[place].history)
        assert_equal(weights(models[0]), weights(models[place]))


def test_the_callers_random_state_is_left_alone(model, recording):
    state = torch.get_rng_state()
    run(model, recording, train_core=True)
    assert torch.equal(state, torch.get_rng_state())


def test_a_model_without_a_processor_gets_the_one_used(model, recording):
    assert model.processor is None
    run(model, recording, steps=1)
    assert model.processor.profile == "strict"


def test_a_recipe_is_the_same_as_its_fields(killed_run, recording):
    models = [killed_run.small_model() for _ in range(3)]
    fields = {"steps": 2, "batch_size": 2, "max_validation_windows": 1, "masks": "stimulus", "seed": 3}
    options = {"cpu": True, "progress": False}
    finetune_function(models[0], recording, **fields, **options)
    finetune_function(models[1], recording, FinetuneRecipe(**fields), **options)
    finetune_function(models[2], recording, FinetuneRecipe(**fields | {"steps": 9, "batch_size": 1}), steps=2,
                      batch_size=2, **options)  # fmt: skip
    for other in models[1:]:
        assert_equal(weights(models[0]), weights(other))


def test_a_setting_that_is_no_field_says_which_may_have_been_meant(model, recording):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'batchsize'; did you mean 'batch_size'\?"):
        run(model, recording, batchsize=3)
    with pytest.raises(
        TypeError, match=r"'zzz'; the fields of FinetuneRecipe are steps, batch_size, .*, cache_video\."
    ):
        run(model, recording, zzz=3)


# Interruptions


@pytest.fixture(scope="module")
def uninterrupted(killed_run, recording_path):
    """History and weights of the run that nobody killed."""
    torch.set_num_threads(1)
    model = killed_run.small_model()
    result = finetune_function(model, recording_path, **killed_run.SETTINGS)
    return result, weights(model)


@pytest.mark.parametrize("where", ["step", "saving"])
def test_a_killed_run_ends_with_the_same_weights(killed_run, uninterrupted, recording_path, tmp_path, where):
    command = [sys.executable, killed_run.__file__, str(recording_path), str(tmp_path), where]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    leftovers = [path.name for path in tmp_path.iterdir() if path.name.startswith(".partial")]
    assert bool(leftovers) == (where == "saving")
    model = killed_run.small_model()
    result = finetune_function(model, recording_path, output_dir=tmp_path, **killed_run.SETTINGS)
    assert result.resumed_from == 3
    expected, expected_weights = uninterrupted
    assert without_seconds(result.history) == without_seconds(expected.history)
    assert result.best_step == expected.best_step
    assert_equal(weights(model), expected_weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000008", "history.jsonl"]


@pytest.mark.parametrize(
    "number, raised", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_stopped_run_saves_and_goes_on(
    killed_run, uninterrupted, recording_path, tmp_path, monkeypatch, number, raised
):
    append = loop.append_history

    def append_and_signal(path, row):
        append(path, row)
        if row["step"] == 4:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    monkeypatch.setattr(loop, "append_history", append_and_signal)
    with pytest.raises(raised):
        finetune_function(killed_run.small_model(), recording_path, output_dir=tmp_path, **killed_run.SETTINGS)
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    model = killed_run.small_model()
    result = finetune_function(model, recording_path, output_dir=tmp_path, **killed_run.SETTINGS)
    assert result.resumed_from == 4
    assert_equal(weights(model), uninterrupted[1])


def test_a_finished_run_is_not_trained_again(killed_run, recording, tmp_path, monkeypatch):
    first, second = killed_run.small_model(), killed_run.small_model()
    expected = run(first, recording, output_dir=tmp_path)
    monkeypatch.setattr(loop, "finetune_step", None)
    result = run(second, recording, output_dir=tmp_path)
    assert (result.resumed_from, result.history, result.best_step) == (4, expected.history, expected.best_step)
    assert_equal(weights(first), weights(second))


def test_resume_false_begins_anew(model, recording, tmp_path):
    run(model, recording, output_dir=tmp_path, steps=3)
    result = run(model, recording, output_dir=tmp_path, steps=2, resume=False)
    assert result.resumed_from is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000002", "history.jsonl"]
    assert len((tmp_path / loop.HISTORY_FILE).read_text().splitlines()) == 2


def test_a_checkpoint_of_another_run_is_refused(killed_run, recording, tmp_path):
    run(killed_run.small_model(), recording, output_dir=tmp_path)
    other = killed_run.small_model()
    with torch.no_grad():
        next(parameter for _, parameter in other.core_named_parameters()).add_(1.0)
    with pytest.raises(ValueError) as error:
        run(other, recording, output_dir=tmp_path, seed=3, masks=["stimulus"])
    message = str(error.value)
    for part in ("recipe.seed: 0 in the checkpoint, 3 now", "core_hash", "masks", "resume=False", str(tmp_path)):
        assert part in message
    assert "recipe.steps" not in message


def other_data(recording_path, folder):
    """The same mouse and the same windows, with responses that were corrected."""
    shutil.copytree(recording_path, folder)
    file = folder / "responses" / "data.npy"
    np.save(file, np.load(file) * 3 + 1)
    return folder


def test_a_run_goes_on_with_a_copy_of_its_recording_and_not_with_other_data(killed_run, recording_path, tmp_path):
    run(killed_run.small_model(), recording_path, output_dir=tmp_path / "run")
    shutil.copytree(recording_path, tmp_path / "copy")
    assert run(killed_run.small_model(), tmp_path / "copy", output_dir=tmp_path / "run").resumed_from == 4
    corrected = other_data(recording_path, tmp_path / "corrected")
    with pytest.raises(ValueError, match=r"recording\.responses: .*in the checkpoint.* now.*\n.*resume=False"):
        run(killed_run.small_model(), corrected, output_dir=tmp_path / "run")
    assert run(killed_run.small_model(), corrected, output_dir=tmp_path / "run", resume=False).resumed_from is None


def test_what_is_trained_and_what_is_frozen_belong_to_a_run(killed_run, recording, tmp_path):
    def sibling(shift):
        model = killed_run.small_model()
        model.add_session("sibling", n_neurons=3, animal_id=recording.animal_id)
        with torch.no_grad():
            model.sessions.animal("sibling").add_(shift)
        return model

    settings = {"output_dir": tmp_path, "train_animal": False, "start_from": "mean"}
    run(sibling(1.0), recording, **settings)
    assert run(sibling(1.0), recording, **settings).resumed_from == 4
    with pytest.raises(ValueError, match="animal_vector"):
        run(sibling(2.0), recording, **settings)
    with pytest.raises(ValueError, match=r"trained\.session: .*animal_embedding"):
        run(sibling(1.0), recording, **settings | {"train_animal": True})
    other = sibling(1.0)
    other.config.softplus_beta = 3.0
    with pytest.raises(ValueError, match=r"architecture\.softplus_beta: .* in the checkpoint, 3\.0 now"):
        run(other, recording, **settings)


def test_a_run_of_an_earlier_version_goes_on_and_says_what_is_not_known(killed_run, recording, tmp_path):
    run(killed_run.small_model(), recording, output_dir=tmp_path)
    file = tmp_path / "checkpoint-00000004" / "state.json"
    document = json.loads(file.read_text())
    later = ("recording.", "architecture", "trained", "animal_vector")
    document["identity"] = {n: v for n, v in document["identity"].items() if not n.startswith(later)}
    file.write_text(json.dumps(document))
    with pytest.warns(UserWarning, match=r"earlier version.*recording\.responses.*make sure"):
        assert run(killed_run.small_model(), recording, output_dir=tmp_path).resumed_from == 4
    with pytest.raises(ValueError, match=r"recipe\.seed"):
        run(killed_run.small_model(), recording, output_dir=tmp_path, seed=9)


# Bad input


SEES_NO_RESPONSES = replace(TASKS["stimulus"], n_target_neurons=0, target_start=0, target_length=0)
"""Decodes behavior from the video alone."""


def with_responses(recording_path, folder, rows):
    """Copies a recording and makes `rows` of neuron 3 NaN."""
    shutil.copytree(recording_path, folder)
    file = folder / "responses" / "data.npy"
    data = np.load(file)
    data[rows, 3] = np.nan
    np.save(file, data)
    return folder


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"train_tiers": ("training",)}, ["training", "validation", "train"]),
        ({"validation_tier": "oracles"}, ["oracles", "oracle", "validation_tier"]),
        ({"masks": ["forcasting"]}, ["forcasting", "forecasting"]),
        ({"masks": ["stimulus"], "mask_weights": [0.0]}, ["weight"]),
        ({"masks": ["stimulus"], "mask_weights": [1.0, 2.0]}, ["2 entries", "1 masks"]),
        ({"masks": []}, ["masks is empty"]),
        ({"validation_tasks": []}, ["validation_tasks"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"steps": -3}, ["steps is -3", "1 or more"]),
        ({"steps": "3"}, ["steps is '3'"]),
        ({"steps": 3, "warmup_steps": 2, "decay_steps": 2}, ["2 warm-up", "3 steps"]),
        ({"batch_size": 0}, ["batch_size"]),
        ({"stride": 0}, ["stride"]),
        ({"checkpoint_every": 0}, ["checkpoint_every"]),
        ({"max_validation_windows": 0}, ["max_validation_windows"]),
        ({"session_learning_rate": -1.0}, ["learning_rate", "-1.0"]),
        ({"patience": 0}, ["patience"]),
        ({"num_workers": 2}, ["num_workers", "2"]),
        ({"on_device": "cuda"}, ["on_device", "cuda", "auto"]),
        ({"compile_model": "yes"}, ["compile_model", "yes", "auto"]),
        ({"resume": "always"}, ["resume", "always"]),
        ({"mixed_precision": "fp16"}, ["mixed_precision", "fp16", "bf16"]),
    ],
)
def test_bad_arguments(model, recording, settings, words):
    with pytest.raises(ValueError) as error:
        run(model, recording, **settings)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_no_window_says_where_they_went(model, recording):
    for trial in recording.trials:  # only a blank, shorter than any window, is left of the tier
        object.__setattr__(trial, "tier", None if trial.tier == "validation" else trial.tier)
    blank = next(trial for trial in recording.trials if trial.modality == "blank")
    object.__setattr__(blank, "tier", "validation")
    with pytest.raises(ValueError, match=r"no window in validation: \d+ possible starts.*omnimouse check"):
        run(model, recording, include_blanks=False)


def test_another_number_of_neurons(model, recording):
    model.add_session(recording.session_key, n_neurons=13, animal_id=recording.animal_id)
    with pytest.raises(ValueError, match=r"has 12 neurons, but session .* has 13"):
        run(model, recording)


def test_neurons_in_another_order(model, recording):
    model.add_session(
        recording.session_key, n_neurons=12, animal_id=recording.animal_id, unit_ids=recording.unit_ids[::-1]
    )
    with pytest.raises(ValueError, match="other unit ids"):
        run(model, recording)


def test_no_mask_fits_the_population(model, recording):
    with pytest.raises(ValueError, match="None of the 1 masks can train a population of 10 neurons"):
        run(model, recording, masks=[TRAINING_MASKS[0]])  # it shows 1,024 neurons and predicts the others


def test_nan_in_the_data_names_window_and_array(model, recording_path, tmp_path):
    copy = with_responses(recording_path, tmp_path / "copy", slice(None, None, 50))
    with pytest.raises(ValueError, match=r"responses of the window\(s\) starting at .* s .*omnimouse check"):
        run(model, copy, validation_tier=None)
    # What no mask looks at does not matter.
    run(model, copy, validation_tier=None, masks=[SEES_NO_RESPONSES])


def test_a_neuron_without_any_response_is_named(model, recording_path, tmp_path):
    with pytest.raises(ValueError, match=r"no finite response .* neurons 3 .*omnimouse check"):
        run(model, with_responses(recording_path, tmp_path / "copy", slice(None)))


def test_nan_in_the_loss_names_step_mask_and_windows(model, recording, monkeypatch):
    forward = model.forward

    def poisoned(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(model, "forward", poisoned)
    with pytest.raises(ValueError, match=r"The loss is nan at step 1, with mask stimulus .*starting at .* s"):
        run(model, recording, validation_tier=None, masks=["stimulus"])


def test_an_infinite_gradient_does_not_reach_the_weights(model, recording):
    run(model, recording, steps=1)
    before = weights(model)
    embedding = dict(model.session_named_parameters(recording.session_key))
    name = next(name for name in embedding if name.endswith("neuron_embedding"))
    handle = embedding[name].register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(ValueError, match="gradient norm of the session is"):
        run(model, recording, validation_tier=None)
    handle.remove()
    assert_equal(before, weights(model))


def test_opens_a_folder(model, recording_path):
    assert run(model, Path(recording_path), steps=1).session in model.session_keys
