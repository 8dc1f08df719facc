"""What a training tells while it runs: rows of metrics on disk, TensorBoard, and a line of progress."""

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgisam.io.atomic import atomic_write
from hgisam.train.loop import StepReport

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

EVERY = 25
"""Steps that one row of metrics is the mean of."""

ROWS = "metrics.jsonl"
BOARD = "tensorboard"

_SCORES = {"tuning_auc": "AUC", "tuning_dice": "Dice"}
"""What a tuning set may say, and how a line of progress calls it."""


class Journal:
    """Writes `metrics.jsonl` and TensorBoard's files, and shows progress. Use within `journal`."""

    def __init__(
        self,
        folder: Path,
        steps: int,
        start: int,
        before: Iterable[Mapping[str, Any]],
        board: "SummaryWriter",
        progress: "Progress | None",
    ) -> None:
        self._rows = folder / ROWS
        self._steps, self._board, self._progress = steps, board, progress
        self._latest: dict[str, str] = {}
        for row in before:
            self._take_in(row)
        self._task: TaskID | None = None
        if progress:
            self._task = progress.add_task(self._description, total=steps, completed=start)
        self._reports: list[StepReport] = []
        self._waits_s: list[float] = []
        self._told = time.monotonic()

    def note(self, step: int, report: StepReport, wait_s: float) -> None:
        """Take in a step.

        Args:
            step: how many steps were made.
            report: of the last of them.
            wait_s: how long it waited for its batch.
        """
        self._reports.append(report)
        self._waits_s.append(wait_s)
        if step % EVERY and step != self._steps:
            return
        n = len(self._reports)
        row = {
            "step": step,
            "loss": sum(r.loss for r in self._reports) / n,
            **{name: sum(r.losses[name] for r in self._reports) / n for name in report.losses},
            "gradient_norm": sum(r.gradient_norm for r in self._reports) / n,
            "learning_rate": report.learning_rate,
            "seconds_per_step": (sum(r.seconds for r in self._reports) + sum(self._waits_s)) / n,
            "share_waiting_for_data": sum(self._waits_s)
            / max(1e-9, sum(r.seconds for r in self._reports) + sum(self._waits_s)),
        }
        self._reports, self._waits_s = [], []
        self.write(row)
        left_min = (self._steps - step) * row["seconds_per_step"] / 60
        text = f"step {step} of {self._steps}  loss {row['loss']:.4f}  {row['seconds_per_step']:.2f} s a step"
        log.info("%s  %.0f min left", text, left_min)

    def write(self, row: dict[str, Any]) -> None:
        """Add a row, with its `step`, to the metrics and to TensorBoard."""
        with self._rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: _rounded(value) for name, value in row.items()}) + "\n")
        for name, value in row.items():
            if name != "step" and isinstance(value, float):
                self._board.add_scalar(name, value, row["step"])
        self._take_in(row)
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=row["step"], description=self._description)

    def _take_in(self, row: Mapping[str, Any]) -> None:
        for name, shown in (("loss", "loss"), *_SCORES.items()):
            if row.get(name) is not None:
                self._latest[name] = f"{shown} {row[name]:.4f}"

    @property
    def _description(self) -> str:
        """The latest loss and the latest of what the tuning set said, in front of the bar."""
        return "  ".join(self._latest.values())


@contextmanager
def journal(folder: Path, steps: int, start: int, *, show: bool) -> Iterator[Journal]:
    """Open a training's journal; where it goes on from a checkpoint, what was written after that is taken back.

    Args:
        folder: of the training.
        steps: that there will be in all.
        start: how many were made before.
        show: whether to draw a bar of progress.
    """
    from torch.utils.tensorboard import SummaryWriter

    rows = [row for row in read_rows(folder) if row["step"] <= start]
    with atomic_write(folder / ROWS) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    board = SummaryWriter(str(folder / BOARD), purge_step=start + 1 if start else None)
    try:
        if show:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            bar = BarColumn(bar_width=24)  # all of the line is to fit 80 columns
            columns = (TextColumn("{task.description}"), bar, MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=Console(stderr=True), speed_estimate_period=600) as progress:
                yield Journal(folder, steps, start, rows, board, progress)
        else:
            yield Journal(folder, steps, start, rows, board, None)
    finally:
        board.close()


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a training, a row each; a last row that was cut off is left out. Empty where there are none."""
    path = folder / ROWS
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _rounded(value: object) -> object:
    """Six digits; null for what JSON has no number for: the mean loss over steps that were lost."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
