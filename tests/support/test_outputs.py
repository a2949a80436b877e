"""Places for results are refused before time is spent on them, and inside recordings always."""

import pytest

from omnimouse.support.outputs import check_output


@pytest.fixture
def recording(tmp_path):
    folder = tmp_path / "mouse"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("place", ["new.json", "new/folder/scores.json", "mouse.json"])
def test_places_outside_the_recording_are_accepted_and_not_made(recording, tmp_path, place):
    assert check_output(tmp_path / place, recording) == tmp_path / place
    assert [entry.name for entry in tmp_path.iterdir()] == ["mouse"]


@pytest.mark.parametrize("place", ["mouse", "mouse/scores.json", "other/../mouse/deep/scores.json"])
@pytest.mark.parametrize("folder", [True, False])
def test_recordings_are_never_written_to(recording, tmp_path, place, folder):
    with pytest.raises(ValueError, match=r"lies in the recording .* outside it"):
        check_output(tmp_path / place, recording, folder=folder)


def test_files_and_folders_are_told_apart(recording, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is a folder, expected the name of a file"):
        check_output(tmp_path / "folder", recording)
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        check_output(tmp_path / "file", recording, folder=True)
    with pytest.raises(ValueError, match="file is a file, expected a folder"):
        check_output(tmp_path / "file/scores.json", recording)
    assert check_output(tmp_path / "file", recording)
    assert check_output(tmp_path / "folder", recording, folder=True)


def test_no_permission(recording, tmp_path, monkeypatch):
    # The tests may run as a user who may write anywhere.
    monkeypatch.setattr("omnimouse.support.outputs.os.access", lambda *_: False)
    with pytest.raises(ValueError, match="no permission to write in"):
        check_output(tmp_path / "new/scores.json", recording)
