"""The metrics of the SENSORIUM 2022 competition, as pure functions in float64.

Shape letters: K trials, N neurons, I images.

Source: Willeke et al., "The Sensorium competition on predicting large-scale mouse primary visual cortex activity"
(2022), and the measures of its starter kit; the fraction of explainable variance explained is that of Cadena et al.
(2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONSTANT = 1e-6
"""A signal whose std is below this fraction of its largest value is constant up to the rounding of float32."""

FEV_THRESHOLD = 0.15
"""Fraction of explainable variance below which a neuron takes no part in the mean FEVE."""


def correlations(predictions: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Pearson correlation of each neuron over trials (or images).

    Args:
        predictions, responses: `[K, N]`.

    Returns:
        `[N]`, NaN where predictions or responses are constant (`CONSTANT`) or there are fewer than two trials.

    Raises:
        ValueError: shapes differ.
    """
    x, y = _pair(predictions, responses)
    if len(x) < 2:
        return np.full(x.shape[1], np.nan)
    constant = np.zeros(x.shape[1], dtype=bool)
    for values in (x, y):
        constant |= ~(values.std(axis=0) > CONSTANT * np.abs(values).max(axis=0))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    r = (x * y).sum(axis=0) / np.where(constant, 1.0, scale)
    return np.where(constant, np.nan, np.clip(r, -1.0, 1.0))


def image_averages(values: np.ndarray, images: Sequence[str]) -> np.ndarray:
    """Means `[I, N]` of values `[K, N]` over the trials of each image, in sorted order of the images."""
    _, which, counts = _presentations(images)
    return _sums(np.asarray(values, dtype=np.float64), which, len(counts)) / counts[:, None]


def correlations_to_average(predictions: np.ndarray, responses: np.ndarray, images: Sequence[str]) -> np.ndarray:
    """Correlation over images of each neuron, after predictions and responses were averaged over repeats: `[N]`.

    Predictions differ between repeats of an image where behaviour is shown. NaN as in `correlations`.
    """
    predictions, responses = _pair(predictions, responses)
    return correlations(image_averages(predictions, images), image_averages(responses, images))


def explained_variance(
    predictions: np.ndarray, responses: np.ndarray, images: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Fraction of explainable variance, and how much of it the predictions explain, of each neuron.

    With the noise variance (mean over images of the variance across repeats, ddof 1) and the total variance (of all
    trials, ddof 1), FEV = (total - noise) / total and FEVE = 1 - (mean squared error - noise) / (total - noise).

    Args:
        predictions, responses: `[K, N]`, in the same units.
        images: identity of the image of each trial. Images shown once have no variance across repeats: their trials
            are left out of all three terms.

    Returns:
        (FEV, FEVE), `[N]` each: NaN without an image that was shown twice; FEV also where the responses are constant,
        FEVE also where nothing is explainable (total no larger than noise).
    """
    predictions, responses = _pair(predictions, responses)
    _, which, counts = _presentations(images)
    repeated = counts[which] >= 2
    if not repeated.any():
        nothing = np.full(responses.shape[1], np.nan)
        return nothing, nothing.copy()
    x, y = predictions[repeated], responses[repeated]
    _, which, counts = _presentations(which[repeated])
    averages = _sums(y, which, len(counts)) / counts[:, None]
    squares = _sums((y - averages[which]) ** 2, which, len(counts))
    noise = (squares / (counts - 1)[:, None]).mean(axis=0)
    total = y.var(axis=0, ddof=1)
    error = ((y - x) ** 2).mean(axis=0)
    explainable = total - noise
    fev = np.where(total > 0, explainable / np.where(total > 0, total, 1.0), np.nan)
    positive = explainable > 0
    feve = np.where(positive, 1 - (error - noise) / np.where(positive, explainable, 1.0), np.nan)
    return fev, feve


def mean_with_zeros(per_neuron: np.ndarray) -> float:
    """Mean over neurons, one without a correlation counting as zero."""
    return float(np.nan_to_num(per_neuron, nan=0.0).mean())


def mean_feve(fev: np.ndarray, feve: np.ndarray) -> float:
    """Mean FEVE of the neurons whose FEV reaches `FEV_THRESHOLD`; NaN if none does."""
    kept = feve[fev >= FEV_THRESHOLD]
    return float(kept.mean()) if len(kept) else float("nan")


def _presentations(images: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted distinct images `[I]`, the one of each trial `[K]` as an index, and how often each was shown `[I]`."""
    return np.unique(np.asarray(images), return_inverse=True, return_counts=True)


def _sums(values: np.ndarray, which: np.ndarray, n_images: int) -> np.ndarray:
    """Sums `[I, N]` of values `[K, N]` over the trials of each image."""
    sums = np.zeros((n_images, values.shape[1]))
    np.add.at(sums, which, values)
    return sums


def _pair(predictions: np.ndarray, responses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(values, dtype=np.float64) for values in (predictions, responses))
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"predictions have shape {x.shape}, responses {y.shape}; pass equal shapes (trials, neurons)")
    return x, y
