"""Saturating power laws, and how well a few points tell them.

Shape letters: P points, D bootstrap draws, X exponents tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXPONENTS = np.geomspace(0.05, 4.0, 400)
"""Exponents tried. Below, a power law cannot be told from a logarithm; above, from a step."""

MIN_POINTS = 3
"""As many as a law has parameters; with as few, it passes through all of them and its uncertainty is unknown."""

DRAWS, COVERAGE = 1000, 0.95


@dataclass(frozen=True, repr=False)
class PowerLaw:
    """`y = limit + scale * (x / smallest x) ** -exponent`: falls (or, with a negative scale, rises) towards a limit.

    Attributes:
        limit: what an infinite x would give.
        scale: distance from it at the smallest place.
        exponent: how fast it is approached.
        x: places of the points, `[P]`.
        y: their values, `[P]`.
        draws: (limit, scale, exponent) fitted to each bootstrap sample, `[D, 3]`; no rows where there are too few
            points to know how far they scatter.
    """

    limit: float
    scale: float
    exponent: float
    x: tuple[float, ...]
    y: tuple[float, ...]
    draws: np.ndarray

    def __repr__(self) -> str:
        numbers = f"{self.limit:.3f} {self.scale:+.3g} * (x / {min(self.x):g}) ** -{self.exponent:.2f}"
        return f"PowerLaw({numbers}, {len(self.x)} points)"

    def __call__(self, x: np.ndarray | float) -> np.ndarray:
        """Values of the fitted law."""
        return self.limit + self.scale * (np.asarray(x, dtype=np.float64) / min(self.x)) ** -self.exponent

    def sample(self, x: np.ndarray | float) -> np.ndarray:
        """Values of the law of every bootstrap sample, `[D, len(x)]`."""
        limit, scale, exponent = (self.draws[:, i, None] for i in range(3))
        return limit + scale * (np.atleast_1d(np.asarray(x, dtype=np.float64)) / min(self.x)) ** -exponent

    def interval(self, values: np.ndarray) -> tuple[float, float] | None:
        """The middle 95 % of bootstrap values `[D]`, or None without draws."""
        if not len(self.draws):
            return None
        low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        return float(low), float(high)

    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """The intervals of limit, scale and exponent, by name."""
        return {name: self.interval(self.draws[:, i]) for i, name in enumerate(("limit", "scale", "exponent"))}

    def step(self, x: float) -> tuple[float, np.ndarray]:
        """How much y changes from x to twice x: by the fitted law, and by that of every bootstrap sample `[D]`."""
        here, there = self(x), self(2 * x)
        sampled = self.sample(np.array([x, 2 * x]))
        return float(there - here), sampled[:, 1] - sampled[:, 0]


def fit_power_law(x: Sequence[float], y: Sequence[float], *, rising: bool = False, seed: int = 0) -> PowerLaw | None:
    """Fits a saturating power law by least squares, its scale of the expected sign.

    Bootstrap samples add residuals to the fitted values: drawn with replacement, centred, and enlarged by
    `sqrt(P / (P - 3))` for the parameters that were fitted to them. They tell of the scatter around the law, not of
    anything that all points share (one seed, one evaluated mouse).

    Args:
        x: places, above 0, not all alike.
        y: values.
        rising: whether y rises towards its limit, as a correlation does; else it falls, as a loss does.
        seed: of the bootstrap.

    Returns:
        The law, or None with fewer than three different places.

    Raises:
        ValueError: places and values differ in number, or are not finite, or a place is not above 0.
    """
    places, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if places.shape != values.shape or places.ndim != 1:
        raise ValueError(f"x and y have shapes {places.shape} and {values.shape}; expected one value for each place.")
    if not (np.isfinite(places).all() and np.isfinite(values).all() and (places > 0).all()):
        raise ValueError("x has to be finite and above 0, y finite; leave out points that are not.")
    if len(np.unique(places)) < MIN_POINTS:
        return None
    limit, scale, exponent = _fit(places, values[None], rising)[0]
    draws = np.empty((0, 3))
    freedom = len(places) - MIN_POINTS
    if freedom > 0:
        fitted = limit + scale * (places / places.min()) ** -exponent
        residuals = values - fitted
        residuals = (residuals - residuals.mean()) * np.sqrt(len(places) / freedom)
        rng = np.random.default_rng(seed)
        draws = _fit(places, fitted + rng.choice(residuals, (DRAWS, len(places))), rising)
    return PowerLaw(float(limit), float(scale), float(exponent), tuple(places), tuple(values), draws)


def _fit(x: np.ndarray, y: np.ndarray, rising: bool) -> np.ndarray:
    """Least squares for each row of y `[D, P]`: (limit, scale, exponent) `[D, 3]`.

    For a given exponent the law is linear, so the exponents are tried one by one.
    """
    powers = (x / x.min()) ** -EXPONENTS[:, None]  # [X, P]
    centred = powers - powers.mean(axis=1, keepdims=True)
    slopes = (y @ centred.T) / (centred**2).sum(axis=1)  # [D, X]
    slopes = np.minimum(slopes, 0.0) if rising else np.maximum(slopes, 0.0)
    limits = y.mean(axis=1, keepdims=True) - slopes * powers.mean(axis=1)
    errors = ((y[:, None] - limits[..., None] - slopes[..., None] * powers) ** 2).sum(axis=2)
    best = errors.argmin(axis=1)
    rows = np.arange(len(y))
    return np.stack((limits[rows, best], slopes[rows, best], EXPONENTS[best]), axis=1)
