"""Pictures of a training and of what it led to, as PNG: learning curves, ROC and precision-recall, reliability.

Drawn on canvases of their own, so that no display, no pyplot and no global state is involved. Colours are those of
Okabe and Ito, which the colour-blind tell apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hgisam import NOTICE
from hgisam.evaluate.detection import Curve, Curves, Detection, Estimate, ReliabilityBin
from hgisam.evaluate.statistics import CONFIDENCE
from hgisam.io.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORES = {"tuning_auc": "AUC, tuning slices", "tuning_dice": "Dice, tuning scans that bled"}
"""What a tuning set may say, each the higher the better, and how it is called in pictures."""

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#8A8F98"
_INK, _FAINT = "#22262B", "#E3E6EA"
_DPI = 160
INTERVALS = f"Bands, bars and brackets: {CONFIDENCE:.0%} bootstrap intervals over patients."
"""What a figure's foot says unless it shows something else."""
_MOST_COLUMNS = 6
_LOSS_SPAN = 20
"""The smoothed loss is a mean over about a twentieth of the steps shown."""


def write_learning_curves(path: Path, rows: Sequence[Mapping[str, float | None]], title: str) -> None:
    """Loss, what the tuning set says, and learning rate against steps.

    Args:
        path: the PNG.
        rows: by step, with the keys step, loss, learning_rate and one of SCORES; a key that is absent or None was not
            measured at that step. A quantity that was never measured has an empty panel that says so.
        title: what was trained.

    Raises:
        OutputError: where the file cannot be written.
    """
    figure = new_figure(9.6, 7.6, title)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
    score = next((key for key in SCORES if any(key in row for row in rows)), "tuning_auc")
    named = (("loss", "Training loss", _BLUE), (score, SCORES[score], _GREEN))
    for axes, (key, label, colour) in zip(panels, (*named, ("learning_rate", "Learning rate", _ORANGE)), strict=True):
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
        dress(axes)
        axes.set_ylabel(label)
        if len(steps) == 0:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=_GREY)
            axes.set_yticks([])
        elif key == "loss":
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1, label=f"as logged, n = {len(values)}")
            width = max(1, len(values) // _LOSS_SPAN)
            axes.plot(steps, _smoothed(values, width), color=colour, linewidth=2, label=f"mean of {width} neighbours")
            axes.legend(loc="upper right", frameon=False)
        elif key == score:
            best = int(values.argmax())
            axes.plot(steps, values, color=colour, linewidth=2, marker="o", markersize=5, label=f"n = {len(values)}")
            highest = f"highest: {values[best]:.3f} at step {steps[best]:,.0f}"
            axes.plot(steps[best], values[best], "o", markersize=11, mfc="none", mec=_INK, mew=1.6, label=highest)
            axes.legend(loc="lower right", frameon=False)
            axes.margins(y=0.12)
        else:
            axes.plot(steps, values, color=colour, linewidth=2)
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    panels[-1].set_xlabel("Step (update of the parameters)")
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    figure.align_ylabels(panels)
    save(figure, path)


def write_roc_and_precision_recall(path: Path, curves: Curves, found: Detection, title: str, unit: str) -> None:
    """The ROC and the precision-recall curve, each with its band, its area and, where there is one, operating point.

    Args:
        path: the PNG.
        curves: of `hgisam.evaluate.detection.detection_curves`.
        found: of the same cases, with the operating point to mark.
        title: what was evaluated, on whom.
        unit: what a case is, in the plural: "slices".

    Raises:
        OutputError: where the file cannot be written.
    """
    figure = new_figure(11.6, 6.6, title, f"{found.n_positive:,} positive of {found.n:,} {unit}, {_of_patients(found)}")
    left, right = figure.subplots(1, 2)
    prevalence = found.n_positive / found.n
    roc, precision_recall = curves.roc, curves.precision_recall
    _draw_curve(left, roc, f"AUC {_shown(found.auc)}", _BLUE, "straight")
    left.plot([0, 1], [0, 1], color=_GREY, linewidth=1.2, linestyle=(0, (4, 3)), label="chance: 0.500")
    left.set_xlabel("False-positive rate (1 - specificity)")
    left.set_ylabel("Sensitivity")
    _draw_curve(right, precision_recall, f"AP {_shown(found.average_precision)}", _GREEN, "steps")
    chance = f"chance: {prevalence:.3f}"
    right.plot([0, 1], [prevalence, prevalence], color=_GREY, linewidth=1.2, linestyle=(0, (4, 3)), label=chance)
    right.set_xlabel("Recall (sensitivity)")
    right.set_ylabel("Precision (PPV)")
    if found.operating_point is not None and found.sensitivity.value is not None:
        at = f"operating point, probability {found.operating_point:.3f}\n"
        sensitivity = f"sensitivity {_shown(found.sensitivity)}\n"
        if found.specificity.value is not None:
            label = f"{at}{sensitivity}specificity {_shown(found.specificity)}"
            _mark(left, 1 - found.specificity.value, found.sensitivity.value, label)
        if found.ppv.value is not None:
            _mark(right, found.sensitivity.value, found.ppv.value, f"{at}{sensitivity}PPV {_shown(found.ppv)}")
    for axes, legend in ((left, "lower right"), (right, "best")):
        dress(axes)
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.02)
        axes.set_box_aspect(1)
        axes.legend(loc=legend, framealpha=0.9, edgecolor="none", fontsize=9.5)
    save(figure, path)


