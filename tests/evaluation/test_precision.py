"""In which precision scores are computed: what was asked for, what the weights are, or what was measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_models import build

from omnimouse.evaluation import evaluate, predict
from omnimouse.evaluation.computing import precision, product_gain
from omnimouse.evaluation.computing.precision import choose_precision, computing_in
from omnimouse.evaluation.scores import Scores
from omnimouse.hub.sources import cache_folder
from omnimouse.support.files import read_mapping, write_text

SILENT = {"progress": False}


def stand_in(size=256, dtype=torch.float32, kind="cpu"):
    return SimpleNamespace(
        device=torch.device(kind), dtype=dtype, config=SimpleNamespace(hidden_size=size, ffn_multiplier=2.67)
    )


@pytest.fixture
def gain(monkeypatch):
    """A processor with bfloat16, and what it gains by it."""
    found = {"gain": 2.0}
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "bfloat16_gain", lambda *size: found["gain"])
    return found


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(product_gain, "_known", {})
    return tmp_path / "cache" / product_gain.FILE


def test_auto_takes_bfloat16_where_it_is_clearly_faster_and_the_core_is_large(gain, monkeypatch):
    assert choose_precision("auto", stand_in()) == "bfloat16"
    assert choose_precision("auto", stand_in(size=128)) == "float32"
    gain["gain"] = 1.4
    assert choose_precision("auto", stand_in()) == "float32"
    assert choose_precision("auto", stand_in(kind="cuda")) == "bfloat16"  # accelerators are not measured
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device: False)
    gain["gain"] = 9.0
    assert choose_precision("auto", stand_in()) == "float32"


def test_what_was_asked_for_goes_first_then_the_weights_then_the_callers_autocast(gain):
    assert choose_precision("float32", stand_in()) == "float32"
    assert choose_precision("bfloat16", stand_in(size=8)) == "bfloat16"
    for asked in ("auto", "bfloat16"):
        assert choose_precision(asked, stand_in(dtype=torch.bfloat16)) == "bfloat16"
    with pytest.raises(ValueError, match=r"'float32', but the weights are in bfloat16: load them with dtype="):
        choose_precision("float32", stand_in(dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="precision is 'half'; expected 'auto', 'float32' or 'bfloat16'"):
        choose_precision("half", stand_in())
    gain["gain"] = 0.5
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_precision("auto", stand_in()) == "bfloat16"
        for asked, active in (("auto", True), ("float32", False), ("bfloat16", True)):
            with computing_in(stand_in(), asked):
                assert torch.is_autocast_enabled("cpu") == active
    with computing_in(stand_in(), "bfloat16"):
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def test_scores_say_their_precision(fakes, tmp_path):
    scores = {name: evaluate(fakes.model, fakes.recording, "stimulus", precision=name, **SILENT)
              for name in ("auto", "float32", "bfloat16")}  # fmt: skip
    assert [found.settings["precision"] for found in scores.values()] == ["float32", "float32", "bfloat16"]
    assert "computed in bfloat16" in Scores.load(scores["bfloat16"].save(tmp_path / "scores.json")).table()
    assert "bfloat16" not in scores["auto"].table()
    with pytest.raises(ValueError, match="precision is 'bf16'"):
        predict(fakes.model, fakes.recording, "stimulus", precision="bf16", **SILENT)


def test_a_gain_is_measured_once_and_kept(cache, monkeypatch):
    gains = iter((2.0, 3.0, 4.0, 5.0))
    monkeypatch.setattr(product_gain, "_measure", lambda size, width: next(gains))
    assert [product_gain.bfloat16_gain(8, 2.0) for _ in range(2)] == [2.0, 2.0]
    assert product_gain.bfloat16_gain(16, 2.0) == 3.0
    assert sorted(read_mapping(cache, "gains").values()) == [2.0, 3.0]
    monkeypatch.setattr(product_gain, "_known", {})  # another process
    assert product_gain.bfloat16_gain(8, 2.0) == 2.0
    monkeypatch.setattr(product_gain, "_known", {})
    write_text(cache, "{")  # damaged
    assert product_gain.bfloat16_gain(8, 2.0) == 4.0
    monkeypatch.setattr(product_gain, "_known", {})
    write_text(cache, cache.read_text().replace("4.0", '"fast"'))
    assert product_gain.bfloat16_gain(8, 2.0) == 5.0


def test_a_gain_is_a_number_where_nothing_can_be_written(cache):
    cache.parent.write_text("no folder")
    assert cache_folder() == cache.parent
    state = torch.get_rng_state()
    assert 0.01 < product_gain.bfloat16_gain(64, 2.0) < 100
    assert torch.equal(torch.get_rng_state(), state)


def test_bfloat16_changes_predictions_by_its_rounding(model_and_inputs):
    model, inputs = model_and_inputs
    with torch.inference_mode(), computing_in(model, "float32"):
        exact = model("a-1-1", **inputs, all_neurons=True).response_predictions
    with torch.inference_mode(), computing_in(model, "bfloat16"):
        rounded = model("a-1-1", **inputs, all_neurons=True).response_predictions
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0, atol=0.03 * float(exact.abs().max()))


@pytest.fixture
def model_and_inputs():
    model = build(("a-1-1", 20, "a"))
    generator = torch.Generator().manual_seed(0)
    return model, {
        "responses": torch.rand(2, 60, 20, generator=generator),
        "video": torch.randn(2, 1, 60, 36, 64, generator=generator),
        "mask": "forecasting+stimulus",
    }
