"""The benchmark for GPUs runs at toy size on a CPU, and nothing that befalls a case stops the others; kernel counts."""

import dataclasses
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_models import SMALLEST

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    """The module `benchmarks/gpu.py`."""
    yield from _module(monkeypatch, "gpu")


@pytest.fixture
def floor(monkeypatch):
    """The module `benchmarks/floor.py`."""
    yield from _module(monkeypatch, "floor")


@pytest.fixture
def adapter_step(monkeypatch):
    """The module `benchmarks/adapter_step.py`."""
    yield from _module(monkeypatch, "adapter_step")


@pytest.fixture
def precision(monkeypatch):
    """The module `benchmarks/precision.py`."""
    yield from _module(monkeypatch, "precision")


def _module(monkeypatch, name):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module(name)
    for other in set(sys.modules) - before:
        if str(getattr(sys.modules[other], "__file__", "")).startswith(str(BENCHMARKS)):
            sys.modules.pop(other)


def test_a_share_is_of_the_best_product_or_of_the_copy(floor):
    lowest = floor.Floor("cpu", 2, {"float32": {"a": 1e9, "b": 4e9}, "bfloat16": {"a": 8e9}}, copied=5e9)
    assert lowest.share(operations=1e9, seconds=0.5) == 0.5
    assert lowest.share(operations=1e9, seconds=0.5, precision="bfloat16") == 0.25
    assert lowest.share(n_bytes=1e9) == 0.2
    with pytest.raises(ValueError, match="operations or n_bytes"):
        lowest.share(operations=1.0, n_bytes=1.0)


def test_what_bfloat16_saves_and_changes(precision, tmp_path):
    precision.main(["--quick", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "precision.json").read_text())
    assert [row["task"] for row in found["times"]] == list(precision.TASKS)
    assert all(0 < row["largest_change"] < 0.1 for row in found["times"])
    assert [part["settings"]["precision"] for part in found["scores"]] == ["float32", "bfloat16"]


def test_what_a_step_of_adaptation_costs(adapter_step, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_step, "TASKS", ["stimulus", "population"])
    adapter_step.main(["--quick", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "adapter-step.json").read_text())
    assert [row["task"] for row in found["rows"]] == ["stimulus", "population", "mean"]
    assert 1 < found["rows"][0]["step_flops"] / found["rows"][0]["forward_flops"] < 2.2
    assert "read" in found["rows"][0] and "read" not in found["rows"][1]
    assert (tmp_path / "adapter-step.md").read_text().count("| tiny | ") == 3


