"""Gathers the facts for a card from a model, and writes card and scores into a folder about to be saved."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from omnimouse.evaluation.scores import Scores
from omnimouse.hub.names import PUBLISHED_CORES
from omnimouse.hub.sources import Source
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.pretrained.cards.facts import (
    CARD_FILE,
    OWN_METADATA,
    ModelFacts,
    SessionFacts,
    is_public_name,
    is_repo_id,
    model_card,
    session_card,
)
from omnimouse.pretrained.cards.updates import update_card
from omnimouse.pretrained.measured import (
    SCORES_FILE,
    MeasuredScore,
    measured_scores,
    merge_scores,
    read_scores,
    still_true,
    write_scores,
)
from omnimouse.pretrained.session_files import AdapterConfig, entry_spec
from omnimouse.pretrained.stored_core import core_has_changed, core_hashes
from omnimouse.support.files import write_text
from omnimouse.support.tensor_files import hash_tensors


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """What a caller may say for a card; arguments of `save_pretrained` and the push methods.

    Args:
        scores: What `evaluate` returned, or files that `Scores.save` wrote: one or several.
        training: How the weights were trained: Markdown, or names with words and numbers.
        training_data: What they were trained on, in Markdown.
        license: Identifier of a licence.
        tags: More tags.
    """

    scores: Scores | str | os.PathLike[str] | Iterable[Scores | str | os.PathLike[str]] = ()
    training: Mapping[str, Any] | str | None = None
    training_data: str | None = None
    license: str | None = None
    tags: Sequence[str] = ()

    def facts(self) -> dict[str, Any]:
        """The part of it that goes into the card word for word."""
        return {name: getattr(self, name) for name in ("training", "training_data", "license", "tags")}

    def measured(self) -> list[MeasuredScore]:
        """The scores, number by number."""
        given = [self.scores] if isinstance(self.scores, Scores | str | os.PathLike) else self.scores
        loaded = [scores if isinstance(scores, Scores) else Scores.load(scores) for scores in given]
        return [number for scores in loaded for number in measured_scores(scores)]

    def beside(self, card: Mapping[str, Any]) -> CardOptions:
        """With what a card that is there (its metadata) says already, unless the caller says otherwise."""
        kept, license_name, tags = _kept(card), card.get("license"), card.get("tags") or []
        return replace(
            self,
            training=self.training or kept.get("training"),
            training_data=self.training_data or kept.get("training_data"),
            license=self.license or (license_name if isinstance(license_name, str) else None),
            tags=(*(tags if isinstance(tags, list) else [tags]), *self.tags),
        )


def write_model_card(
    model: OmniMouseNetwork,
    source: Source | None,
    place: Path,
    folder: Path,
    index: Mapping[str, Any],
    options: CardOptions,
    name: str | None = None,
) -> None:
    """Writes the card and the scores of a model folder.

    Scores that the folder has already stay as long as they are those of the weights about to be saved. The new files
    are prepared in `place`; `source` is where the model came from, `index` names all sessions that the folder will
    list, `name` the repo that it will be.

    Raises:
        ValueError: The scores are those of other weights, or a card or scores in the folder cannot be read.
    """
    # Sessions that stay in the folder as they are keep their scores: these were true when they were written.
    stored = read_scores(folder)
    untouched = {score.session_key: score.session_sha256 for score in stored if score.session_key in index}
    scores, was_changed = _true_scores(model, source, stored, options, untouched), False
    base, commit = (source.name, source.commit) if source else (None, None)
    # Where weights in a folder, or in the very repo, came from in the first place, only the card there can tell.
    is_here = source is not None and source.name in (name, str(folder.resolve()))
    if source is not None and (is_here or (source.commit is None and not source.is_packaged)):
        card = _standing_metadata(folder if is_here else source.folder)
        base, commit = _named_base(card)
        was_changed = "base_model_relation" in card
        options = options.beside(card)
    facts = ModelFacts(
        config=model.config,
        name=name,
        base_model=base if is_public_name(base) else None,
        base_commit=commit,
        **_published_source(base, commit),
        profile=getattr(model.processor, "profile", None),
        scores=scores,
        n_core_parameters=model.num_core_parameters(),
        sessions=[entry_spec(key, entry) for key, entry in index.items()],
        # Comparing cores reads all of the stored one, and only cards that name a repo as their base speak of it.
        is_changed=was_changed or (is_repo_id(base) and core_has_changed(model, source)),
        **options.facts(),
    )
    _write(place, folder, model_card(facts), scores)


def write_session_card(
    model: OmniMouseNetwork,
    source: Source | None,
    adapter: AdapterConfig,
    folder: Path,
    options: CardOptions,
    name: str,
) -> None:
    """Writes the card and the scores of a session adapter into its folder; `name` is the repo that it will be.

    Raises:
        ValueError: The scores are those of other weights, or a card or scores in the folder cannot be read.
    """
    scores = _true_scores(model, source, read_scores(folder), options, {}, only=adapter.session.key)
    options = replace(options, training=options.training or adapter.session.training)
    facts = SessionFacts(
        config=model.config,
        name=name,
        base_model=adapter.base_model,
        base_commit=adapter.base_commit,
        **_published_source(adapter.base_model, adapter.base_commit),
        profile=(adapter.session.processor or {}).get("profile") or getattr(model.processor, "profile", None),
        scores=scores,
        session=adapter.session,
        core_sha256=adapter.core_sha256,
        **options.beside(_standing_metadata(folder)).facts(),
    )
    _write(folder, folder, session_card(facts), scores)


def check_scores(model: OmniMouseNetwork, source: Source | None, options: CardOptions) -> None:
    """Refuses scores of other weights than the model's, before anything is written for them."""
    _true_scores(model, source, [], options, {})


