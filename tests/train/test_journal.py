"""What a training tells while it runs."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hgisam.train.journal import EVERY, journal, read_rows
from hgisam.train.loop import StepReport


def test_lost_steps_leave_a_file_that_any_reader_of_json_takes(tmp_path: Path) -> None:
    with journal(tmp_path, 2 * EVERY, 0, show=False) as told:
        for step in range(1, 2 * EVERY + 1):
            loss = float("nan") if step == 3 else 0.5
            told.note(step, StepReport({"slice_loss": loss}, 1.0, 1e-3, 0.01), 0.0)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [(row["step"], row["loss"], row["slice_loss"]) for row in rows] == [(25, None, None), (50, 0.5, 0.5)]
    assert read_rows(tmp_path) == rows


def step_of(loss: float) -> StepReport:
    return StepReport({"slice_loss": loss}, 1.0, 1e-3, 0.5)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What the last line of a terminal of 80 columns has shown last, without its colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")

    def line() -> str:
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
        return [shown for shown in re.split(r"[\r\n]", plain) if shown.strip()][-1]

    return line


@pytest.mark.parametrize(("name", "shown"), [("tuning_auc", "AUC"), ("tuning_dice", "Dice")])
def test_a_terminal_shows_loss_score_steps_and_time_left(
    tmp_path: Path, terminal: Callable[[], str], name: str, shown: str
) -> None:
    """The score is that of the last look, also while the loss goes on."""
    with journal(tmp_path, 20000, 0, show=True) as told:
        for step in range(1, 2 * EVERY + 1):
            told.note(step, step_of(0.5), 0.0)
        told.write({"step": 2 * EVERY, name: 0.9})
        told.write({"step": 2 * EVERY, name: 0.91234})
        for step in range(2 * EVERY + 1, 3 * EVERY + 1):
            told.note(step, step_of(0.25), 0.0)
    line = terminal()
    assert line.startswith(f"loss 0.2500  {shown} 0.9123 ")
    assert re.search(r" 75/20000 \d+:\d\d:\d\d$", line.rstrip())
    assert len(line) <= 80


def test_before_the_first_look_a_terminal_shows_the_loss_alone(tmp_path: Path, terminal: Callable[[], str]) -> None:
    with journal(tmp_path, 100, 0, show=True) as told:
        for step in range(1, EVERY + 1):
            told.note(step, step_of(0.5), 0.0)
    assert re.match(r"loss 0\.5000 [^A-Z]* 25/100 ", terminal())


def test_a_training_that_goes_on_shows_the_last_score_and_where_it_stands_at_once(
    tmp_path: Path, terminal: Callable[[], str]
) -> None:
    with journal(tmp_path, 100, 0, show=False) as told:
        for step in range(1, 3 * EVERY + 1):
            told.note(step, step_of(step / 100), 0.0)
            if step % EVERY == 0:
                told.write({"step": step, "tuning_auc": step / 100})
    with journal(tmp_path, 100, 2 * EVERY, show=True):
        pass
    assert re.match(r"loss 0\.3800  AUC 0\.5000 .* 50/100 -:--:--", terminal())  # no step of this run tells how long
