"""Model cards: the README.md that stands beside saved or pushed weights.

Pure functions of facts: the same facts give the same bytes, and no date, machine or path gets in. What is not known is
left out or said to be unknown. The texts are Jinja templates in `templates/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCardData

from omnimouse.hub.names import PACKAGED_CORES, PUBLISHED_CORES
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.pretrained.cards.scores_text import (
    MOST_SESSIONS,
    eval_results,
    has_many_sessions,
    rounded,
    score_means,
    score_tables,
)
from omnimouse.pretrained.cards.updates import sign
from omnimouse.pretrained.measured import MeasuredScore

CARD_FILE = "README.md"
OWN_METADATA = "omnimouse"

TAGS = ("omnimouse", "neuroscience", "visual-cortex", "mouse", "calcium-imaging")
PACKAGED_LICENSE = "apache-2.0"

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What every card knows.

    Where no licence is named, it is `apache-2.0` for what goes back to a packaged core, and none otherwise: where
    weights go back to somebody else's, theirs governs, and new weights are their owner's.
    """

    config: OmniMouseConfig  # of the core; the video layout tells whether it goes back to published weights
    name: str | None = None  # packaged name or Hub repo by which readers load it; a folder or None without one
    base_model: str | None = None  # name of the core these weights go back to; named in the card unless it is a folder
    base_commit: str | None = None  # commit of that core, if it came from a Hub
    source: str | None = None  # repo of the published weights that these go back to
    source_commit: str | None = None  # commit of that repo
    profile: str | None = None  # profile of the processor
    training_data: str | None = None  # what the weights were trained on, in Markdown
    training: Mapping[str, Any] | str | None = None  # how: Markdown, or names with words, numbers or lists of them
    scores: Sequence[MeasuredScore] = ()  # scores measured on exactly these weights (`measured.still_true`)
    license: str | None = None  # identifier of a licence
    tags: Sequence[str] = ()  # further tags


@dataclass(frozen=True, kw_only=True)
class ModelFacts(CardFacts):
    """What the card of a whole model knows: also its size, the sessions stored, and whether its core is the base's."""

    n_core_parameters: int
    sessions: Sequence[SessionSpec] = ()
    is_changed: bool = True


@dataclass(frozen=True, kw_only=True)
class SessionFacts(CardFacts):
    """What the card of a session adapter knows: also the session, and the hash of the core that it fits."""

    session: SessionSpec
    core_sha256: str


def is_repo_id(name: str | None) -> bool:
    """Whether a name has the form of a Hub repo, `owner/name`. (A relative folder can have it too: pass none.)"""
    return name is not None and _REPO_ID.fullmatch(name) is not None


def is_public_name(name: str | None) -> bool:
    """Whether readers of a card can load something by this name: a packaged or published core, or a repo."""
    return name in PACKAGED_CORES or name in PUBLISHED_CORES or is_repo_id(name)


def model_card(facts: ModelFacts) -> str:
    """README.md of a model: metadata, text, and a mark by which `update_card` knows whether a person has edited it."""
    return _render(
        "model.md",
        facts,
        title="OmniMouse model",
        relation="finetune" if facts.is_changed else None,
        sessions=sorted(facts.sessions, key=lambda session: session.key),
        most_rows=MOST_SESSIONS,
    )


def session_card(facts: SessionFacts) -> str:
    """README.md of a session adapter, as from `model_card`."""
    return _render(
        "session.md",
        facts,
        title=f"OmniMouse session {_cell(facts.session.key)}",
        relation="adapter",
        revision=facts.base_commit if is_repo_id(facts.base_model) else None,
    )


def _render(template: str, facts: CardFacts, *, title: str, relation: str | None, **values: Any) -> str:
    """Fills a template, prepends the metadata and appends the mark."""
    has_name, many, recipe = is_public_name(facts.name), has_many_sessions(facts.scores), facts.training
    title = str(facts.name).split("/")[-1] if has_name else title
    is_simulated = facts.base_model in PACKAGED_CORES
    is_published = facts.config.video_attention_layout == "published"
    is_ours = facts.license is None and is_simulated and not is_published
    license_name = PACKAGED_LICENSE if is_ours else facts.license
    known = {
        **vars(facts),
        "title": title,
        "load_name": facts.name if has_name else "path/to/this/folder",
        "base": _link(facts.base_model, facts.base_commit),
        "published": is_published,
        "simulated_core": facts.base_model if is_simulated else None,
        "source": _link(facts.source, facts.source_commit) or "the weights that the authors of OmniMouse published",
        "recipe": [(_words(k), _words(v)) for k, v in recipe.items()] if isinstance(recipe, Mapping) else recipe,
        "score_tables": [] if many else score_tables(facts.scores),
        "score_means": score_means(facts.scores) if many else [],
        "license": license_name,
        "window_seconds": _words(facts.config.window_seconds),
        "channels": ", ".join(name.replace("_", " ") for name in facts.config.behavior_channels),
    }
    text = _environment().get_template(template).render(known | values)
    tags = {
        "published-weights": is_published,
        "session-adapter": relation == "adapter",
        "simulated-data": is_simulated,
    }
    has_base = is_repo_id(facts.base_model)
    kept: dict[str, Any] = {OWN_METADATA: _kept_facts(facts) or None}
    data = ModelCardData(
        library_name="omnimouse",
        license=license_name,
        tags=[*TAGS, *(tag for tag, applies in tags.items() if applies), *facts.tags],
        base_model=facts.base_model if has_base else None,
        base_model_relation=relation if has_base else None,
        # Without results the name would be left over as a key of its own.
        model_name=title if facts.scores else None,
        eval_results=eval_results(facts.scores) or None,
        **kept,
    )
    return sign(data, re.sub(r"\n{3,}", "\n\n", text))


def _kept_facts(facts: CardFacts) -> dict[str, Any]:
    """What only the card knows, in a form in which the next save finds it again (metadata key `omnimouse`)."""
    recipe, has_base = facts.training, is_public_name(facts.base_model)
    if isinstance(recipe, Mapping):
        recipe = {str(key): _plain(value) for key, value in recipe.items()}
    kept = {
        "base": facts.base_model if has_base else None,
        "base_commit": facts.base_commit if has_base else None,
        "training": recipe,
        "training_data": facts.training_data,
    }
    return {key: value for key, value in kept.items() if value}


def _plain(value: Any) -> str | int | float:
    """A fact as YAML can hold it, NumPy's numbers included."""
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return _words(value)


def _link(name: str | None, commit: str | None) -> str | None:
    """A model as readers may know it. A folder on somebody's machine is not named."""
    if not is_public_name(name):
        return None
    linked = f"[`{name}`](https://huggingface.co/{name})" if is_repo_id(name) else f"`{name}`"
    return f"{linked} at commit `{commit}`" if commit else linked


def _words(value: Any) -> str:
    """A fact for a sentence: floats in the shortest form, lists with commas, all on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_words(item) for item in value)
    return " ".join(str(value).split())


def _cell(value: object) -> str:
    """Text that cannot break a table, open an HTML tag, or span lines."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _code(value: object) -> str:
    text = " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
    return f"`{text}`"


@cache
def _environment() -> jinja2.Environment:
    """Templates of `templates/`, which include each other; a name that is not filled is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell": _cell,
        "code": _code,
        "count": "{:,}".format,
        "counted": lambda number, noun: f"{number:,} {noun}" + ("" if number == 1 else "s"),
        "score": lambda value: "-" if value is None else f"{rounded(value):.4f}",
        "quoted": json.dumps,
    }
    return environment
