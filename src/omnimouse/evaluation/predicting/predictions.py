"""Predictions of one task as aligned arrays, with times and neuron ids, for analyses outside this package.

Shape letters: W windows, L target samples, Q target neurons, C behaviour channels, T samples of a behaviour window.
"""

from __future__ import annotations

import html
import os
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from omnimouse.evaluation.predicting.growing_npz import map_arrays
from omnimouse.support.files import atomic_path
from omnimouse.support.text_tables import html_table


@dataclass(frozen=True)
class Predictions:
    """Predicted and recorded signals of one task, in processed (normalised) units.

    Attributes:
        session_key: the session in the model.
        tier: the tier the windows come from.
        task: name of the task or mask.
        window_starts: start of every window [W], float64, absolute seconds on the recording's clock.
        times: time of every predicted response sample [W, L], float64, absolute seconds. With `rollout=K`, K times as
            many samples as the mask predicts.
        neuron_index: position of every target neuron in the recording [Q].
        neuron_ids: the recording's own unit ids [Q]; the positions again if it has none.
        predictions: predicted responses [W, L, Q], float32; NaN where the mask predicts nothing. Of tasks that rotate
            (`population` and its kin) all neurons are targets, and NaN in the windows in which they are visible.
            With `rollout=K`, NaN from where what the task shows was not recorded.
        targets: recorded responses [W, L, Q], float32; with `rollout=K`, NaN where the tier has no window.
        response_scale: recorded units per processed unit [Q], float64: multiply to convert back.
        behavior_times: time of every behaviour sample [W, T], float64, absolute seconds.
        behavior_channels: names of the behaviour channels, C of them.
        behavior_predictions: decoded behaviour [W, C, T], float32; None if the task decodes none.
        behavior_targets: recorded behaviour [W, C, T], float32, NaN where it was not recorded; None likewise.
        n_windows_left_out: windows without a prediction because what the task needs held NaN.

    The response arrays are None for a task that predicts no responses.
    """

    session_key: str
    tier: str
    task: str
    window_starts: np.ndarray
    times: np.ndarray | None = None
    neuron_index: np.ndarray | None = None
    neuron_ids: np.ndarray | None = None
    predictions: np.ndarray | None = None
    targets: np.ndarray | None = None
    response_scale: np.ndarray | None = None
    behavior_times: np.ndarray | None = None
    behavior_channels: tuple[str, ...] = ()
    behavior_predictions: np.ndarray | None = None
    behavior_targets: np.ndarray | None = None
    n_windows_left_out: int = 0

    def __repr__(self) -> str:
        """Names and shapes; the numbers themselves would fill screens."""
        shapes = "\n".join(f"  {name} {shape}" for name, shape in self._shapes())
        return f"Predictions of {self.task} for session {self.session_key}, tier {self.tier}:\n{shapes}"

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        rows = [[name, shape] for name, shape in self._shapes()]
        title = f"Predictions of {self.task} for session {self.session_key}, tier {self.tier}"
        return f"<p>{html.escape(title)}</p>{html_table(['array', 'shape'], rows)}"

    def _shapes(self) -> list[tuple[str, str]]:
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return [(name, str(list(array.shape))) for name, array in arrays.items() if isinstance(array, np.ndarray)]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything that is not None to an `.npz` file, atomically and without pickles. Returns the path."""
        arrays = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None}
        with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes any name for `allow_pickle`
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mapped: bool = False) -> Predictions:
        """Read a file written by `save` or `predict`.

        Args:
            path: the file.
            mapped: leave arrays over windows in the file and read what is looked at; what is changed in them stays in
                memory. For files that are larger than memory. Their checksums are not compared then.

        Raises:
            ValueError: the file holds something else, or is damaged.
        """
        names = {f.name for f in fields(cls)}
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is no .npz file; pass a file written by predict(..., output=...)")
        with np.load(path, allow_pickle=False) as file:
            if not {"session_key", "tier", "task", "window_starts"} <= set(file.files) <= names:
                raise ValueError(
                    f"{path} does not hold predictions: found arrays {', '.join(file.files)}, expected "
                    f"{', '.join(sorted(names))}; pass a file written by predict(..., output=...)"
                )
            in_file = map_arrays(Path(path)) if mapped else {}
            try:
                values = {name: in_file[name] if name in in_file else file[name] for name in file.files}
            except zipfile.BadZipFile as error:
                raise ValueError(f"{path} is damaged ({error}); take another copy, or predict again") from error
        scalars = {name: array.item() for name, array in values.items() if array.ndim == 0}
        channels = tuple(values["behavior_channels"].tolist())
        return cls(**{**values, **scalars, "behavior_channels": channels})
