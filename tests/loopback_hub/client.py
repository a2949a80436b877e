"""Clients in processes of their own.

`huggingface_hub` reads its settings while it is imported, so a client of a loopback hub has to be a new process whose
environment says where the hub is and holds nothing of the account of whoever runs the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

_FOREIGN = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_CACHE")


def client_environment(
    url: str, home: Path | str, *, token: str | None, xet: bool, **extra: str | None
) -> dict[str, str]:
    """Environment of a client process; an `extra` of None takes the variable out."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    settings: dict[str, str | None] = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": None if xet else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    merged = {**inherited, **settings, **extra}
    return {name: value for name, value in merged.items() if value is not None}


def run_client(
    code: str | Sequence[str], *, environment: dict[str, str], cwd: Path | str, check: bool
) -> subprocess.CompletedProcess[str]:
    """Run Python code, or `python` with the given arguments, and show what it printed if it fails."""
    arguments = ["-c", textwrap.dedent(code)] if isinstance(code, str) else [str(argument) for argument in code]
    Path(cwd).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=cwd,
        text=True,
        capture_output=True,
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"a client of the loopback hub ended with {done.returncode}\n"
            f"--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
        )
    return done
