"""Scores of single images: the metrics against slow formulas, the path through a model, submissions, the command."""

from __future__ import annotations

import ast
import csv
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALLEST
from static_folders import IMAGES, KEY, NAME, NEURONS, TIERS, change, stored, trials_of, write_static

from omnimouse import OmniMouseConfig, OmniMouseModel, OmniMouseProcessor, evaluate_static, write_static_submission
from omnimouse.cli.main import main
from omnimouse.evaluation import StaticScores, inputs
from omnimouse.evaluation.static.static_metrics import (
    correlations,
    correlations_to_average,
    explained_variance,
    image_averages,
    mean_feve,
    mean_with_zeros,
)
from omnimouse.recordings import Windows, open_recording


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sound session that no test changes."""
    return write_static(tmp_path_factory.mktemp("static") / NAME)


@pytest.fixture
def copy(folder, tmp_path):
    """A session that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / NAME))


@pytest.fixture(scope="module")
def model(folder):
    """A small model whose session has random vectors, so that its predictions differ between images."""
    torch.manual_seed(1)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST))
    model.add_session(open_recording(folder))
    for _, parameter in model.session_named_parameters():
        torch.nn.init.normal_(parameter)
    model.processor = OmniMouseProcessor(profile="strict")
    return model.eval()


# The metrics.


def random_trials(seed: int = 0, images=("a", "b", "b", "c", "c", "c", "a", "d", "d", "b", "c")):
    rng = np.random.default_rng(seed)
    centres = {name: rng.gamma(2.0, 2.0, 5) for name in images}
    responses = np.array([centres[name] for name in images]) + rng.standard_normal((len(images), 5))
    predictions = np.array([centres[name] for name in images]) + 0.5 * rng.standard_normal((len(images), 5))
    return predictions, responses, list(images)


def test_correlations_are_those_of_numpy():
    predictions, responses, images = random_trials()
    np.testing.assert_allclose(
        correlations(predictions, responses),
        [np.corrcoef(predictions[:, n], responses[:, n])[0, 1] for n in range(5)],
    )
    names = sorted(set(images))
    rows = {name: [k for k, image in enumerate(images) if image == name] for name in names}
    averages = [np.array([values[rows[name]].mean(axis=0) for name in names]) for values in (predictions, responses)]
    np.testing.assert_allclose(image_averages(responses, images), averages[1])
    np.testing.assert_allclose(
        correlations_to_average(predictions, responses, images),
        [np.corrcoef(averages[0][:, n], averages[1][:, n])[0, 1] for n in range(5)],
    )


