"""One case of `long.py`, in a process of its own: prints what it measured as JSON."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from meters import Row, answer, memory


def _opened(case: Row) -> tuple[Any, Any]:
    import torch

    from omnimouse import OmniMouseConfig, OmniMouseModel, open_recording

    torch.manual_seed(0)
    recording = open_recording(case["recording"])
    model = OmniMouseModel(OmniMouseConfig.from_preset(case["preset"]))
    model.add_session(recording)
    return model, recording


def predict(case: Row) -> Row:
    """Some windows into a file, once more of them for the memory, and the hash of the file."""
    import omnimouse
    from omnimouse.evaluation.predicting import prediction_store
    from omnimouse.support.files import hash_file

    prediction_store.COMMIT_SECONDS = case.get("commit_seconds", prediction_store.COMMIT_SECONDS)

    model, recording = _opened(case)
    output, asked = Path(case["output"]), {"tier": case["tier"], "progress": False}
    opened, few = memory()["peak"], None
    if case["few"]:
        omnimouse.predict(model, recording, case["task"], output=output, max_windows=case["few"], **asked)
        few = memory()["peak"]
    start = time.perf_counter()
    result = omnimouse.predict(model, recording, case["task"], output=output, max_windows=case["windows"], **asked)
    seconds, peak = time.perf_counter() - start, memory()["peak"]
    return {
        "windows": len(result.window_starts), "seconds": seconds, "peak": peak, "peak_of_few": few, "opened": opened,
        "bytes": output.stat().st_size, "sha256": hash_file(output),
    }  # fmt: skip


def evaluate(case: Row) -> Row:
    """All tasks at once."""
    import omnimouse

    model, recording = _opened(case)
    start = time.perf_counter()
    scores = omnimouse.evaluate(model, recording, tier=case["tier"], max_windows=case["windows"], progress=False)
    return {"tasks": len(scores.tasks), "seconds": time.perf_counter() - start, "peak": memory()["peak"]}


if __name__ == "__main__":
    answer(predict, evaluate)