def write_reliability(
    path: Path, sets: Mapping[str, tuple[Sequence[ReliabilityBin], Detection]], title: str, unit: str
) -> None:
    """How often what was said came true, bin by bin, and how many cases each bin holds.

    Args:
        path: the PNG.
        sets: by name, such as "before temperature" and "after", at most two: bins of
            `hgisam.evaluate.detection.reliability`, and the figures of the same cases.
        title: what was evaluated, on whom.
        unit: what a case is, in the plural: "slices".

    Raises:
        OutputError: where the file cannot be written.
        ValueError: where there is no set, or more than two.
    """
    if not 1 <= len(sets) <= 2:
        raise ValueError(f"expected one or two sets of probabilities; got {len(sets)}")
    any_set = next(iter(sets.values()))[1]
    counts = f"{any_set.n_positive:,} positive of {any_set.n:,} {unit}, {_of_patients(any_set)}"
    figure = new_figure(8.4, 8.8, title, counts)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    upper.plot([0, 1], [0, 1], color=_GREY, linewidth=1.2, linestyle=(0, (4, 3)), label="what is said comes true")
    for k, ((name, (bins, found)), colour) in enumerate(zip(sets.items(), (_ORANGE, _BLUE), strict=False)):
        label = f"{name}\ncalibration error {_shown(found.calibration_error)}\nBrier score {_shown(found.brier)}"
        filled = [b for b in bins if b.mean_probability is not None and b.share.value is not None]
        x = np.array([b.mean_probability for b in filled], dtype=np.float64)
        y = np.array([b.share.value for b in filled], dtype=np.float64)
        ends = [(b.share.value if b.share.low is None else b.share.low, b.share.high) for b in filled]
        low = np.array([end for end, _ in ends], dtype=np.float64)
        high = np.array([y[i] if end is None else end for i, (_, end) in enumerate(ends)], dtype=np.float64)
        upper.vlines(x, low, high, color=colour, alpha=0.55, linewidth=2)
        upper.plot(x, y, color=colour, linewidth=2, marker="os"[k], markersize=7, label=label)
        edges = np.array([b.low for b in bins])
        width = np.array([b.high - b.low for b in bins]) * 0.8 / len(sets)
        starts = edges + 0.1 * (bins[0].high - bins[0].low) + k * width
        bars = lower.bar(starts, [b.n for b in bins], width=width, align="edge", color=colour, alpha=0.85)
        lower.bar_label(bars, [f"{b.n:,}" if b.n else "" for b in bins], padding=2, fontsize=7.5, color=_INK)
    upper.set_ylabel(f"Share of {unit} that are positive")
    upper.set_xlim(0, 1)
    upper.set_ylim(-0.02, 1.02)
    lower.set_ylabel(unit.capitalize())
    lower.set_yscale("symlog", linthresh=10)
    lower.yaxis.set_major_formatter("{x:,.0f}")
    lower.set_ylim(0, 6 * max(b.n for bins, _ in sets.values() for b in bins) + 1)
    lower.set_xlabel(f"Probability; {len(bins)} bins of equal width")
    for axes in (upper, lower):
        dress(axes)
    lower.grid(visible=False, axis="x")
    upper.legend(loc="upper left", framealpha=0.9, edgecolor="none", fontsize=9.5)
    save(figure, path)


