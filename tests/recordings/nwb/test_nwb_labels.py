"""What NWB files say about regions, trials, animals and links, as pynwb and other tools write it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hdmf.common import DynamicTable, VectorData
from nwb_files import (
    N_NEURONS,
    RESPONSES,
    add_responses,
    add_series,
    add_trials,
    empty_file,
    plain_file,
    replace,
    written,
)

from omnimouse import import_nwb
from omnimouse.cli.main import main
from omnimouse.recordings.nwb.rois import Rois, choose

CELLS = np.arange(N_NEURONS) % 2 == 0
TABLE = "processing/ophys/ImageSegmentation/PlaneSegmentation"


def bytes_of(words) -> np.ndarray:
    return np.array(words, dtype="S20")


def coded(table: h5py.Group, name: str, codes, labels) -> None:
    """An EnumData column, as hdmf stores it."""
    column = table.create_dataset(name, data=np.array(codes, dtype=np.uint8))
    column.attrs["neurodata_type"] = "EnumData"
    table[f"{name}_elements"] = bytes_of(labels)
    column.attrs["elements"] = table[f"{name}_elements"].ref


VERDICTS = {
    "iscell of Suite2p": lambda table: table.create_dataset(
        "iscell", data=np.stack([CELLS, 0.3 + 0.6 * CELLS], axis=1)
    ),
    "iscell alone": lambda table: table.create_dataset("iscell", data=CELLS),
    "Accepted and Rejected of CaImAn": lambda table: (
        table.create_dataset("Accepted", data=CELLS.astype(int)),
        table.create_dataset("Rejected", data=(~CELLS).astype(int)),
    ),
    "Rejected alone": lambda table: table.create_dataset("Rejected", data=~CELLS),
    "valid_roi": lambda table: table.create_dataset("valid_roi", data=CELLS),
    "words": lambda table: table.create_dataset(
        "quality", data=bytes_of(["good" if cell else "Noise" for cell in CELLS])
    ),
    "numbers as text": lambda table: table.create_dataset(
        "Accepted", data=bytes_of(["1" if c else "0" for c in CELLS])
    ),
    "coded words": lambda table: coded(table, "label", 1 - CELLS, ["accepted", "rejected"]),
    "none for one": lambda table: table.create_dataset("accepted", data=np.where(CELLS, 1.0, [0, np.nan] * 4)),
}


@pytest.mark.parametrize("kind", VERDICTS)
def test_rejected_regions_stay_out_and_can_be_had(kind, tmp_path):
    with plain_file(tmp_path / "session.nwb") as file:
        VERDICTS[kind](file[TABLE])
        values = file[RESPONSES]["data"][()]
    said: list[str] = []
    imported = import_nwb(tmp_path / "session.nwb", tmp_path / "imported", report=said.append)
    assert np.array_equal(imported.responses.data, values[:, CELLS])
    assert imported.unit_ids.tolist() == [10, 12, 14, 16]
    (line,) = [line for line in said if line.startswith("regions")]
    assert "4 of 8, those accepted (" in line and "--rois all" in line
    every = import_nwb(tmp_path / "session.nwb", tmp_path / "all", rois="all")
    assert np.array_equal(every.responses.data, values)
    assert any("4 of 8 regions are rejected by the lab" in str(f) for f in every.findings if f.severity == "warning")


def test_regions_by_a_column_of_the_labs_own_from_the_shell(tmp_path, capsys):
    with plain_file(tmp_path / "session.nwb") as file:
        file[TABLE]["layer"] = np.arange(N_NEURONS) // 4
        file[TABLE]["depth"] = np.arange(N_NEURONS) * 10.0
        file[TABLE]["Accepted"] = np.zeros(N_NEURONS, dtype=int)
    command = ["import", str(tmp_path / "session.nwb"), str(tmp_path / "imported")]
    assert main(command) == 2
    assert "8 of 8 regions are rejected by the lab (Accepted), so none is left" in capsys.readouterr().err
    assert (
        main([*command, "--rois", "depth"]) == 2
        and "depth holds other values than yes and no, such as 10" in capsys.readouterr().err
    )
    assert main([*command, "--rois", "soma"]) == 2 and "it has Accepted, depth, layer" in capsys.readouterr().err
    assert main([*command, "--rois", "layer"]) == 0
    assert "4 of 8, those accepted (layer)" in capsys.readouterr().err


def test_what_is_no_verdict_rejects_nothing(tmp_path):
    with plain_file(tmp_path / "session.nwb") as file:
        file[TABLE]["quality"] = np.linspace(0, 1, N_NEURONS)
        file[TABLE]["label"] = bytes_of(["V1", "LM"] * 4)
        file[TABLE]["class"] = bytes_of(["0", "1"] * 4)
        file[TABLE]["iscell"] = np.linspace(0.1, 0.9, N_NEURONS)
    imported = import_nwb(tmp_path / "session.nwb", tmp_path / "imported")
    assert imported.n_neurons == N_NEURONS
    assert any("iscell holds other values than yes and no" in str(finding) for finding in imported.findings)
    with h5py.File(tmp_path / "session.nwb", "r+") as file:
        replace(file[TABLE], "iscell", bytes_of(["maybe"] * N_NEURONS))
    unsure = import_nwb(tmp_path / "session.nwb", tmp_path / "unsure")
    assert any("such as maybe" in str(finding) for finding in unsure.findings)
    assert choose(Rois(), "accepted").columns is None
    with pytest.raises(ValueError, match="name no table of regions"):
        choose(Rois(), "layer")


@pytest.mark.filterwarnings("ignore:EnumData is experimental")
def test_coded_columns_of_pynwb_are_read_as_their_labels(tmp_path):
    """`EnumData` and rows of another table, as pynwb writes them."""
    nwb = empty_file()
    add_responses(nwb, np.random.default_rng(0).gamma(2, 2, (900, 4)).astype(np.float32), rate=30.0)
    names = VectorData(name="clip", description="", data=["forest", "city", "sea"])
    clips = DynamicTable(name="clips", description="", columns=[names])
    nwb.add_acquisition(clips)
    for number in range(6):
        nwb.add_trial(5.0 * number, 5.0 * number + 5)
    tiers = ["train", "train", "final_test", "train", "final_test", "train"]
    codes = np.array([("train", "final_test").index(tier) for tier in tiers], dtype=np.uint8)
    nwb.trials.add_column(name="tier", description="", data=codes, enum=["train", "final_test"])
    nwb.trials.add_column(name="condition", description="", data=[0, 1, 2, 0, 1, 2], table=clips)
    file = written(nwb, tmp_path / "session.nwb")
    with h5py.File(file) as stored:
        assert stored["intervals/trials/tier"].dtype.kind == "u"
    trials = import_nwb(file, tmp_path / "imported").trials
    assert [trial.tier for trial in trials] == ["train", "train", "final_test", "train", "final_test", "train"]
    assert [trial.condition_hash for trial in trials] == ["forest", "city", "sea"] * 2


def conditions(tmp_path: Path, column, **others) -> list[str | None]:
    with plain_file(tmp_path / "session.nwb") as file:
        add_trials(file, stimulus_id=column, **others)
    trials = import_nwb(tmp_path / "session.nwb", tmp_path / "imported").trials
    return [trial.condition_hash for trial in trials if trial.tier != "unused"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (np.array([1, 2, np.nan, np.nan, 3] * 2), ["1.0", "2.0", None, None, "3.0"]),
        (np.array([1, 2, 1e20, 1e20, 3] * 2), ["1.0", "2.0", None, None, "3.0"]),
        (np.array([1, 2, -1, -9999, 3] * 2), ["1", "2", None, None, "3"]),
        (np.array([1, 2, -(2**63), -(2**63), 3] * 2), ["1", "2", None, None, "3"]),
        (np.array([1, 2, 2**32 - 1, 2**32 - 1, 3] * 2, dtype=np.uint32), ["1", "2", None, None, "3"]),
        (bytes_of(["a", "b", "nan", "n/a", "c"] * 2), ["a", "b", None, None, "c"]),
        (bytes_of(["a", "b", "", "None", "c"] * 2), ["a", "b", None, None, "c"]),
    ],
)
def test_missing_conditions_are_none_and_no_condition(tmp_path, column, expected):
    assert conditions(tmp_path, column) == expected * 2


def test_other_forms_of_columns(tmp_path):
    """HDF5 enumerations, categories beside codes, lists of one value, and codes for no value."""
    with plain_file(tmp_path / "session.nwb") as file:
        table = add_trials(file, tier=None)
        kind = h5py.enum_dtype({"train": 0, "final_test": 1}, basetype="i8")
        table.create_dataset("tier", data=np.array([0, 1] * 5), dtype=kind)
        codes = table.create_dataset("condition", data=np.array([0, 1, -1, 1, 0] * 2))
        codes.attrs["categories"] = bytes_of(["forest", "city"])
    trials = import_nwb(tmp_path / "session.nwb", tmp_path / "imported").trials
    assert [trial.tier for trial in trials] == ["train", "final_test"] * 5
    assert [trial.condition_hash for trial in trials] == ["forest", "city", None, "city", "forest"] * 2
    (tmp_path / "lists").mkdir()
    listed = conditions(tmp_path / "lists", np.arange(9), stimulus_id_index=np.array([1, 2, 3, 3, 4, 5, 6, 7, 8, 9]))
    assert listed == ["0", "1", "2", None, "3", "4", "5", "6", "7", "8"]


def test_tiers_that_are_missing_or_numbers(tmp_path):
    with plain_file(tmp_path / "session.nwb") as file:
        add_trials(file, tier=bytes_of(["train", "final_test", "nan", "", "train"] * 2))
    imported = import_nwb(tmp_path / "session.nwb", tmp_path / "imported")
    assert imported.tiers == ["train", "final_test"]
    with h5py.File(tmp_path / "session.nwb", "r+") as file:
        replace(file["intervals/trials"], "tier", np.array([0.0, 1.0] * 5))
    with pytest.raises(ValueError, match=r"column 'tier' has numbers \(0, 1\), expected names of tiers"):
        import_nwb(tmp_path / "session.nwb", tmp_path / "numbers")
    tiers = {"column": "tier", "values": {"train": [0], "final_test": [1]}}
    imported = import_nwb(tmp_path / "session.nwb", tmp_path / "meant", mapping={"tiers": tiers})
    assert imported.tiers == ["train", "final_test"]


@pytest.mark.parametrize(
    ("place", "subject", "session", "expected"),
    [
        ("x.nwb", "m7", "1", ("m7-1", "m7")),
        ("x.nwb", "m7", "m7-1-2", ("m7-1-2", "m7")),
        ("x.nwb", "m7", "m71-2", ("m7-m71-2", "m7")),
        ("x.nwb", "M1", "sub-M1_ses-20240101", ("M1-20240101", "M1")),
        ("x.nwb", "sub-M1", "2", ("M1-2", "M1")),
        ("sub-M1/sub-M1_ses-2_behavior+ophys.nwb", None, None, ("M1-2", "M1")),
        ("sub-M2/sub-M2_ses-2_behavior+ophys.nwb", None, "2", ("M2-2", "M2")),
        ("sub-M3/a.nwb", "n/a", "b", ("M3-b", "M3")),
        ("x.nwb", None, "sub-M4_ses-1", ("M4-1", "M4")),
        ("x.nwb", "m7", None, ("m7-20240501T100000", "m7")),
        ("x.nwb", None, "17797-4-7", ("17797-4-7", "17797")),
        ("day 1.nwb", None, None, ("day_1", "day_1")),
    ],
)  # fmt: skip
def test_sessions_and_animals_by_name(tmp_path, place, subject, session, expected):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    with plain_file(path) as file:
        file["session_start_time"] = "2024-05-01T10:00:00+02:00"
        for name, value in (("general/subject/subject_id", subject), ("general/session_id", session)):
            del file[name]
            if value is not None:
                file[name] = value
    said: list[str] = []
    imported = import_nwb(path, tmp_path / "imported", report=said.append)
    assert (imported.session_key, imported.animal_id) == expected
    assert f"session                {expected[0]}, animal {expected[1]} (" in "\n".join(said)


def test_links_within_the_file_and_to_others_are_followed(tmp_path):
    speed = np.random.default_rng(1).gamma(1, 1, 600)
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data/other.h5", "w") as other:
        add_series(other, "wheel", speed, 20.0)
        other["responses"] = np.random.default_rng(2).gamma(1, 1, (300, N_NEURONS))
    with plain_file(tmp_path / "session.nwb") as file:
        del file[RESPONSES]["data"]
        file[RESPONSES]["data"] = h5py.ExternalLink("data/other.h5", "/responses")
        file["processing/running_speed"] = h5py.ExternalLink("data/other.h5", "/wheel")
        file["processing/again"] = h5py.SoftLink("/processing")
        file["processing/ophys/itself"] = file["processing"]
    imported = import_nwb(tmp_path / "session.nwb", tmp_path / "imported")
    assert np.array_equal(imported.treadmill.data[:, 0], speed)
    with h5py.File(tmp_path / "data/other.h5") as other:
        assert np.array_equal(imported.responses.data, other["responses"][()])
    mapping = {"behavior": {"pupil_size": "processing/running_speed/data", "running_speed": "none"}}
    mapped = import_nwb(tmp_path / "session.nwb", tmp_path / "mapped", mapping=mapping)
    assert np.array_equal(mapped.eye_tracker.data[:, 0], speed)


def test_what_is_not_used_is_listed_with_units_of_what_is(tmp_path):
    with plain_file(tmp_path / "session.nwb") as file:
        add_series(file["processing"], "RunningSpeed_cm_s", np.ones(600), 20.0, unit="m/s")
        add_series(file["processing"], "whisking", np.ones(600), 20.0)
    said: list[str] = []
    import_nwb(tmp_path / "session.nwb", tmp_path / "imported", report=said.append)
    assert "running_speed          processing/RunningSpeed_cm_s, 600, 20 Hz, m/s" in said
    assert "not used               processing/whisking" in said


@pytest.mark.parametrize("place", ["attribute", "data set"])
def test_nwb_1_is_named_as_such_with_what_to_do(tmp_path, place):
    with h5py.File(tmp_path / "old.nwb", "w") as file:
        if place == "attribute":
            file.attrs["nwb_version"] = "NWB-1.0.6"
        else:
            file["nwb_version"] = "NWB-1.0.6"
    with pytest.raises(ValueError, match=r"NWB 1.0.6, expected NWB 2.*\[neurons, samples\].*recording_from_arrays"):
        import_nwb(tmp_path / "old.nwb", tmp_path / "imported")


def test_flags_that_only_the_lab_understands_are_named(tmp_path):
    with plain_file(tmp_path / "session.nwb") as file:
        file[TABLE]["curated"] = CELLS
    said: list[str] = []
    assert import_nwb(tmp_path / "session.nwb", tmp_path / "all", report=said.append).n_neurons == N_NEURONS
    assert any(line.startswith("regions") and "curated (true for 4 of 8)" in line for line in said)
    assert import_nwb(tmp_path / "session.nwb", tmp_path / "some", mapping={"rois": "curated"}).n_neurons == 4
