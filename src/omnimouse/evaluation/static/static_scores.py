"""What scoring single images returns: three metrics per neuron, as a table, a dict or a JSON file.

Shape letters: N neurons.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.evaluation.scores import StoredScores, median, number
from omnimouse.evaluation.static.static_metrics import (
    FEV_THRESHOLD,
    correlations,
    correlations_to_average,
    explained_variance,
    mean_feve,
    mean_with_zeros,
)
from omnimouse.support.files import plain, read_mapping

_ARRAYS = ("single_trial_per_neuron", "to_average_per_neuron", "fev_per_neuron", "feve_per_neuron")


@dataclass(frozen=True, repr=False)
class StaticScores(StoredScores):
    """Scores of one session of single images on one tier, by the metrics of SENSORIUM 2022.

    `static_metrics` has the formulas.

    Attributes:
        session_key: the session in the model.
        tier: the tier scored.
        task: what the model was shown: "stimulus+behavior" or "stimulus".
        n_neurons: neurons of the session.
        n_trials: trials scored.
        n_images: distinct images among them; None where it is not known which trials repeat an image.
        n_repeated_images: images among them that were shown at least twice, or None.
        single_trial: correlation over trials, mean over neurons, one without a correlation counting as zero.
        to_average: correlation over images of averages over repeats, mean over neurons likewise; None without images.
        feve: fraction of explainable variance explained, mean over the neurons with FEV of at least 0.15; NaN if there
            is none, None without repeated images.
        n_feve_neurons: the neurons of that mean.
        single_trial_per_neuron, to_average_per_neuron, fev_per_neuron, feve_per_neuron: `[N]` each, NaN where
            undefined; None with their means. `feve_per_neuron` also holds neurons below the threshold.
        n_trials_left_out: trials of the tier without a prediction or response, because of NaN.
        notes: what a reader of the scores must know.
        settings: profile and so on, as used.
        core_sha256, session_sha256: hashes of the weights that were scored, as in `Scores`.
    """

    session_key: str
    tier: str
    task: str
    n_neurons: int
    n_trials: int
    n_images: int | None
    n_repeated_images: int | None
    single_trial: float
    to_average: float | None
    feve: float | None
    n_feve_neurons: int
    single_trial_per_neuron: np.ndarray | None = field(default=None, repr=False)
    to_average_per_neuron: np.ndarray | None = field(default=None, repr=False)
    fev_per_neuron: np.ndarray | None = field(default=None, repr=False)
    feve_per_neuron: np.ndarray | None = field(default=None, repr=False)
    n_trials_left_out: int = 0
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    core_sha256: str | None = None
    session_sha256: str | None = None

    def title(self) -> str:
        """Session, tier, task, neurons, trials and images."""
        images = "" if self.n_images is None else f" of {self.n_images} images"
        of = f"tier {self.tier}, task {self.task}, {self.n_neurons} neurons, {self.n_trials} trials{images}"
        return f"{self.session_key}: {of}"

    def remarks(self) -> list[str]:
        """The notes."""
        return list(self.notes)

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """One row per metric, see `StoredScores.rows`."""
        kept = None
        if self.feve_per_neuron is not None and self.fev_per_neuron is not None:
            kept = self.feve_per_neuron[self.fev_per_neuron >= FEV_THRESHOLD]
        metrics: dict[str, tuple[float | None, np.ndarray | None, int]] = {
            "single-trial correlation": (self.single_trial, self.single_trial_per_neuron, self.n_neurons),
            "correlation to average": (self.to_average, self.to_average_per_neuron, self.n_neurons),
            f"FEVE (FEV >= {FEV_THRESHOLD})": (self.feve, kept, self.n_feve_neurons),
        }
        rows = [
            [name, number(mean), number(None if values is None else median(values)), "-" if mean is None else str(n)]
            for name, (mean, values, n) in metrics.items()
        ]
        return ["metric", "score", "median", "neurons"], rows

    def to_dict(self, *, per_neuron: bool = True) -> dict[str, Any]:
        """See `StoredScores.to_dict`."""
        return {name: plain(value) for name, value in vars(self).items() if per_neuron or name not in _ARRAYS}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> StaticScores:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is missing or holds something else.
        """
        content = read_mapping(Path(path), "scores as `StaticScores.save` writes them")
        try:
            for name in _ARRAYS:
                if content.get(name) is not None:
                    content[name] = np.array(content[name], dtype=np.float64)
            if content["feve"] is None and content["n_repeated_images"]:
                content["feve"] = float("nan")
            return cls(**{**content, "notes": tuple(content["notes"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not hold scores as `StaticScores.save` writes them ({error!r}). Evaluate again."
            ) from None


def score(
    predictions: np.ndarray, responses: np.ndarray, images: list[str] | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """All metrics of predictions `[K, N]` against responses `[K, N]`: fields of `StaticScores`, and notes."""
    single = correlations(predictions, responses)
    result: dict[str, Any] = {
        "single_trial": mean_with_zeros(single), "single_trial_per_neuron": single, "n_trials": len(responses),
        "n_images": None, "n_repeated_images": None, "to_average": None, "feve": None, "n_feve_neurons": 0,
    }  # fmt: skip
    notes = []
    if images is None:
        notes.append("it is not stored which trials repeat an image: no correlation to average and no FEVE")
    else:
        average = correlations_to_average(predictions, responses, images)
        _, counts = np.unique(images, return_counts=True)
        result |= {
            "n_images": len(counts), "n_repeated_images": int((counts >= 2).sum()),
            "to_average": mean_with_zeros(average), "to_average_per_neuron": average,
        }  # fmt: skip
        if (counts >= 2).any():
            fev, feve = explained_variance(predictions, responses, images)
            result |= {"fev_per_neuron": fev, "feve_per_neuron": feve, "feve": mean_feve(fev, feve)}
            result["n_feve_neurons"] = int((fev >= FEV_THRESHOLD).sum())
            once = int((counts == 1).sum())
            if once:
                notes.append(f"{once} images were shown once; their trials take no part in FEV and FEVE")
        else:
            notes.append("no image was shown twice: no FEVE, and the correlation to average is that of single trials")
    undefined = int(np.isnan(single).sum())
    if undefined:
        notes.append(f"{undefined} neurons have no single-trial correlation (constant); they count as zero")
    return result, tuple(notes)
