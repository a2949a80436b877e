"""The README runs as it stands: its Python blocks in order, in one process, at small size."""

from __future__ import annotations

import re
from pathlib import Path

from small_models import CASES, client, rank_contents, write_ranks

README = Path(__file__).parents[1] / "README.md"

QUICK = 'steps=1, batch_size=1, masks=["forecasting"], validation_tier=None)'
SUBSTITUTIONS = {
    "n_neurons=64, minutes=6": "n_neurons=24, minutes=1",
    'sessions="all"': 'sessions=["core00-1-1"]',
    'output_dir="first-run")': f'output_dir="first-run", {QUICK}',
    "finetune(model, recording)": f"finetune(model, recording, {QUICK}",
    'tasks="all")': 'tasks="stimulus", max_windows=1)',
    "evaluate(model, recording)": 'evaluate(model, recording, tasks="stimulus", max_windows=1)',
    'output="predictions.npz"': 'output="predictions.npz", max_windows=1',
    "29515-10-12": next(iter(CASES["sessions"])),
    "me/my-mouse": "lab/my-mouse",
}
"""What is made smaller, and the names that the Hub of the tests has."""


def test_the_python_of_the_readme_runs(loopback_hub, tmp_path):
    loopback_hub.add_repo("the-enigma-project/omnimouse-80M", write_ranks(tmp_path / "ckpt", rank_contents()))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    code = "\n".join(blocks)
    for old, new in SUBSTITUTIONS.items():
        assert old in code, f"the README has no {old!r} any more"
        code = code.replace(old, new)
    check = f"""
assert Path("predictions.npz").is_file() and out.response_predictions.shape == (1, 30, 24)
assert session_keys("omnimouse-80m") == {sorted(CASES["sessions"])!r}
assert recording.session_key in load("lab/my-mouse").session_keys
"""
    client(loopback_hub, code + check, tmp_path / "home", token="hf_write")


def test_the_python_about_arrays_runs(tmp_path, monkeypatch, capsys):
    text = README.with_name("docs").joinpath("recordings.md").read_text(encoding="utf-8")
    section = text[text.index("## Plain arrays") : text.index("`recording_from_arrays` takes")]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", section, flags=re.S)), names)
    names["file"].close()
    assert names["recording"].tiers == ["train", "validation", "final_test"] and names["recording"].start_time == 102
    assert names["saved"].session_key == "m7-1-2" and "warning" not in capsys.readouterr().out
