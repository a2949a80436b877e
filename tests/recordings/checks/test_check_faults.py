"""One fault at a time: each finding names file, field, expected and found; none raises, none is written about twice."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from faults import EXPERANTO, SENSORIUM, SEVERITIES, STATIC, as_markdown, listed
from faults.tools import Fault
from fuzzing.sessions import HEIGHT, SENSORIUM_NAME, WIDTH, sensorium_2023, write_tree
from static_folders import NAME as STATIC_NAME
from static_folders import write_static

import omnimouse.recordings
from omnimouse import OmniMouseProcessor
from omnimouse.recordings import Finding, check_recording, open_recording

OF_EXPERANTO, OF_SENSORIUM, OF_STATIC = listed(EXPERANTO), listed(SENSORIUM), listed(STATIC)


def matches(finding: Finding, fault: Fault) -> bool:
    _, severity, path, field, texts = fault
    return (
        (finding.severity, finding.field) == (severity, field)
        and finding.path.endswith(path)
        and all(text in str(finding) for text in texts)
    )


def is_found(folder: Path, fault: Fault, processor: OmniMouseProcessor) -> None:
    findings = check_recording(folder, processor=processor)
    assert any(matches(finding, fault) for finding in findings), "\n".join(map(str, findings))
    assert all(finding.expected and finding.found and finding.what_to_do for finding in findings)
    assert "check" not in [finding.field for finding in findings]
    severities = [SEVERITIES.index(finding.severity) for finding in findings]
    assert severities == sorted(severities)
    try:
        open_recording(folder)
    except ValueError as error:
        listed = [finding.field for finding in findings if finding.severity == "fatal"]
        assert any(field in str(error) for field in listed), (listed, error)


def archive_or(folder: Path, made: object) -> Path:
    """The archive that a fault was made in, else the folder."""
    archives = [folder.parent / f"session{suffix}" for suffix in (".zip", ".tar")]
    return next((archive for archive in archives if str(archive) == str(made)), folder)


@pytest.mark.parametrize("fault", OF_EXPERANTO)
def test_a_fault_is_found_and_named(write_session, tree_hash, fault):
    folder = write_session()
    made = OF_EXPERANTO[fault][0](folder)
    before = tree_hash(folder)
    is_found(archive_or(folder, made), OF_EXPERANTO[fault], OmniMouseProcessor())
    assert tree_hash(folder) == before


@pytest.mark.parametrize("fault", OF_SENSORIUM)
def test_a_fault_of_a_sensorium_folder_is_found_and_named(tmp_path, tree_hash, fault, monkeypatch):
    monkeypatch.setenv("OMNIMOUSE_CACHE", str(tmp_path / "cache"))
    name = "renamed" if fault.endswith("does not name the session") else SENSORIUM_NAME
    folder = write_tree(sensorium_2023(), tmp_path / name)
    made = OF_SENSORIUM[fault][0](folder)
    before = tree_hash(folder)
    is_found(archive_or(folder, made), OF_SENSORIUM[fault], OmniMouseProcessor(frame_height=HEIGHT, frame_width=WIDTH))
    assert tree_hash(folder) == before


@pytest.mark.parametrize("fault", OF_STATIC)
def test_a_fault_of_a_static_folder_is_found_and_named(tmp_path, tree_hash, fault):
    folder = write_static(tmp_path / STATIC_NAME)
    OF_STATIC[fault][0](folder)
    before = tree_hash(folder)
    is_found(folder, OF_STATIC[fault], OmniMouseProcessor())
    assert tree_hash(folder) == before


def test_faults_of_all_parts_are_found_together(write_session):
    folder = write_session()
    together = (
        "Metadata cannot be understood: a text in the place of a number",
        "Channels and neurons: an eye tracker without 4 columns",
        "Frame times and the order of trials: first_frame_idx that is not the sum of all num_frames before",
        "Metadata cannot be understood: meta.json that does not parse",
    )
    for fault in together:
        OF_EXPERANTO[fault][0](folder)
    np.save(folder / "treadmill/meta/stds.npy", np.zeros(1))
    findings = check_recording(folder)
    assert all(any(matches(finding, OF_EXPERANTO[fault]) for finding in findings) for fault in together)
    assert "stds" in [finding.field for finding in findings]


def test_the_docs_list_what_is_tested():
    docs = (Path(__file__).parents[3] / "docs/recordings.md").read_text()
    for groups in (EXPERANTO, SENSORIUM, STATIC):
        assert as_markdown(groups) in docs, "renew the tables with: cd tests && python -m faults"


def reported_fields() -> set[tuple[str, str]]:
    """Severity and field of every finding that the source of the checks can make, where they are written out."""
    folder = Path(omnimouse.recordings.__file__).parent
    found = set()
    for pattern in (
        "checks/*.py",
        "formats/experanto/*.py",
        "formats/sensorium/*.py",
        "formats/detecting.py",
        "data/*.py",
    ):
        for file in folder.glob(pattern):
            if file.name == "check_dataset.py":  # tables have tests of their own
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                words = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
                if isinstance(node.func, ast.Attribute) and any(word.arg == "expected" for word in node.keywords):
                    words = words if node.func.attr == "add" else [node.func.attr, *words]
                elif not isinstance(node.func, ast.Name) or node.func.id != "Kind":
                    continue
                if len(words) > 1 and words[0] in SEVERITIES and "{" not in words[1]:
                    found.add((words[0], words[1]))
    return found


def test_every_finding_that_can_be_made_is_in_the_tables():
    every = (*OF_EXPERANTO.values(), *OF_SENSORIUM.values(), *OF_STATIC.values())
    tested = {(fault[1], fault[3]) for fault in every}
    reported = reported_fields()
    assert len(reported) > 40
    # What is foreseen nowhere else; and a folder of several recordings, tested with the tables of `datasets`.
    assert reported - tested == {("fatal", "check"), ("fatal", "session")}
