"""Reading files of untrusted recordings: what cannot be mapped, what cannot be parsed, what can be shown."""

from __future__ import annotations

import os

import numpy as np
import pytest

from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.missing import LARGEST, usable
from omnimouse.recordings.data.reading import map_array, open_array, read_fields, read_name, shown


def test_arrays_are_mapped(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    array = map_array(tmp_path / "a.npy")
    assert isinstance(array, np.memmap) and array.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 5


def test_what_is_no_array_is_a_value_error_and_a_finding(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "zeros.npy").symlink_to("/dev/zero")
    (tmp_path / "loop.npy").symlink_to(tmp_path / "loop.npy")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    for name in ("pipe", "folder", "zeros", "loop", "empty", "several", "nothing"):
        findings = Findings()
        assert open_array(tmp_path / f"{name}.npy", findings) is None
        assert [finding.severity for finding in findings] == ["fatal"]
        with pytest.raises(ValueError, match=rf"{name}\.npy"):
            map_array(tmp_path / f"{name}.npy")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", "i8", "u1", "?"])
def test_usable_is_finite_in_float32(dtype):
    values = np.array([0, 1, 2]).astype(dtype)
    assert usable(values).all()
    if np.dtype(dtype).kind == "f":
        values[0] = np.nan
        values[1] = -np.inf
        assert usable(values).tolist() == [False, False, True]
    if dtype in ("f8", "g"):
        assert usable(np.array([LARGEST, 2 * LARGEST, -2 * LARGEST], dtype=dtype)).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 100_000, "64 levels"),
        ("- " * 100_000, "64 levels"),
        ("[" * 4000, "flow node"),
        ("x" * (2**20 + 1), "1048577 bytes"),
        ("a: !!python/object/apply:os.system ['true']", "python/object"),
        ("a: 0o9\n: :", "mapping"),
    ],
)
def test_texts_that_are_refused(tmp_path, text, what):
    (tmp_path / "meta.yml").write_text(text)
    findings = Findings()
    assert read_fields(tmp_path / "meta.yml", findings) is None
    assert len(findings) == 1 and what in str(findings[0])


def test_long_texts_that_are_flat_are_read(tmp_path):
    (tmp_path / "meta.yml").write_text("".join(f"key{i}: {i}\n" for i in range(1000)))
    assert read_fields(tmp_path / "meta.yml", Findings()) == {f"key{i}": i for i in range(1000)}


@pytest.mark.parametrize(
    "value", [[], {}, "a\0b", "x" * 201, 1 << 20_000, [1], b"x"], ids=lambda value: type(value).__name__
)
def test_names_are_short_texts_or_numbers(tmp_path, value):
    findings = Findings()
    assert read_name({"key": value}, "key", tmp_path, findings) is None
    assert [(finding.severity, finding.field) for finding in findings] == [("fatal", "key")]
    assert len(findings[0].found) <= 120


def test_names_that_are(tmp_path):
    findings = Findings()
    assert [read_name({"key": value}, "key", tmp_path, findings) for value in ("a", 3, 1.5, "", None)] == [
        "a", "3", "1.5", None, None,
    ]  # fmt: skip
    assert not findings


def test_values_are_shown_short_whatever_they_are():
    multiplied = ["ha"]
    for _ in range(40):
        multiplied = [multiplied] * 9
    multiplied.append(multiplied)
    assert shown(30.0) == "30.0" and shown("a") == "'a'"
    for value in (multiplied, 1 << 50_000, "x" * 10_000, {str(i): multiplied for i in range(9)}):
        assert len(shown(value)) <= 120
