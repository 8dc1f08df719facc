"""Work in other processes: results in order, errors where they belong, and no harm from one that hangs or dies."""

import logging
import math
import os
from pathlib import Path

import pytest
from misbehaving import behave, leave

from hgisam.processes import LoneWorker, ProcessGone, TookTooLong, in_order, side_by_side

LONG_S = 600.0


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_items_order(workers: int) -> None:
    assert list(in_order(math.sqrt, [float(n * n) for n in range(20)], workers)) == list(range(20))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_where_the_result_would_have(workers: int) -> None:
    results = in_order(math.sqrt, [4.0, -1.0, 9.0], workers)
    assert next(results) == 2.0
    with pytest.raises(ValueError):
        next(results)


def test_no_item_is_no_result() -> None:
    assert list(in_order(math.sqrt, [], 1)) == []


def test_no_worker_is_an_error() -> None:
    with pytest.raises(ValueError, match="one worker or more"):
        list(in_order(math.sqrt, [1.0], 0))


def test_a_lone_worker_is_one_process_until_it_hangs_or_dies() -> None:
    with LoneWorker(behave) as worker:
        first, answer = worker.result("a", LONG_S)
        assert answer == "a"
        assert first != os.getpid()
        assert worker.result("signals", LONG_S) == (first, "signals")
        with pytest.raises(FileNotFoundError, match="as asked"):
            worker.result("fail", LONG_S)
        assert worker.result("b", LONG_S) == (first, "b")
        with pytest.raises(ProcessGone, match="signal 9"):
            worker.result("die", LONG_S)
        second, _ = worker.result("c", LONG_S)
        with pytest.raises(TookTooLong, match=r"within 0\.5 s"):
            worker.result("hang", 0.5)
        third, _ = worker.result("d", LONG_S)
        assert len({first, second, third}) == 3
    with pytest.raises(ProcessLookupError):
        os.kill(third, 0)


def test_what_a_lone_worker_logs_is_logged_here(caplog: pytest.LogCaptureFixture) -> None:
    with LoneWorker(behave) as worker:
        worker.result("log", LONG_S)
    assert [(entry.name, entry.getMessage()) for entry in caplog.records] == [("hgisam.test", "seven is 7")]


def test_items_side_by_side_end_where_one_fails_and_one_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    side_by_side(leave, [tmp_path / name for name in ("die", "fail", "a", "log", "b")], 2)
    pids = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(pids) == ["a", "b", "log"]
    assert len({str(os.getpid()), *pids.values()}) == 4
    said = sorted(entry.getMessage() for entry in caplog.records)
    assert said[1:] == ["expected a process to finish its work; it ended with signal 9", "seven is 7"]
    assert said[0] == "FileNotFoundError: as asked"


def test_who_interrupts_items_side_by_side_does_not_wait_for_them() -> None:
    class Interrupt(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise KeyboardInterrupt

    logger = logging.getLogger("hgisam.test")
    logger.addHandler(interrupt := Interrupt())
    try:
        with pytest.raises(KeyboardInterrupt):
            side_by_side(behave, ["hang", "log and hang", "never begun"], 2)
    finally:
        logger.removeHandler(interrupt)
