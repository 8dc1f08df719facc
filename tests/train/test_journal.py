"""What a training tells while it runs."""

import json
from pathlib import Path

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
