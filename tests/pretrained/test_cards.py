"""Model cards: readable by the Hub's client, true to what was measured, and never written over a person's text."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load

from omnimouse import OmniMouseConfig
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.pretrained.cards.facts import (
    CardFacts,
    ModelFacts,
    SessionFacts,
    is_public_name,
    model_card,
    session_card,
)
from omnimouse.pretrained.cards.scores_text import MOST_SESSIONS
from omnimouse.pretrained.cards.updates import update_card
from omnimouse.pretrained.measured import RESPONSE_METRIC, MeasuredScore, behavior_metric

ROOT = Path(__file__).parents[2]
SECTIONS = ["Intended use", "Training data", "Recipe", "Scores", "Limits", "Citation"]
TINY = OmniMouseConfig.from_preset("tiny")
CONVERTED = OmniMouseConfig.from_preset("tiny", video_attention_layout="published")
SPEC = SessionSpec("1-2-3", 80, "mouse-1")


def score(**changes) -> MeasuredScore:
    facts = {
        "session_key": "1-2-3",
        "task": "stimulus",
        "tier": "final_test",
        "metric": RESPONSE_METRIC,
        "value": 0.123456,
        "n_windows": 40,
        "n_neurons": 80,
        "core_sha256": "c" * 64,
        "session_sha256": "5" * 64,
        "package_version": "0.1.0",
    }
    return MeasuredScore(**{**facts, **changes})


SCORES = [
    score(),
    score(task="forecasting", value=0.3, last_value=0.2),
    score(task="population", value=0.25, tier="validation", ceiling=0.75, simulated=True),
    score(metric=behavior_metric("running"), value=0.9),
    score(metric=behavior_metric("gaze"), value=-0.00001),
]


def model_facts(**changes) -> ModelFacts:
    return ModelFacts(
        **{"config": TINY, "n_core_parameters": 1_234_567, "name": "me/mouse", "sessions": [SPEC], **changes}
    )


def session_facts(**changes) -> SessionFacts:
    facts = {"config": TINY, "session": SPEC, "core_sha256": "c" * 64, "name": "me/adapter", "base_model": "me/core"}
    return SessionFacts(**{**facts, **changes})


def text_of(card: str) -> str:
    return ModelCard(card).text


EVERY_CARD = {
    "model": model_card(model_facts(scores=SCORES, training={"steps": 5, "rates": [1e-3, 0.5]}, profile="strict")),
    "bare model": model_card(ModelFacts(config=TINY, n_core_parameters=1)),
    "converted": model_card(model_facts(config=CONVERTED, source="them/core", source_commit="abc")),
    "many sessions": model_card(model_facts(sessions=[SessionSpec(f"{i}-1-1", 10, f"m{i // 2}") for i in range(50)])),
    "session": session_card(session_facts(scores=SCORES, base_commit="0123abcd", training="As in the README.")),
    "session of an unknown core": session_card(session_facts(base_model=None, name=None)),
    "session on converted weights": session_card(session_facts(config=CONVERTED)),
}


@pytest.mark.parametrize("card", EVERY_CARD.values(), ids=EVERY_CARD)
def test_sections_come_in_order_and_metadata_are_ours(card, tmp_path):
    assert re.findall(r"^## (.*)$", card, flags=re.M) == SECTIONS
    assert "{{" not in card.replace("{{The OmniMouse authors}}", "") and "{%" not in card
    assert "\n\n\n" not in card and "None" not in card
    (tmp_path / "README.md").write_text(card)
    metadata = metadata_load(tmp_path / "README.md")
    assert metadata == ModelCard(card).data.to_dict()
    assert metadata["library_name"] == "omnimouse" and {"omnimouse", "mouse"} <= set(metadata["tags"])
    assert "pipeline_tag" not in metadata


@pytest.mark.parametrize("card", EVERY_CARD.values(), ids=EVERY_CARD)
def test_code_in_cards_is_python(card):
    for code in re.findall(r"```python\n(.*?)```", card, flags=re.S):
        compile(code, "card", "exec")


def test_scores_round_trip_through_the_client():
    data = ModelCard(EVERY_CARD["model"]).data
    found = {(r.task_name, r.dataset_name, r.dataset_split, r.metric_name): r.metric_value for r in data.eval_results}
    assert found == {(s.task, s.session_key, s.tier, s.metric): round(s.value, 4) for s in SCORES}
    assert {r.metric_type for r in data.eval_results} == {"correlation"}
    assert data.model_name == "mouse"
    assert ModelCard(ModelCard(EVERY_CARD["model"]).content).data.to_dict() == data.to_dict()


def test_scores_stand_in_the_text_with_their_baselines():
    text = text_of(EVERY_CARD["model"])
    assert "| `forecasting` | 40 | 0.3000 | 0.2000 | - |" in text
    assert "| `population` | 40 | 0.2500 | - | 0.7500 |" in text
    assert "| behaviour decoded under | windows | gaze | running |\n|---|---|---|---|\n" in text
    assert "| `stimulus` | 40 | 0.0000 | 0.9000 |" in text
    assert text.count("simulated mouse") == 1


def test_a_card_without_scores_shows_no_number_but_facts():
    card = model_card(model_facts())
    assert "model-index" not in card and "No score has been measured" in card
    body, _ = text_of(card).split("<!-- omnimouse card")
    numbers = set(re.findall(r"(?<![\w.])\d[\d,.]*(?<![.,])", body))
    facts = {"1,234,567", "128", "2", "64", "30", "20", "80"}
    known = {"6", "12", "2026", "1", "3"}  # scan rates of the limits, year of the paper, digits of the session's key
    assert numbers - {"1-2-3", "36x64"} - {"36"} <= facts | known


def test_the_mean_stands_for_many_sessions():
    scores = [score(session_key=f"{i}-1-1", value=i / 100) for i in range(MOST_SESSIONS + 1)]
    card = model_card(model_facts(scores=scores))
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_value, result.dataset_name) == (
        0.1,
        "21 sessions",
    ) and "mean over sessions" in result.metric_name
    assert (
        "| `stimulus` | `final_test` | single-trial correlation, mean over neurons | 21 | 0.1000 | 0.0000 | 0.2000 |"
        in card
    )


def test_many_sessions_are_counted_and_few_are_listed():
    assert "| `1-2-3` | `mouse-1` | 80 |" in EVERY_CARD["model"]
    many = EVERY_CARD["many sessions"]
    assert "50, of 25 animals, with 500 neurons in all" in many and 'session_keys("me/mouse")' in many
    assert "49-1-1" not in many


def test_same_facts_give_the_same_bytes():
    shuffled = random.Random(0).sample(SCORES, len(SCORES))
    sessions = [SPEC, SessionSpec("0-0-0", 3, "m")]
    cards = {
        model_card(model_facts(scores=s, sessions=t)) for s in (SCORES, shuffled) for t in (sessions, sessions[::-1])
    }
    assert len(cards) == 1


@pytest.mark.parametrize("name", ["converted", "session on converted weights"])
def test_converted_weights_carry_the_note_on_hidden_video_and_no_licence_of_ours(name):
    card = EVERY_CARD[name]
    assert "a mask does not hide frames from the video features" in card and "not pure forecasts" in card
    metadata = ModelCard(card).data
    assert metadata.license is None and "No licence is stated here" in card
    assert "published-weights" in metadata.tags
    assert "Hidden video leaks" not in EVERY_CARD["model"] + EVERY_CARD["session"]


def test_converted_weights_name_their_source():
    assert "[`them/core`](https://huggingface.co/them/core) at commit `abc`" in EVERY_CARD["converted"]
    card = model_card(model_facts(config=CONVERTED, license="cc-by-nc-4.0"))
    assert ModelCard(card).data.license == "cc-by-nc-4.0" and "No licence is stated" not in card


def test_only_what_goes_back_to_a_packaged_core_has_a_licence_by_itself():
    def licence(**changes):
        return ModelCard(model_card(model_facts(**changes))).data.license

    assert licence(base_model="omnimouse-tiny") == "apache-2.0"
    assert licence() is licence(base_model="me/core") is licence(base_model="/some/folder") is None
    assert licence(base_model="me/core", license="mit") == "mit"


def test_a_session_card_names_its_base_and_hash():
    card = EVERY_CARD["session"]
    data = ModelCard(card).data
    assert data.base_model == "me/core" and data.base_model_relation == "adapter" and "session-adapter" in data.tags
    assert "c" * 64 in card and "at commit `0123abcd`" in card
    assert 'from_pretrained("me/adapter")' in card and 'load_session("me/adapter")' in card
    assert 'from_pretrained("me/core", revision="0123abcd")' in card


def test_only_repos_are_base_models_and_folders_are_never_named():
    for base in ("omnimouse-tiny", "/home/somebody/core", None):
        cards = model_card(model_facts(base_model=base)), session_card(session_facts(base_model=base))
        for card in cards:
            assert "base_model" not in card and "somebody" not in card
            assert ("omnimouse-tiny" in card) == (base == "omnimouse-tiny")
    data = ModelCard(model_card(model_facts(base_model="me/core"))).data
    assert (data.base_model, data.base_model_relation) == ("me/core", "finetune")


def test_public_names():
    assert all(map(is_public_name, ("omnimouse-tiny", "omnimouse-80m", "me/my.core_1")))
    assert not any(map(is_public_name, (None, "core", "/a/b", "./a", "a/b/c", "../b", "~/b", "a\n/b")))


def test_strange_names_break_neither_tables_nor_tags():
    card = model_card(model_facts(sessions=[SessionSpec("a|b`c", 3, "<b>m\nx")], scores=[score(session_key="a|<i>")]))
    assert "| `a\\|b'c` | `<b>m x` | 3 |" in card and "a\\|&lt;i>, tier" in card


def test_recipes_are_facts_or_text():
    assert "- steps: 5\n- rates: 0.001, 0.5\n" in EVERY_CARD["model"]
    assert "\nAs in the README.\n" in EVERY_CARD["session"]
    assert "were not recorded" in EVERY_CARD["bare model"]


# Cards that are there already.


def test_a_generated_card_is_replaced():
    new = model_card(model_facts(scores=SCORES))
    for existing in (None, "", " \n", EVERY_CARD["converted"], new, new.replace("\n", "\r\n")):
        assert update_card(existing, new) == new


def test_an_edited_text_is_kept_word_for_word():
    new = model_card(model_facts(scores=SCORES))
    edited = (
        model_card(model_facts())
        .replace("## Limits", "We found more.  \n\n## Limits")
        .replace("tags:", "language: en\ntags:")
    )
    updated = update_card(edited, new)
    assert text_of(updated) == text_of(edited)
    metadata = ModelCard(updated).data.to_dict()
    assert metadata["language"] == "en" and len(ModelCard(updated).data.eval_results) == len(SCORES)
    assert update_card(updated, new) == updated


def test_metadata_of_a_person_are_kept_but_scores_are_ours():
    index = "model-index: [{name: x, results: []}]"
    own = f"---\n# mine\nlicense: mit\ntags: [cortex, mouse]\n{index}\nextra: {{a: 1}}\n---\nMy words.\r\n"
    updated = update_card(own, model_card(model_facts(base_model="me/core")))
    assert updated.endswith("\n---\nMy words.\r\n")
    metadata = ModelCard(updated).data.to_dict()
    assert metadata["license"] == "mit" and metadata["extra"] == {"a": 1} and metadata["library_name"] == "omnimouse"
    assert metadata["tags"][:3] == ["cortex", "mouse", "omnimouse"] and metadata["tags"].count("mouse") == 1
    assert metadata["base_model"] == "me/core" and "model-index" not in metadata


def test_a_card_without_metadata_gets_them():
    updated = update_card("My words.\n", EVERY_CARD["model"])
    assert updated.endswith("---\n\nMy words.\n") and ModelCard(updated).data.library_name == "omnimouse"


def test_scores_of_other_weights_leave_a_generated_card_whose_metadata_were_edited():
    edited = EVERY_CARD["model"].replace(
        "library_name: omnimouse", "library_name: omnimouse\nlicense: mit\nlanguage: en"
    )
    updated = update_card(edited, model_card(model_facts(tags=["more"])))
    metadata = ModelCard(updated).data.to_dict()
    assert "0.3000" not in updated and "model-index" not in metadata
    assert metadata["license"] == "mit" and metadata["language"] == "en" and "more" in metadata["tags"]
    assert update_card(updated, model_card(model_facts())).count("license: mit") == 1


@pytest.mark.parametrize("block", ["---\na: [\n---\nText\n", "---\n- a\n---\nText\n"])
def test_unreadable_metadata_are_not_overwritten(block):
    with pytest.raises(ValueError, match=r"metadata of the model card .* cannot be read"):
        update_card(block, EVERY_CARD["model"])


# The cards in the repository.


def test_the_card_of_the_shipped_core_follows_the_template():
    path = ROOT / "model_cards" / "omnimouse-tiny.md"
    text = path.read_text()
    assert re.findall(r"^## (.*)$", text, flags=re.M) == SECTIONS
    data = ModelCard.load(path).data
    assert (data.library_name, data.license) == ("omnimouse", "apache-2.0")
    body = ModelCard.load(path).text
    assert len(data.eval_results) == 20
    for result in data.eval_results:  # nothing in the metadata that the text does not say
        pattern = rf"(?<![\d.]){re.escape(f'{result.metric_value}')}0*(?![\d.]*\d)"
        assert re.search(pattern, body), result


def test_templates_are_links_to_those_in_use():
    for name, target in {"template.md": "model.md", "session-template.md": "session.md"}.items():
        path = ROOT / "model_cards" / name
        assert path.is_symlink()
        assert path.resolve() == (ROOT / "src" / "omnimouse" / "pretrained" / "cards" / "templates" / target).resolve()


def test_the_citation_is_that_of_the_citation_file():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    for card in (EVERY_CARD["model"], (ROOT / "model_cards" / "omnimouse-tiny.md").read_text()):
        assert f"title     = {{{paper['title']}}}" in card and f"year      = {{{paper['year']}}}" in card
        assert f"author    = {{{{{paper['authors'][0]['name']}}}}}" in card
        assert f"booktitle = {{{paper['collection-title']}}}" in card


def test_facts_are_frozen():
    with pytest.raises(AttributeError):
        model_facts().name = "x"
    assert isinstance(replace(session_facts(), name="a/b"), CardFacts)