def competition_fev(targets: list[np.ndarray], predictions: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The competition's formula, image by image; lists of [repeats, neurons]."""
    squares = np.concatenate(
        [(target - prediction) ** 2 for target, prediction in zip(targets, predictions, strict=True)]
    )
    noise = np.mean([np.var(target, axis=0, ddof=1) for target in targets], axis=0)
    total = np.var(np.concatenate(targets), axis=0, ddof=1)
    return (total - noise) / total, 1 - (squares.mean(axis=0) - noise) / (total - noise)


@given(seed=st.integers(0, 10_000), repeats=st.lists(st.integers(2, 5), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_explained_variance_is_the_formula_of_the_competition(seed, repeats):
    images = [f"image {i}" for i, count in enumerate(repeats) for _ in range(count)]
    order = np.random.default_rng(seed).permutation(len(images))
    images = [images[i] for i in order]
    predictions, responses, images = random_trials(seed, tuple(images))
    fev, feve = explained_variance(predictions, responses, images)
    split = [
        [values[[k for k, image in enumerate(images) if image == name]] for name in sorted(set(images))]
        for values in (responses, predictions)
    ]
    expected = competition_fev(*split)
    np.testing.assert_allclose(fev, expected[0])
    explainable = expected[0] > 1e-6
    np.testing.assert_allclose(feve[explainable], expected[1][explainable])
    assert np.isnan(feve[expected[0] <= 0]).all()


def test_explained_variance_by_hand():
    # Two images, twice each: responses 1, 3 and 5, 7. Noise: (2 + 2) / 2. Total: mean 4, squares (9 + 1 + 1 + 9) / 3.
    responses = np.array([[1.0], [5.0], [3.0], [7.0]])
    images = ["a", "b", "a", "b"]
    total = 20 / 3
    fev, feve = explained_variance(np.array([[2.0], [6.0], [2.0], [6.0]]), responses, images)
    assert fev[0] == pytest.approx((total - 2) / total)
    # The true means as predictions: squared error 1, and so more than all of what is explainable.
    assert feve[0] == pytest.approx(1 - (1 - 2) / (total - 2))
    _, feve = explained_variance(np.full((4, 1), 4.0), responses, images)
    assert feve[0] == pytest.approx(1 - (5 - 2) / (total - 2))


def test_images_shown_once_take_no_part_in_explained_variance():
    predictions, responses, images = random_trials()
    more = [np.concatenate([values, 100 + values[:2]]) for values in (predictions, responses)]
    np.testing.assert_array_equal(
        explained_variance(*more, [*images, "once", "also once"]), explained_variance(predictions, responses, images)
    )
    fev, feve = explained_variance(predictions, responses, [str(k) for k in range(len(images))])
    assert np.isnan(fev).all() and np.isnan(feve).all() and math.isnan(mean_feve(fev, feve))


def test_what_is_constant_has_no_correlation_and_counts_as_zero():
    predictions, responses, images = random_trials()
    predictions[:, 1] = 0.7 + 1e-8 * np.arange(len(images))  # constant up to the rounding of float32
    responses[:, 2] = 0
    r = correlations(predictions, responses)
    assert np.isnan(r).tolist() == [False, True, True, False, False]
    assert mean_with_zeros(r) == pytest.approx((r[0] + r[3] + r[4]) / 5)
    assert np.isnan(correlations(predictions[:1], responses[:1])).all()
    fev, feve = explained_variance(predictions, responses, images)
    assert np.isnan(fev[2]) and np.isnan(feve[2]) and np.isfinite(feve[1])
    assert correlations(responses * 1e-9, responses)[0] == pytest.approx(1)


def test_neurons_below_the_threshold_take_no_part_in_the_mean():
    assert mean_feve(np.array([0.149, 0.15, 0.9, np.nan]), np.array([-50.0, 0.2, 0.4, np.nan])) == pytest.approx(0.3)
    assert math.isnan(mean_feve(np.array([0.1]), np.array([0.5])))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 2\), responses \(3, 1\); pass equal shapes"):
        correlations(np.zeros((3, 2)), np.zeros((3, 1)))


# The path through a model.


def by_hand(model, recording, tier, task):
    """Predictions and responses of a tier, one window at a time."""
    windows = Windows(recording, tier, processor=model.processor, allow_withheld=True)
    predictions, responses = [], []
    for window in windows:
        shown = {name: window[name][None] for name in ("video", "behavior") if name == "video" or "behavior" in task}
        with torch.no_grad():
            output = model(KEY, **shown, mask=task, all_neurons=True)
        predictions.append(output.response_predictions[0].mean(dim=0).double().numpy())
        responses.append(window["responses"][0].double().numpy())
    return np.array(predictions), np.array(responses)


@pytest.mark.parametrize("task", ["stimulus+behavior", "stimulus"])
def test_scores_are_those_of_predictions_averaged_over_the_target(model, folder, task):
    recording = open_recording(folder)
    predictions, responses = by_hand(model, recording, "test", task)
    scores = evaluate_static(model, recording, task=task, batch_size=3, progress=False)
    expected = np.array([np.corrcoef(predictions[:, n], responses[:, n])[0, 1] for n in range(NEURONS)])
    np.testing.assert_allclose(scores.single_trial_per_neuron, expected, atol=1e-4)
    assert scores.single_trial == pytest.approx(expected.mean(), abs=1e-4)
    shown = [str(IMAGES[trial]) for trial in trials_of("test")]
    fev, feve = explained_variance(predictions, responses, shown)
    np.testing.assert_allclose(scores.fev_per_neuron, fev, rtol=1e-5)
    np.testing.assert_allclose(scores.feve_per_neuron, feve, rtol=1e-3)
    assert scores.n_feve_neurons == (fev >= 0.15).sum() > 0
    assert (scores.n_trials, scores.n_images, scores.n_repeated_images, scores.n_trials_left_out) == (8, 3, 3, 0)
    assert scores.core_sha256 == model.core_hash() and len(scores.session_sha256) == 64
    assert not model.training


def test_the_recorded_responses_as_predictions_score_one(model, folder, monkeypatch):
    """Whatever order trials and images come in, each prediction meets its own response and its own repeats."""
    recording = open_recording(folder)
    queue = []
    real = Windows.batch

    def remembered(windows, indices):
        queue.append(real(windows, indices))
        return queue[-1]

    def perfect(model, key, mask, part, *_):
        return SimpleNamespace(response_predictions=queue.pop()["responses"][:, 30:])

    monkeypatch.setattr(Windows, "batch", remembered)
    monkeypatch.setattr(inputs, "run_model", perfect)
    scores = evaluate_static(model, recording, batch_size=3, progress=False)
    np.testing.assert_allclose(scores.single_trial_per_neuron, 1)
    np.testing.assert_allclose(scores.to_average_per_neuron, 1)
    truth = np.array([stored(folder, "responses", trial) for trial in trials_of("test")])
    shown = np.array([IMAGES[trial] for trial in trials_of("test")])
    groups = [truth[shown == name] for name in np.unique(shown)]
    fev, feve = competition_fev(groups, groups)
    np.testing.assert_allclose(scores.fev_per_neuron, fev, rtol=1e-5)
    assert scores.feve == pytest.approx(feve[fev >= 0.15].mean(), rel=1e-4) and scores.feve > 1


def test_scores_as_table_and_file(model, folder, tmp_path):
    scores = evaluate_static(model, folder, progress=False)
    text = str(scores)
    assert text.splitlines()[0] == f"{KEY}: tier test, task stimulus+behavior, 7 neurons, 8 trials of 3 images"
    assert f"{scores.to_average:.3f}" in text and "FEVE (FEV >= 0.15)" in text and "single-trial" in text
    again = StaticScores.load(scores.save(tmp_path / "scores.json"))
    assert again.to_dict() == scores.to_dict() and again.table() == text
    np.testing.assert_array_equal(again.feve_per_neuron, scores.feve_per_neuron)
    short = StaticScores.load(scores.save(tmp_path / "short.json", per_neuron=False))
    assert short.single_trial_per_neuron is None and short.feve == scores.feve
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold scores"):
        StaticScores.load(tmp_path / "other.json")


def test_without_identities_of_images_only_single_trials_are_scored(model, copy):
    (copy / "meta/trials/frame_image_id.npy").unlink()
    scores = evaluate_static(model, copy, progress=False)
    assert np.isfinite(scores.single_trial) and scores.to_average is None and scores.feve is None
    assert "no correlation to average and no FEVE" in str(scores)
    assert scores.to_dict()["feve_per_neuron"] is None


def test_an_image_that_is_not_known_is_no_repeat_of_another_one(model, folder, copy):
    file = copy / "meta/trials/frame_image_id.npy"
    ids = np.load(file).astype(float)
    ids[[trial for trial in trials_of("test") if ids[trial] == 102]] = np.nan  # shown twice
    np.save(file, ids)
    found, known = (evaluate_static(model, each, progress=False) for each in (copy, folder))
    assert (known.n_images, known.n_repeated_images) == (3, 3)
    assert (found.n_images, found.n_repeated_images) == (4, 2)
    assert any("2 trials count as images shown once" in note for note in found.notes)
    assert [trial.condition_hash for trial in open_recording(copy).trials][:4] == ["100", "1", "2", "101"]


def test_without_repeats_there_is_no_feve(model, folder):
    scores = evaluate_static(model, folder, "train", progress=False)
    assert scores.feve is None and scores.to_average == pytest.approx(scores.single_trial)
    assert (scores.n_images, scores.n_repeated_images) == (8, 0)
    assert "no image was shown twice" in scores.notes[0]


def test_trials_with_nan_are_left_out_and_counted(model, copy):
    first, second, third = trials_of("test")[:3]
    change(copy, "behavior", lambda array: array * np.nan, [first])
    change(copy, "responses", lambda array: array * ([np.nan] + [1.0] * 6), [second])
    change(copy, "images", lambda array: np.where(array > 250, np.nan, array), [third])
    scores = evaluate_static(model, copy, progress=False)
    assert (scores.n_trials, scores.n_trials_left_out) == (5, 3)
    assert "3 trials left out: NaN in behaviour, image or responses" in scores.notes


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("forecasting+stimulus+behavior", "it shows responses, and the one response of a trial is what is to be pred"),
        ("behavior", "it shows responses"),
        ("test/responses_from_behavior", "scores of single images are those of a whole image and the whole population"),
        ("nonsense", "Unknown task 'nonsense'"),
    ],
)
def test_other_tasks_are_refused_with_the_reason(model, folder, task, text):
    with pytest.raises(ValueError, match=text):
        evaluate_static(model, folder, task=task, progress=False)


