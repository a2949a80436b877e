"""Progress: bars for terminals, lines for logs."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from omnimouse.support import progress
from omnimouse.support.progress import PartClock, ProgressLines, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def write_to(monkeypatch):
    """Makes a stream standard error; to be called in the test, where pytest no longer exchanges it."""

    def write(stream):
        clock = iter(range(1_000_000))  # a second at every look
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setattr(progress, "time", SimpleNamespace(time=lambda: float(next(clock))))
        return stream

    return write


def test_without_a_terminal_progress_is_whole_lines_now_and_then(write_to):
    log = write_to(io.StringIO())
    with progress_bar(total=200, desc="finetune m-1-1", unit="step") as bar:
        assert isinstance(bar, ProgressLines)
        for _ in range(200):
            bar.set_postfix(loss="0.5")
            bar.update()
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and log.getvalue().endswith("\n")
    assert 3 < len(lines) < 150
    assert lines[-1].startswith("finetune m-1-1: 100%, 200 of 200 [") and "loss=0.5" in lines[-1]


def test_what_ends_at_once_is_one_line_or_none_if_it_is_to_leave_no_trace(write_to):
    log = write_to(io.StringIO())
    for _ in progress_bar([1, 2], desc="kept"):
        pass
    for _ in progress_bar([1, 2], desc="gone", leave=False):
        pass
    for _ in progress_bar([1, 2], desc="hidden", shown=False):
        pass
    with progress_bar(total=3, desc="not begun"):
        pass
    assert [line.split(",")[0] for line in log.getvalue().splitlines()] == ["kept: 100%"]


def test_sizes_that_are_not_known_yet_are_no_obstacle(write_to):
    log = write_to(io.StringIO())
    with progress_bar(total=0, desc="download", unit="B", unit_scale=True) as bar:
        bar.total += 2_000_000
        bar.update(1_000_000)
    assert log.getvalue().startswith("download: 50%, 1.00M of 2.00M [")


def test_in_a_terminal_it_is_a_bar(write_to):
    stream = write_to(Terminal())
    with progress_bar(total=2, desc="evaluate") as bar:
        assert not isinstance(bar, ProgressLines)
        bar.update()
    assert "\r" in stream.getvalue()


def test_remarks_go_to_standard_error(capsys):
    progress.say("masks are left out")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "masks are left out\n"


def test_every_second_counts_for_the_innermost_part(monkeypatch):
    times = iter([0.0, 1.0, 4.0, 6.0, 7.0, 8.0, 10.0, 11.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    clock = PartClock()
    with clock.part("training"):  # 0
        with clock.part("validation"):  # 1 to 4
            pass
        with pytest.raises(ValueError, match="failed"), clock.part("validation"):  # 6 to 7
            raise ValueError("failed")
    # 8; what lies between parts counts for none
    with clock.part("report"):  # 10 to 11
        pass
    assert clock.seconds == {"training": 4.0, "validation": 4.0, "report": 1.0}
    assert clock.sentence() == "training 4 s, validation 4 s, report 1 s; 9 s in all"
