"""Some hundred cases of the damage that `tests/fuzz_recordings.py` does by the thousand, and that it notices things."""

from __future__ import annotations

import os

import numpy as np
import pytest
from fuzzing.case import ViolationError, describe_damage, run_case
from fuzzing.mutations import MUTATIONS
from fuzzing.sessions import READERS

import omnimouse.recordings.checks.check

CASES = 60
"""Of each reader; other seeds than those that the script begins with."""

ONCE_WRONG = {
    "experanto-npy": (38, 47, 50, 1163, 1638, 5000, 5077, 5085, 5175, 5215, 5405, 5443, 5523, 5627, 5933),
    "experanto-mem": (22, 35, 101, 1163, 1384, 100863, 100966),
    "experanto-tar": (38,),
    "sensorium-2023": (15, 199, 1297, 1493, 1769, 1998),
    "sensorium-2023-zip": (89, 1116, 1368),
    "sensorium-2022": (35, 39, 200591, 200923, 210331),
    "experanto-named": (200068,),
    "datasets": (41, 128, 887, 1047, 210724, 300744, 301099, 301693, 302132, 400915, 401904),
}
"""Seeds that found something when they were first run."""


@pytest.mark.parametrize("reader", READERS)
def test_no_damage_leads_to_anything_but_findings_and_value_errors(reader, tmp_path):
    outcomes = set()
    for seed in (*ONCE_WRONG[reader], *range(9_000_000, 9_000_000 + CASES)):
        try:
            outcomes.add(run_case(reader, seed, tmp_path / "case").outcome)
        except Exception as error:
            error.args = (f"{reader}, seed {seed} ({describe_damage(reader, seed)}): {error}",)
            raise
    assert outcomes == {"opened", "refused"}
    assert not (tmp_path / "case").exists()


@pytest.mark.parametrize("reader", READERS)
def test_a_sound_session_is_opened_and_cut(reader, tmp_path, monkeypatch):
    monkeypatch.setattr("fuzzing.case.mutate", lambda tree, rng: [])
    monkeypatch.setattr("fuzzing.case.archive_bytes", lambda content, rng: (content, "archive whole"))
    case = run_case(reader, 0, tmp_path / "case")
    assert (case.outcome, case.windows) == ("opened", 21 if reader == "sensorium-2022" else 18)


def test_every_mutation_changes_something_and_a_seed_gives_the_same_damage():
    assert len({describe_damage("experanto-mem", seed) for seed in range(100)}) > 90
    assert describe_damage("experanto-mem", 7) == describe_damage("experanto-mem", 7)
    import random

    for mutation in set(MUTATIONS):
        tree = READERS["experanto-npy"].tree()
        changed = []
        for seed in range(30):
            before = dict(tree)
            try:
                mutation(tree, random.Random(seed))
            except LookupError:
                continue
            changed.append(tree != before)
        assert any(changed), mutation.__name__


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (lambda path: (path / "left.txt").write_text("x"), "written into the recording"),
        (lambda path: os.utime(path / "meta.json", (1, 1)), "written into the recording"),
        (lambda path: np.zeros(3)[5], "no words for it"),
    ],
)
def test_what_must_not_happen_is_noticed(tmp_path, monkeypatch, fault, text):
    monkeypatch.setattr("fuzzing.case.mutate", lambda tree, rng: [])
    real = omnimouse.recordings.checks.check.open_parts

    def load(folder, findings):
        fault(folder)
        return real(folder, findings)

    monkeypatch.setattr("omnimouse.recordings.checks.check.open_parts", load)
    with pytest.raises(ViolationError, match=text):
        run_case("experanto-npy", 0, tmp_path / "case")
