"""Which trials are scored when nobody says so, and what the weights already know of the trials that are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnimouse.recordings import Recording

SCORED_TIERS = (
    "final_test", "test", "final_test_1", "final_test_2", "final_test_3", "final_test_main", "final_test_bonus",
    "live_test_main", "live_test_bonus", "oracle",
)  # fmt: skip
"""Tiers to be scored by default, the first that a recording has; then any other, last "validation", never "train"."""

STATIC_TIERS = ("test", *(tier for tier in SCORED_TIERS if tier != "test"))
"""The same for single images, whose tier "test" holds the repeated ones."""

TRAINED_ON, SELECTED_ON = "trained on", "selected on"


def use_in_training(tier: str, training: Mapping[str, Any] | None) -> str | None:
    """What the weights of a session know of a tier: `TRAINED_ON`, `SELECTED_ON`, or None as far as is known.

    Args:
        tier: the tier.
        training: how the session was trained, as its spec says; None where that is not known.
    """
    for use in (TRAINED_ON, SELECTED_ON):
        if tier in str((training or {}).get(f"{use} tiers", "")).split(", "):
            return use
    return None


def choose_tier(recording: Recording, training: Mapping[str, Any] | None, order: Sequence[str] = SCORED_TIERS) -> str:
    """Chooses the tier to score by default: the first in the order whose responses are known and were not trained on.

    Tiers that the weights were selected on come after all others.

    Raises:
        ValueError: no such tier; the message says why not of each.
    """
    there = [tier for tier in recording.tiers if tier not in order]
    ranked = [tier for tier in order if tier in recording.tiers]
    ranked += [tier for tier in there if tier not in ("train", "validation")]
    ranked += [tier for tier in there if tier == "validation"]
    uses = {tier: use_in_training(tier, training) for tier in ranked}
    open_tiers = [tier for tier in ranked if tier not in recording.withheld_tiers and uses[tier] != TRAINED_ON]
    if not open_tiers:
        reasons = [f"{tier} (withheld)" if tier in recording.withheld_tiers else tier for tier in recording.tiers]
        raise ValueError(
            f"recording {recording.path} has no tier whose responses are known and were not trained on; it has "
            f"{', '.join(reasons)}. Pass tier=... to use one of them all the same"
        )
    return min(open_tiers, key=lambda tier: uses[tier] is not None)


def notes_on_tier(tier: str, default: str | None, use: str | None) -> list[str]:
    """What a reader of scores must know of their tier.

    Args:
        tier: the tier scored.
        default: the tier scored by default where a recording has it, None when the caller chose `tier`.
        use: see `use_in_training`.
    """
    notes = []
    if default is not None and tier != default:
        notes.append(
            f"tier {tier} was scored, as the recording has no trials of tier {default} to score (it lacks the tier, or "
            "they were withheld or trained on)"
        )
    if use is not None:
        what = "trained" if use == TRAINED_ON else "selected"
        notes.append(f"these weights were {what} on trials of tier {tier}, so the scores are too high")
    return notes