def test_what_cannot_be_scored_is_refused(model, folder, tmp_path):
    with pytest.raises(ValueError, match="responses of tier 'final_test' are withheld"):
        evaluate_static(model, folder, "final_test", progress=False)
    with pytest.raises(ValueError, match="no trials of tier 'oracle'; its tiers are test, train"):
        evaluate_static(model, folder, "oracle", progress=False)
    from omnimouse import simulate_recording

    simulated = simulate_recording(tmp_path / "mouse", 1, n_neurons=8, minutes=1.0)
    with pytest.raises(ValueError, match=r"no recording of single images \(SENSORIUM 2022\); score it with evaluate"):
        evaluate_static(model, simulated, progress=False)


# Submissions.


def read_submission(path: Path) -> tuple[list[str], list[str], np.ndarray, list[list[int]]]:
    """As the competition reads it."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["trial_indices", "image_ids", "prediction", "neuron_ids"]
    return (
        [row["trial_indices"] for row in rows],
        [row["image_ids"] for row in rows],
        np.array([ast.literal_eval(row["prediction"]) for row in rows]),
        [ast.literal_eval(row["neuron_ids"]) for row in rows],
    )


@pytest.mark.parametrize("profile", ["strict", "published"])
def test_a_submission_for_withheld_responses(model, folder, tmp_path, profile):
    recording = open_recording(folder)
    processor = OmniMouseProcessor(profile=profile)
    path = write_static_submission(
        model, recording, tmp_path / "submission.csv", "final_test", processor=processor, progress=False
    )
    trials, images, predictions, neurons = read_submission(path)
    assert trials == [str(19 - trial + 500) for trial in trials_of("final_test")]
    assert images == ["103", "103"]
    assert neurons == [recording.unit_ids.tolist()] * 2
    stds = recording.responses.stds
    floor = 0.01 * np.mean(stds)
    expected = by_hand(model, recording, "final_test", "stimulus+behavior")[0]
    # In units of the processor first, then of the competition.
    expected = expected * processor.floored_response_stds(stds) / np.maximum(stds, floor)
    np.testing.assert_allclose(predictions, expected, rtol=2e-4 if profile == "published" else 1e-5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["submission.csv"]


def test_the_published_floor_is_undone_in_a_submission(model, copy, tmp_path):
    """Its floor of 1 makes other units, in which the competition does not score."""
    np.save(copy / "meta/statistics/responses/all/std.npy", np.array([0.5, 0.25, 1e-9, 2.0, 4.0, 1.0, 0.1]))
    written = {}
    for profile in ("strict", "published"):
        path = tmp_path / f"{profile}.csv"
        write_static_submission(
            model, copy, path, processor=OmniMouseProcessor(profile=profile), task="stimulus", progress=False
        )
        written[profile] = read_submission(path)[2]
    floor = 0.01 * np.mean([0.5, 0.25, 1e-9, 2.0, 4.0, 1.0, 0.1])
    scale = 1 / np.array([0.5, 0.25, floor, 1.0, 1.0, 1.0, 0.1])
    np.testing.assert_allclose(written["published"], written["strict"] * scale, rtol=1e-6)


@pytest.mark.parametrize("name", ["trials/trial_idx", "trials/frame_image_id", "neurons/unit_ids"])
def test_a_submission_needs_names(model, copy, tmp_path, name):
    (copy / f"meta/{name}.npy").unlink()
    with pytest.raises(ValueError, match=f"restore meta/{name}.npy"):
        write_static_submission(model, copy, tmp_path / "submission.csv", progress=False)
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


def test_a_submission_is_whole_or_not_at_all(model, copy, tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("older")
    change(copy, "behavior", lambda array: array * np.nan, trials_of("test")[:1])
    with pytest.raises(ValueError, match="1 of 8 trials of tier 'test' cannot be predicted because of NaN"):
        write_static_submission(model, copy, path, progress=False)
    with pytest.raises(ValueError, match="lies in the recording"):
        write_static_submission(model, copy, copy / "submission.csv", "final_test", progress=False)
    assert path.read_text() == "older" and not (copy / "submission.csv").exists()


# The command.


def test_the_command_scores_and_writes_a_submission(model, folder, tmp_path, capsys):
    model.save_pretrained(tmp_path / "core")
    options = ["--core", str(tmp_path / "core"), "--cpu"]
    output = tmp_path / "scores.json"
    assert main(["evaluate", str(folder), *options, "--tier", "test", "--output", str(output)]) == 0
    expected = evaluate_static(model, folder, progress=False)
    assert capsys.readouterr().out == f"{expected.table()}\n"
    np.testing.assert_allclose(StaticScores.load(output).feve_per_neuron, expected.feve_per_neuron)
    assert main(["evaluate", str(folder), *options, "--tier", "test", "--tasks", "stimulus", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["task"], printed["n_images"], "fev_per_neuron" in printed) == ("stimulus", 3, False)
    submission = tmp_path / "submission.csv"
    ask = ["predict", str(folder), *options, "--task", "stimulus", "--output", str(submission)]
    assert main(ask) == 0  # of final_test, as by default
    assert f"Wrote {submission}: a submission for tier final_test" in capsys.readouterr().out
    assert len(read_submission(submission)[0]) == TIERS.count("final_test")
    for more, text in (
        (["--max-windows", "3"], "leave out --max-windows and --stride"),
        (["--stride", "2"], "leave out --max-windows and --stride"),
        (["--cache-video"], "leave out --cache-video"),
        (["--tasks", "stimulus,stimulus+behavior"], "one task at a time"),
        (["--tasks", "forecasting"], "it shows responses"),
    ):
        assert main(["evaluate", str(folder), *options, "--tier", "test", *more]) == 2
        assert text in capsys.readouterr().err
    assert main([*ask, "--stride", "2"]) == 2
