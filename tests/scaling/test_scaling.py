"""Scaling curves: fits of known laws, the verdict, and real runs from folder to report."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from omnimouse.cli.main import main
from omnimouse.scaling import ScalingPoint, fit_power_law, scaling
from omnimouse.scaling.curves import LOSS, judge, make_curves
from omnimouse.scaling.points import best_points
from omnimouse.training import anneal, train
from omnimouse.training.runs.run_folder import read_history

X = [1, 2, 4, 8, 16, 32]


def test_a_law_without_noise_is_found_again():
    for limit, scale, exponent in ((0.7, 0.3, 0.5), (0.0, 2.0, 1.1), (-1.0, 0.1, 0.2)):
        y = limit + scale * np.array(X, float) ** -exponent
        law = fit_power_law(X, y)
        assert law(np.array(X, float)) == pytest.approx(y, abs=1e-3 * scale)
        assert law.exponent == pytest.approx(exponent, rel=0.03)
        assert law.limit == pytest.approx(limit, abs=0.1 * scale)
        assert np.ptp(law.draws[:, 0]) < 0.2 * scale
        rising = fit_power_law(X, -y, rising=True)
        assert (rising.limit, rising.scale, rising.exponent) == pytest.approx((-law.limit, -law.scale, law.exponent))


def test_intervals_hold_what_they_promise():
    """Of 60 noisy samples of one law, the 95 % interval of the next doubling misses the truth in a few."""
    rng = np.random.default_rng(3)
    truth = np.array([0.7 + 0.3 * x**-0.5 for x in X])
    expected = 0.3 * (64**-0.5 - 32**-0.5)
    inside, widths = 0, []
    for seed in range(60):
        law = fit_power_law(X, truth + rng.normal(0, 0.004, len(X)), seed=seed)
        change, draws = law.step(32)
        low, high = law.interval(draws)
        assert low <= change <= high
        inside += low <= expected <= high
        widths.append(high - low)
    assert inside >= 50 and np.median(widths) < 0.015


def test_a_law_of_the_wrong_sign_is_flat():
    law = fit_power_law(X, [1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    assert law.scale == 0.0 and law.limit == pytest.approx(1.25) and law(3.0) == pytest.approx(1.25)


def test_few_points_make_no_law_or_none_with_an_interval():
    assert fit_power_law([1, 2, 2], [3, 2, 2]) is None
    law = fit_power_law([1, 2, 4], [1.0, 0.8, 0.7])
    assert law(np.array([1.0, 2, 4])) == pytest.approx([1.0, 0.8, 0.7], abs=0.01)
    assert law.interval(law.draws[:, 0]) is None and law.interval(law.step(4)[1]) is None
    for x, y in (([1, 2], [1]), ([0, 1, 2], [1, 1, 1]), ([1, 2, 3], [1, np.nan, 1])):
        with pytest.raises(ValueError, match="x"):
            fit_power_law(x, y)


def point(parameters, n_sessions, loss, steps=100):
    sessions = tuple(f"m{i:02d}-1-1" for i in range(n_sessions))
    return ScalingPoint(
        f"{parameters}-{n_sessions}-{steps}", parameters, sessions, 10 * n_sessions, steps, 1e6, 1e12, loss,
        {"stimulus": loss}, {"stimulus": 1 - loss}, ("m00-1-1",),
    )  # fmt: skip


def grid(data_exponent, size_exponent):
    """One size over sessions and one set of sessions over sizes, with a little scatter."""
    wiggle = iter(0.0005 * (-1) ** i for i in range(20))
    points = [point(1000, n, 0.6 + 0.3 * n**-data_exponent + next(wiggle)) for n in X]
    corner = points[-1].loss
    points += [
        point(1000 * f, 32, corner + 0.3 * (f**-size_exponent - 1) + next(wiggle)) for f in (0.125, 0.25, 0.5, 2)
    ]
    return points


def test_the_verdict_names_what_limits_and_says_when_it_does_not_know():
    verdict = judge(*make_curves(grid(0.5, 0.02)))
    assert verdict.limit == "data" and verdict.text.endswith("more data helps more than a larger core.")
    assert verdict.data_change < verdict.data_interval[1] < 0
    verdict = judge(*make_curves(grid(2.0, 0.5)))
    assert verdict.limit == "size" and "(at 1,000 parameters, from 32 sessions); 95 % interval" in verdict.text
    data, size = make_curves(grid(0.5, 0.02))
    assert judge(data, []).limit == judge(data[:1], size[:0]).limit == "open"
    assert "cannot be said" in judge(data, []).text
    alike = judge(data, data)
    assert alike.limit == "open" and "do not tell" in alike.text


def test_curves_hold_what_differs_in_one_thing_only():
    points = [point(1000, 1, 0.9), point(1000, 2, 0.8), point(1000, 4, 0.75), point(2000, 4, 0.7), point(3000, 2, 0.7)]
    points.append(replace(points[0], steps=50, loss=0.85, name="shorter, and better"))
    data, size = make_curves(points)
    assert [(curve.fixed, curve.x) for curve in data] == [(1000, [1, 2, 4])]
    assert [(curve.fixed, curve.x) for curve in size] == [(4, [1000, 2000]), (2, [1000, 3000])]
    assert data[0].points[0].name == "shorter, and better" in [best.name for best in best_points(points)]
    assert data[0].laws[LOSS] is not None and size[0].laws[LOSS] is None
    assert make_curves(points, "neurons")[0][0].x == [10, 20, 40]


@pytest.fixture(scope="module")
def runs(small_recipe, corpus_path, tmp_path_factory):
    """Runs of 1, 2 and 3 sessions, all scored on the first, with an anneal each (two of the last)."""
    folder = tmp_path_factory.mktemp("scaling")
    made = []
    for n in (1, 2, 3):
        recipe = small_recipe(
            folder / f"sessions-{n}",
            recordings={"paths": [str(corpus_path / f"m{i + 1}") for i in range(n)]},
            evaluation={
                "every": 6, "masks": ["stimulus+behavior", "behavior"], "max_windows": 2, "sessions": ["a-1-1"]
            },
            outputs={"checkpoint_every": 3, "keep_newest": 3, "keep_every": None, "log_every": 2, "trackers": []},
        )  # fmt: skip
        train(recipe, progress=False)
        anneal(folder / f"sessions-{n}", [3, 6] if n == 3 else 6, steps=3, progress=False)
        made.append(folder / f"sessions-{n}")
    return made


def test_from_runs_to_a_report(runs, tmp_path):
    report = scaling(runs)
    assert [len(p.sessions) for p in report.points] == [1, 2, 3, 3]
    assert [p.neurons for p in report.points] == [12, 23, 33, 33]
    assert [p.steps for p in report.points] == [9, 9, 6, 9]
    assert {p.evaluated for p in report.points} == {("a-1-1",)}
    # Rows of a run that were written before a fork, and those of the fork, count each step once.
    rows = read_history(runs[2] / "history.jsonl")
    whole = sum(row["flops"] for row in rows if row["kind"] == "training")
    fork = read_history(runs[2] / "anneals" / "step-00000006-1-sqrt-3" / "history.jsonl")
    assert report.points[3].flops == whole + sum(row["flops"] for row in fork if row["kind"] == "training")
    # The fork from the middle went through what the run itself went through, up to step 6.
    assert report.points[2].flops == whole and report.points[2].tokens > 0
    end = [row for row in fork if row["kind"] == "evaluation"][-1]
    assert report.points[3].loss == end["loss"] and report.points[3].scores.keys() == {"stimulus+behavior"}
    assert (
        repr(report).startswith("ScalingReport(4 cores, 1 curves over data, 0 over size: ") and len(repr(report)) < 600
    )
    assert "sessions-1/step-00000006-1-sqrt-3 *</td>" in report._repr_html_() and "too few" not in report._repr_html_()
    (curve,) = report.data_curves
    assert repr(curve).startswith("Curve(3 points from 1 to 3 sessions, ") and len(repr(curve.laws[LOSS])) < 80
    assert curve.x == [1, 2, 3] and report.size_curves == ()
    written = report.save(tmp_path / "out")
    assert [path.name for path in written] == ["scaling.json", "scaling.md", "data-size.svg"]
    ElementTree.fromstring(written[2].read_text())
    assert json.loads(written[0].read_text())["verdict"]["limit"] == "open"


def test_the_command(runs, capsys, tmp_path):
    assert main(["scaling", *map(str, runs), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 4
    assert main(["scaling", *map(str, runs[:2]), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "| sessions-2/step-00000006-1-sqrt-3 * |" in printed and "too few points" in printed
    assert f"Wrote {tmp_path / 'out' / 'data-size.svg'}" in printed
    assert main(["scaling", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused_or_warned_of(runs, tmp_path, small_recipe):
    with pytest.raises(ValueError, match="name at least one folder"):
        scaling([])
    with pytest.raises(ValueError, match="data_axis"):
        scaling(runs, data_axis="hours")
    bare = tmp_path / "bare"
    train(small_recipe(bare), progress=False)
    with pytest.raises(ValueError, match="has no finished anneal"):
        scaling([bare])
    anneal(bare, 6, steps=1, progress=False)
    with pytest.raises(ValueError, match="was not scored at its end"):
        scaling([bare])
    evaluation = ["evaluation.every=6", "evaluation.max_windows=1"]
    anneal(bare, 6, steps=2, overrides=[*evaluation, "evaluation.masks=[behavior]"], progress=False)
    with pytest.raises(ValueError, match="different masks"):
        scaling([*runs, bare / "anneals" / "step-00000006-1-sqrt-2"])
    anneal(bare, 6, steps=3, overrides=[*evaluation, "evaluation.masks=[stimulus+behavior, behavior]"], progress=False)
    with pytest.warns(UserWarning, match="different sessions"):
        scaling([*runs, bare / "anneals" / "step-00000006-1-sqrt-3"])
