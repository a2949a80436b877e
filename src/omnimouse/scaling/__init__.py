"""Scaling curves over finished pre-trainings: collecting them, fitting power laws, drawing, and saying what limits."""

from omnimouse.scaling.curves import Curve, Verdict
from omnimouse.scaling.fits import PowerLaw, fit_power_law
from omnimouse.scaling.points import ScalingPoint, collect_points
from omnimouse.scaling.scaling_report import ScalingReport, scaling

__all__ = [
    "Curve",
    "PowerLaw",
    "ScalingPoint",
    "ScalingReport",
    "Verdict",
    "collect_points",
    "fit_power_law",
    "scaling",
]