def _published_source(base: str | None, commit: str | None) -> dict[str, Any]:
    """The authors' repo that weights were converted from, where it is their base."""
    published = base in PUBLISHED_CORES.values()
    return {"source": base if published else None, "source_commit": commit if published else None}


def _named_base(card: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Base model and its commit, as the metadata of a card name them. What a person wrote goes first."""
    kept, named = _kept(card), card.get("base_model")
    if named in (None, kept.get("base")):
        return kept.get("base"), kept.get("base_commit")
    return (named, None) if isinstance(named, str) else (None, None)


def _kept(card: Mapping[str, Any]) -> Mapping[str, Any]:
    kept = card.get(OWN_METADATA)
    return kept if isinstance(kept, Mapping) else {}


def _standing_metadata(folder: Path) -> dict[str, Any]:
    """Metadata of the card in a folder; nothing where there is none or they cannot be read."""
    path = folder / CARD_FILE
    try:
        return (metadata_load(path) or {}) if path.is_file() else {}
    except (ValueError, yaml.YAMLError):
        return {}


def _true_scores(
    model: OmniMouseNetwork,
    source: Source | None,
    stored: list[MeasuredScore],
    options: CardOptions,
    untouched: Mapping[str, str],
    only: str | None = None,
) -> list[MeasuredScore]:
    """Scores in a folder that are still true, and the caller's, which must be; of one session, or of all.

    `untouched` holds the hashes of the folder's own sessions, which count for those the model does not have.
    """
    given = options.measured()
    if not given and not stored:
        return []
    keys = {score.session_key for score in (*stored, *given)} & set(model.session_keys)
    hashes = {**untouched, **{key: hash_tensors(model.session_state(key)) for key in keys}}
    if only is not None:
        hashes = {key: value for key, value in hashes.items() if key == only}
    core = core_hashes(model, source)
    true = still_true(given, core_sha256=core, session_hashes=hashes)
    if len(true) < len(given):
        wrong = next(score for score in given if score not in true)
        raise ValueError(
            f"The scores of session {wrong.session_key!r} (task {wrong.task!r}) were measured on other weights than "
            "those being saved. Evaluate the model as it is now, or leave the scores out."
        )
    return merge_scores(still_true(stored, core_sha256=core, session_hashes=hashes), true)


def _write(place: Path, folder: Path, card: str, scores: list[MeasuredScore]) -> None:
    existing = folder / CARD_FILE
    # Bytes, not text mode: a person's line endings stay as they are.
    try:
        text = existing.read_bytes().decode("utf-8") if existing.is_file() else None
        write_text(place / CARD_FILE, update_card(text, card))
    except ValueError as error:  # the weights are worth more than their card
        warnings.warn(f"{existing} is left as it is. {error}", stacklevel=4)
    write_scores(place, scores)
    if not scores:
        (folder / SCORES_FILE).unlink(missing_ok=True)
