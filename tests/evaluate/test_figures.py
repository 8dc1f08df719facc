"""Pictures: whole PNG files with what was measured in them, made without pyplot."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hgisam.evaluate.detection import detection, detection_curves, reliability
from hgisam.evaluate.figures import write_learning_curves, write_reliability, write_roc_and_precision_recall

BLUE, ORANGE, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)

PROBABILITIES = torch.linspace(0.02, 0.98, 60)
LABELS = torch.arange(60) % 7 > (59 - torch.arange(60)) // 10
PATIENTS = [f"p{k % 12}" for k in range(60)]


def pixels_of(path: Path, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that have a colour, nearly."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return np.nonzero((abs(picture - np.array(colour)) < 12).all(axis=2))


def test_learning_curves_show_each_quantity_in_its_panel(tmp_path: Path) -> None:
    rows: list[dict[str, float | None]] = [
        {"step": float(step), "loss": 1.0 / step, "learning_rate": 1e-3, "tuning_auc": 0.9 if step % 5 == 0 else None}
        for step in range(1, 21)
    ]
    write_learning_curves(tmp_path / "all.png", rows, "A training")
    middles = [np.median(pixels_of(tmp_path / "all.png", colour)[0]) for colour in (BLUE, GREEN, ORANGE)]
    assert middles == sorted(middles)
    without = [{key: value for key, value in row.items() if key != "tuning_auc"} for row in rows]
    write_learning_curves(tmp_path / "without.png", without, "A training")
    assert len(pixels_of(tmp_path / "without.png", GREEN)[0]) == 0
    assert len(pixels_of(tmp_path / "without.png", BLUE)[0]) > 0


@pytest.mark.parametrize("operating_point", [None, 0.5])
def test_the_operating_point_is_marked_where_there_is_one(tmp_path: Path, operating_point: float | None) -> None:
    path = tmp_path / "roc_pr.png"
    found = detection(PROBABILITIES, LABELS, PATIENTS, operating_point)
    curves = detection_curves(PROBABILITIES, LABELS, PATIENTS)
    write_roc_and_precision_recall(path, curves, found, "A network", "slices")
    assert pixels_of(path, BLUE)[1].max() < pixels_of(path, GREEN)[1].min()
    assert (len(pixels_of(path, ORANGE)[0]) > 0) == (operating_point is not None)


def test_two_patients_have_a_curve_without_a_band(tmp_path: Path) -> None:
    patients = ["a", "b"] * 30
    curves = detection_curves(PROBABILITIES, LABELS, patients)
    assert curves.roc.low is None
    write_roc_and_precision_recall(
        tmp_path / "few.png", curves, detection(PROBABILITIES, LABELS, patients), "Few", "slices"
    )
    assert len(pixels_of(tmp_path / "few.png", BLUE)[0]) > 0


def test_reliability_before_and_after(tmp_path: Path) -> None:
    softer = (PROBABILITIES.logit() / 2).sigmoid()
    sets = {
        name: (reliability(p, LABELS, PATIENTS), detection(p, LABELS, PATIENTS))
        for name, p in (("before temperature", PROBABILITIES), ("after temperature", softer))
    }
    write_reliability(tmp_path / "both.png", sets, "A network", "slices")
    assert len(pixels_of(tmp_path / "both.png", ORANGE)[0]) > 0
    assert len(pixels_of(tmp_path / "both.png", BLUE)[0]) > 0
    with pytest.raises(ValueError, match="one or two sets"):
        write_reliability(tmp_path / "none.png", {}, "A network", "slices")


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [{"step": 1.0, "loss": 0.5}, {"step": 2.0, "loss": 0.4}]
    for name in ("first.png", "second.png"):
        write_learning_curves(tmp_path / name, rows, "A training")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_no_pyplot_and_no_matplotlib_until_a_figure_is_drawn(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from hgisam.evaluate.figures import write_learning_curves\n"
        "if 'matplotlib' in sys.modules: sys.exit('matplotlib was imported with the module')\n"
        "write_learning_curves(Path(sys.argv[1]), [{'step': 1, 'loss': 2.0}], 'A training')\n"
        "if 'matplotlib.pyplot' in sys.modules: sys.exit('pyplot was imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