def test_the_floor_is_measured_at_the_widths_of_the_model(floor):
    found = floor.floor(quick=True, repeats=1)
    assert set(found.products) == {"float32", "bfloat16"}
    assert list(found.products["float32"]) == ["64x64x64", "64x128x384", "64x256x768", "64x768x2176"]
    assert found.copied > 0 and all(rate > 0 for rate in found.products["bfloat16"].values())
    assert floor.Floor(**json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_the_exponent_of_a_curve_is_that_of_its_larger_points(monkeypatch):
    for cost in _module(monkeypatch, "cost"):
        rows = [{"status": "ok", "value": x, "seconds": max(100.0, x**1.5)} for x in (2, 4, 64, 128, 256)]
        late = {"status": "not run: time was up", "value": 512}
        assert abs(cost.exponent([*rows[2:], late], "seconds") - 1.5) < 1e-6
        assert cost.exponent(rows[:1], "seconds") is None
        table = cost.exponents_table([{**row, "axis": "neurons", "preset": "5m", "pass": "step",
                                       "above_model_bytes": row["value"]} for row in rows[2:]])  # fmt: skip
        assert table[-1] == "| neurons | 5m | step | **1.50** | 1.00 |"


def test_time_covered_by_spans_counts_once(monkeypatch):
    for speed in _module(monkeypatch, "gpu_speed"):
        assert speed.busy_share([(0, 4), (2, 6), (3, 5), (8, 10)]) == 0.8
        assert speed.busy_share([]) == 0


@pytest.fixture
def kernel_counts(monkeypatch):
    """The module `benchmarks/kernel_counts.py`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kernel_counts

    yield kernel_counts
    sys.modules.pop("machine", None)  # not the module itself: its operations are registered once per process


def test_counts_of_a_step_are_those_of_its_operations(kernel_counts):
    x, w = torch.ones(3, 4), torch.ones(4, 5, requires_grad=True)
    with kernel_counts.Counting() as counting:
        y = (x @ w).t()[:2]
        assert y.sum().item() == 0  # a synchronisation, and no number
    assert counting.counts.kernels == {"mm": 1, "sum": 1} and counting.counts.synchronisations == 1
    assert counting.counts.moved == 4 * (12 + 20 + 15) + 4 * (6 + 1)
    assert counting.peak == 4 * (15 + 1)


def test_the_model_is_counted_and_the_table_keeps_other_runs(kernel_counts, tmp_path):
    sizes = {"batch": 2, "n_neurons": 12, "population": 8, **SMALLEST}
    first, grouped = (
        kernel_counts.count_step("tiny", "forecasting+stimulus+behavior", packed=packed, **sizes)
        for packed in (True, False)
    )
    for counted, calls in ((first, {"attention", "packed_attention"}), (grouped, {"attention"})):
        forward, backward = (counted[name].kernels for name in ("forward", "backward"))
        assert sum(forward[name] for name in calls) == backward["attention_backward"] > 3
    assert first["forward"].synchronisations == first["backward"].synchronisations == 0
    assert first["forward"].kernels.total() < grouped["forward"].kernels.total()
    assert 0 < first["saved"] < grouped["saved"] < grouped["peak"]
    fewer = kernel_counts.count_step("tiny", "forecasting+stimulus+behavior", channels=(0, 2), **sizes)
    assert fewer["forward"].synchronisations == fewer["backward"].synchronisations == 0
    row = kernel_counts.as_row("tiny", "forecasting", "before", first)
    kernel_counts.write(tmp_path / "counts.json", "before", [row], ["toy"])
    kernel_counts.write(tmp_path / "counts.json", "after", [{**row, "run": "after"}], ["toy"])
    table = (tmp_path / "counts.md").read_text()
    assert "| tiny | forecasting | before |" in table and "| tiny | forecasting | after |" in table


def test_the_whole_script_runs_on_a_cpu(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    machine, *rows = map(json.loads, (tmp_path / "gpu.jsonl").read_text().splitlines())
    assert machine["machine"]["device"] == "cpu"
    others = {"left out: flex attention has no backward pass on a CPU", "left out: this version has no such way"}
    assert {row["status"] for row in rows} - others == {"ok"}
    cases = {row["case"] for row in rows}
    assert {"stimulus_behavior", "tiny, masks 0 to 4", "finetune", "evaluate", "predict", "train", "kill_and_resume",
            "floor", "tiny, population", "cached video features",
            "compiled chains against eager", "tiny, population, plain"} <= cases  # fmt: skip
    printed = done.stdout.splitlines()
    for row in rows:
        assert json.dumps(row) in printed  # and its row of the table before it
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"| {row['case']} | {row['status']} |" in table for row in rows)


CHILD = """
import json, os, sys, time
cases = [["right", 5], ["dies", 5], ["hangs", 0.3], ["fails", 5], ["last", 5]]
print("what a library says")
print(json.dumps({"cases": cases}), flush=True)
for name, _ in cases[int(sys.argv[1]):]:
    if name == "dies":
        print("CUDA error: an illegal memory access was encountered", file=sys.stderr, flush=True)
        os.abort()
    if name == "hangs":
        time.sleep(60)
    print(json.dumps({"case": name, "status": "FAILED: it" if name == "fails" else "ok"}), flush=True)
"""


def test_a_case_that_fails_dies_or_hangs_is_a_row_and_the_next_runs(gpu):
    rows = []
    gpu.run_cases([sys.executable, "-c", CHILD], "group", time.monotonic() + 60, rows.append)
    found = {row["case"]: row["status"] for row in rows}
    assert list(found) == ["right", "dies", "hangs", "fails", "last"]
    assert (found["right"], found["fails"], found["last"]) == ("ok", "FAILED: it", "ok")
    assert "process ended with -6" in found["dies"] and "illegal memory access" in found["dies"]
    assert found["hangs"] == "FAILED: ran over its time"


def test_a_process_that_cannot_start_is_one_row(gpu):
    rows = []
    gpu.run_cases([sys.executable, "-c", "raise ImportError('no such thing')"], "g", time.monotonic() + 60, rows.append)
    (row,) = rows
    assert row["case"] == "all" and "no such thing" in row["status"]


def test_nothing_starts_when_time_is_up(gpu):
    rows = []
    gpu.run_cases([sys.executable, "-c", CHILD], "group", time.monotonic() - 1, rows.append)
    assert rows == [{"group": "group", "case": "all", "status": "not run: time was up"}]


def test_an_absent_device_is_refused_at_once(gpu):
    with pytest.raises(ValueError, match="The devices of this machine are"):
        gpu.main(["--device", "banana", "--quick"])