def write_hidden_pictures(
    path: Path,
    wanted: Float[Tensor, "slices height width"],
    shown: Float[Tensor, "slices height width"],
    said: Float[Tensor, "slices height width"],
) -> None:
    """Slices, what a network was shown of them, and what it says was hidden, one column each; the first few.

    Args:
        path: the PNG.
        wanted: grey values in [0, 1] of the slices as they are.
        shown: with parts hidden.
        said: the same with what the network says in their place.

    Raises:
        OutputError: where the file cannot be written.
    """
    n = min(_MOST_COLUMNS, len(wanted))
    figure = new_figure(2.2 * n, 7.6, "What was hidden, and what the network says was there")
    grid = figure.subplots(3, n, squeeze=False)
    for row, (name, planes) in enumerate((("as it is", wanted), ("shown", shown), ("said", said))):
        for axes, plane in zip(grid[row], planes, strict=False):
            axes.imshow(plane.numpy(), cmap="gray", vmin=0.0, vmax=1.0)
            axes.set_axis_off()
        grid[row, 0].set_title(name, loc="left", fontsize=11, color=_INK)
    save(figure, path)


def new_figure(width: float, height: float, title: str, subtitle: str = "", legend: str = INTERVALS) -> "Figure":
    """A figure with a canvas, a head and, where there is a subtitle, a foot; sizes in inches.

    Args:
        width: of the whole.
        height: of the whole.
        title: above it.
        subtitle: beneath the title: what of, and how many.
        legend: what lines and bars are; in the foot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    head, foot, edge = 0.85 if subtitle else 0.6, 0.45, 0.15
    room = (edge / width, foot / height, 1 - 2 * edge / width, 1 - (head + foot) / height)
    engine = ConstrainedLayoutEngine(rect=room, wspace=0.06, hspace=0.03)
    figure = Figure(figsize=(width, height), dpi=_DPI, layout=engine, facecolor="white")
    FigureCanvasAgg(figure)
    left = 2 * edge / width
    figure.text(left, 1 - 0.2 / height, title, va="top", fontsize=14, fontweight="bold", color=_INK)
    figure.text(left, 1 - 0.5 / height, subtitle, va="top", fontsize=10.5, color=_INK)
    explained = f"{legend} " if subtitle else ""
    figure.text(left, 0.15 / height, f"{explained}{NOTICE}", va="bottom", fontsize=9, color=_INK)
    return figure


def dress(axes: "Axes") -> None:
    """Give axes the house's grid, spines and sizes of type."""
    axes.grid(visible=True, color=_FAINT, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=10, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GREY)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(11)
        label.set_color(_INK)


def _draw_curve(axes: "Axes", curve: Curve, label: str, colour: str, course: Literal["straight", "steps"]) -> None:
    x, y = np.append(0.0, curve.x.numpy()), np.append(curve.y[0].item(), curve.y.numpy())
    style = "default" if course == "straight" else "steps-pre"
    axes.plot(x, y, color=colour, linewidth=2.2, drawstyle=style, label=label, solid_joinstyle="round")
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.grid, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)


def _mark(axes: "Axes", x: float, y: float, label: str) -> None:
    axes.plot(
        [x], [y], linestyle="none", marker="o", markersize=10, mfc=_ORANGE, mec="white", mew=1.5, zorder=5, label=label
    )


def _smoothed(
    values: np.ndarray[tuple[int], np.dtype[np.float64]], width: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The mean of each value and its neighbours, fewer at the ends."""
    ones = np.ones(width)
    return np.convolve(values, ones, mode="same") / np.convolve(np.ones_like(values), ones, mode="same")


def _of_patients(found: Detection) -> str:
    return f"{found.n_positive_patients:,} positive of {found.n_patients:,} patients"


def _shown(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"- ({estimate.reason})"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG: the same bytes for the same figure.

    Raises:
        OutputError: where the file cannot be written.
    """
    with atomic_write(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
