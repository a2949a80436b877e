"""Where a pre-training stands, read from its folder alone: nothing is loaded, and the run may be going on meanwhile."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omnimouse.support.yaml_fields import read_yaml
from omnimouse.training.runs.monitor import duration, evaluation_line, training_line
from omnimouse.training.runs.run_folder import RunCheckpoint, RunFolder

_TAIL_BYTES = 1 << 18
"""Of a long history, only the end is read."""


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a pre-training, or of a fork of one."""
    return RunFolder(folder).recipe.is_file()


def describe_run(folder: Path) -> dict[str, Any]:
    """Says where a run stands.

    Returns:
        JSON-ready dict: "kind" ("training run"), "path", "fork" (of a fork: run, at, steps, shape, power), "step" (of
        the last row of the history, else of the newest checkpoint), "last" (step), "finished", "checkpoints" (steps),
        "anneal_sources", "anneals" (name -> finished), "failures", "model" (folder or None), "sessions", "neurons",
        "processes", "training" and "evaluation" (last rows of the history), "seconds_since_last_row", "recipe".
    """
    run = RunFolder(folder)
    steps = run.checkpoint_steps()
    state: dict[str, Any] = RunCheckpoint.open(run.checkpoint(steps[-1])).state if steps else {}
    rows = _last_rows(run.history)
    recipe = read_yaml(run.recipe, "recipe", example="steps: 1000")
    fork = run.fork_of()
    # The recipe's steps may have been raised since the last checkpoint; those of a fork are its own.
    last = int(recipe["steps"]) if fork is None else fork.at + fork.steps
    training = rows.get("training")
    sessions = state.get("sessions", {})
    return {
        "kind": "training run",
        "path": str(folder),
        "fork": None if fork is None else asdict(fork),
        "step": max(int(training["step"]) if training else 0, steps[-1] if steps else 0),
        "last": last,
        "finished": bool(steps) and steps[-1] >= last and run.model.is_dir(),
        "checkpoints": steps,
        "anneal_sources": run.anneal_sources(),
        "anneals": {fork.path.name: fork.model.is_dir() for fork in run.forks()},
        "failures": sorted(path.name for path in run.failures.glob("*.json")),
        "model": str(run.model) if run.model.is_dir() else None,
        "sessions": len(sessions),
        "neurons": sum(entry["neurons"] for entry in sessions.values()),
        "processes": state.get("processes"),
        "training": training,
        "evaluation": rows.get("evaluation"),
        "seconds_since_last_row": time.time() - run.history.stat().st_mtime if run.history.exists() else None,
        "recipe": recipe,
    }


def _last_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The last row of each kind among the last rows of a history."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines(keepends=True)
    whole = [line for line in lines[1 if size > _TAIL_BYTES else 0 :] if line.endswith(b"\n")]
    rows: dict[str, dict[str, Any]] = {}
    for line in whole:
        with suppress(ValueError, TypeError, KeyError):  # a damaged line of a log
            row = json.loads(line)
            rows[row["kind"]] = row
    return rows


def run_lines(d: dict[str, Any]) -> list[str]:
    """A description of `describe_run` as lines for a terminal."""
    title = f"Training run {d['path']}"
    if d["fork"] is not None:
        title = f"Anneal {d['path']}, forked from {d['fork']['run']} at step {d['fork']['at']:,}"
    standing = "finished" if d["finished"] else f"{100 * d['step'] / d['last']:.0f} %"
    lines = [title, f"  step {d['step']:,} of {d['last']:,} ({standing})"]
    if d["seconds_since_last_row"] is not None:
        lines[-1] += f", last heard of {duration(d['seconds_since_last_row'])} ago"
    if d["sessions"]:
        lines.append(
            f"  {d['sessions']} sessions with {d['neurons']:,} neurons, on {d['processes']} "
            f"process{'es' if d['processes'] != 1 else ''}"
        )
    if d["training"] is not None:
        lines.append(f"  {training_line(d['training'], d['last'])}")
    if d["evaluation"] is not None:
        lines.append(f"  {evaluation_line(d['evaluation'])}")
    sources = f" (kept for anneals: {', '.join(map(str, d['anneal_sources']))})" if d["anneal_sources"] else ""
    lines.append(f"  checkpoints at steps {', '.join(map(str, d['checkpoints'])) or 'none yet'}{sources}")
    lines += [f"  anneal {name}: {'finished' if done else 'not finished'}" for name, done in d["anneals"].items()]
    lines += [f"  stopped by a batch: {d['path']}/failures/{name}" for name in d["failures"]]
    lines.append(f"  model: {d['model'] or 'not written yet'}")
    return lines
