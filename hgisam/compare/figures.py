"""Pictures of a comparison, as PNG: spread by method, ranks, case by case, volumes; and single cases, outlined."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hgisam.compare.results import Results
from hgisam.compare.runner import CaseResult
from hgisam.compare.statistics import Ranking
from hgisam.evaluate.figures import dress, new_figure, save
from hgisam.evaluate.statistics import CONFIDENCE
from hgisam.io.atomic import atomic_write
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import read_ct, read_mask
from hgisam.preview import Outline, render_outlines
from hgisam.volume import same_grid
from hgisam.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _OTHER, _GREY, _INK = "#D55E00", "#0072B2", "#8A8F98", "#22262B"
_COLUMNS = 4
_PANEL_INCHES = 2.9


def write_boxes(path: Path, results: Results) -> None:
    """A box with every case for each method, best mean on top, and the mean with its interval.

    Raises:
        OutputError: where the file cannot be written.
    """
    names = results.best_first()
    title = f"{results.measure.title}, by method"
    foot = (
        "Box: quartiles; line: median; whiskers: 1.5 quartile ranges; diamond and bar: mean,"
        f" {CONFIDENCE:.0%} bootstrap interval over patients."
    )
    figure = new_figure(11.0, 1.9 + 0.52 * len(names), title, _counts(results), foot)
    axes = figure.subplots()
    for place, name in enumerate(reversed(names)):
        values = np.array([results.values[name][case] for case in sorted(results.values[name])])
        colour = _colour(name, results)
        if len(values):
            axes.boxplot(
                values, positions=[place], orientation="horizontal", widths=0.6, showfliers=False,
                medianprops={"color": _INK, "linewidth": 1.8}, boxprops={"color": colour},
                whiskerprops={"color": colour}, capprops={"color": colour}, manage_ticks=False,
            )  # fmt: skip
        spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(len(values))
        shuffled = spread[np.random.default_rng(0).permutation(len(values))]
        axes.plot(values, place + shuffled, "o", color=colour, alpha=0.35, markersize=4, mec="none")
        mean = results.summaries[name].means[results.measure.name]
        if mean.mean is not None:
            if mean.low is not None and mean.high is not None:
                axes.hlines(place, mean.low, mean.high, color=_INK, linewidth=3.2)
            axes.plot(mean.mean, place, "D", color=_INK, markersize=7, mec="white", mew=1.2)
    axes.set_yticks(range(len(names)), [f"{name}  (n = {len(results.values[name])})" for name in reversed(names)])
    axes.set_xlabel(results.measure.title)
    dress(axes)
    axes.grid(visible=False, axis="y")
    save(figure, path)


def write_ranks(path: Path, results: Results, ranking: Ranking) -> None:
    """A critical-difference diagram: methods on a line by mean rank, those not told apart joined by a bar.

    Source: Demsar, J Mach Learn Res 7:1, 2006, figure 1.

    Raises:
        OutputError: where the file cannot be written.
    """
    names = [found.method.name for found in results.complete]
    order = sorted(range(len(names)), key=lambda index: ranking.mean_ranks[index])
    n_left = math.ceil(len(names) / 2)
    height = 2.6 + 0.34 * n_left + 0.2 * len(ranking.groups)
    told = "" if ranking.reason is None else f"; no test: {ranking.reason}"
    foot = "Grey bars join methods whose mean ranks differ by less than the critical difference (Nemenyi, 0.05)."
    figure = new_figure(
        11.0, height, f"Mean rank by {results.measure.title}, 1 is best", f"{_counts(results)}{told}", foot
    )
    axes = figure.subplots()
    k, bars = len(names), 0.45 * len(ranking.groups)
    axes.hlines(0, 1, k, color=_INK, linewidth=1.5)
    for rank in range(1, k + 1):
        axes.vlines(rank, 0, 0.18, color=_INK, linewidth=1.2)
        axes.text(rank, 0.28, str(rank), ha="center", va="bottom", fontsize=10, color=_INK)
    for place, index in enumerate(order):
        left = place < n_left
        row = place if left else len(order) - 1 - place
        depth, mean = -0.9 - bars - 0.85 * row, ranking.mean_ranks[index]
        colour = _colour(names[index], results)
        end = 0.8 if left else k + 0.2
        axes.plot([mean, mean, end], [0, depth, depth], color=colour, linewidth=1.3)
        axes.text(
            end + (-0.05 if left else 0.05), depth, f"{names[index]}  {mean:.2f}", color=colour, fontsize=10.5,
            ha="right" if left else "left", va="center",
        )  # fmt: skip
    for number, group in enumerate(ranking.groups):
        ranks = [ranking.mean_ranks[index] for index in group]
        axes.hlines(-0.45 - 0.45 * number, min(ranks) - 0.04, max(ranks) + 0.04, color=_GREY, linewidth=5)
    if ranking.critical_difference is not None:
        axes.hlines(1.15, 1, 1 + ranking.critical_difference, color=_INK, linewidth=2.5)
        axes.text(1, 1.3, f"critical difference {ranking.critical_difference:.2f}", fontsize=10, color=_INK)
    margin = 0.55 * k
    axes.set_xlim(1 - margin, k + margin)
    axes.set_axis_off()
    save(figure, path)


def write_pairs(path: Path, results: Results) -> None:
    """Case by case, the reference method against each other one; beyond the line, the reference is better.

    Raises:
        OutputError: where the file cannot be written.
    """
    own, measure = results.options.reference, results.measure
    others = [found.name for found in results.versus]
    side = "below" if results.higher_is_better else "above"
    foot = f"A point is a case; {side} the diagonal, {own} is better."
    values = [value for name in (own, *others) for value in results.values[name].values()]
    edge = max([1.0, *values]) * 1.03
    for axes, name in _panels(
        path, f"{measure.title}, case by case: {own} against the others", _counts(results), foot, others
    ):
        cases = sorted(set(results.values[own]) & set(results.values[name]))
        axes.plot([0, edge], [0, edge], color=_GREY, linewidth=1)
        x, y = ([results.values[method][case] for case in cases] for method in (own, name))
        axes.plot(x, y, "o", color=_OTHER, alpha=0.55, markersize=5, mec="none")
        axes.set_title(f"{name}\nn = {len(cases)}", fontsize=9.5, color=_INK)
        axes.set(xlim=(-0.02 * edge, edge), ylim=(-0.02 * edge, edge), xlabel=own)


def write_volumes(path: Path, results: Results) -> None:
    """Predicted against reference volume of every case, for each method, on axes that are linear below 1 mL.

    Raises:
        OutputError: where the file cannot be written.
    """
    names = results.best_first()
    scores = {
        name: [one.score.overlap for one in results.case_results(name).values() if one.score.volume_known]
        for name in names
    }
    edge = 1.5 * max([1.0, *(max(o.prediction_ml, o.reference_ml) for own in scores.values() for o in own)])
    subtitle = f"All cases, normal ones at 0; {results.summaries[names[0]].n_patients} patients"
    foot = "Bias: mean of predicted minus reference; LoA: limits of agreement, 95 % of differences; ICC(2,1)."
    for axes, name in _panels(path, "Volumes in mL: predicted against reference", subtitle, foot, names):
        agreement = results.summaries[name].volume_all
        axes.plot([0, edge], [0, edge], color=_GREY, linewidth=1)
        x, y = [o.reference_ml for o in scores[name]], [o.prediction_ml for o in scores[name]]
        axes.plot(x, y, "o", color=_colour(name, results), alpha=0.55, markersize=5, mec="none")
        limits, icc = agreement.limits, agreement.icc
        told = [f"{name}", f"n = {limits.n}, bias {_signed(limits.bias)} mL"]
        if limits.low is not None:
            told.append(f"LoA {_signed(limits.low)} to {_signed(limits.high)}")
        if icc.value is not None:
            told[-1] += f", ICC {icc.value:.2f}"
        axes.set_title("\n".join(told), fontsize=9, color=_INK)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_yscale("symlog", linthresh=1)
        axes.set(xlim=(-0.15, edge), ylim=(-0.15, edge), xlabel="reference mL")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")


def write_case(path: Path, results: Results, what: str, name: str) -> None:
    """One case in its most telling slice: the reference, then every method's outline there, best mean first.

    The slice has the most reference; of a normal scan, the most that the reference method took for blood.

    Raises:
        OutputError: where the file cannot be written.
        ScanRefused: where the scan cannot be read, or the reference is not on its grid.
    """
    own = results.case_results(results.options.reference)[name]
    ct, _ = read_ct(own.case.scan)
    reference = read_mask(own.case.reference)[0]
    if not same_grid(ct, reference):
        raise ScanRefused(f"{name}: expected scan and reference on one grid; got two; resample the reference")
    truth = reference.voxels
    shown = truth if bool(truth.any()) else _mask_of(own, truth)
    index = int(shown.flatten(1).sum(dim=1).argmax())
    reference_ml = own.score.overlap.reference_ml
    outlines = [Outline("reference", truth[index], f"{reference_ml:.1f} mL in the scan")]
    methods = [method for method in results.best_first() if name in results.case_results(method)]
    for method in methods:
        one = results.case_results(method)[name]
        outlines.append(Outline(method, _mask_of(one, truth)[index], _case_note(results, one)))
    title = f"{what} of {results.options.reference}: {name}, slice {index} from below"
    picture = render_outlines(ct, index, outlines, title=title)
    with atomic_write(path) as file:
        file.write(picture)


def _mask_of(one: CaseResult, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if one.mask is None else read_mask(one.mask)[0].voxels


def _case_note(results: Results, one: CaseResult) -> str:
    if one.failure is not None:
        return "failed: no mask"
    value = results.measure.value(one.score) if results.measure.over(one.score) else None
    told = "" if value is None else f"{results.measure.name} {results.measure.form.format(value)}, "
    return f"{told}{one.score.overlap.prediction_ml:.1f} mL"


def _panels(path: Path, title: str, subtitle: str, foot: str, names: Sequence[str]) -> "Iterator[tuple[Axes, str]]":
    """Square axes for each name, four in a row; the figure is written once all are drawn."""
    n_rows = math.ceil(len(names) / _COLUMNS)
    n_columns = min(_COLUMNS, len(names))
    width, height = max(9.0, _PANEL_INCHES * n_columns + 0.4), 1.4 + 1.3 * _PANEL_INCHES * n_rows
    figure = new_figure(width, height, title, subtitle, foot)
    grid = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    for axes, name in zip(grid, names, strict=False):
        yield axes, name
        dress(axes)
        axes.set_box_aspect(1)
        axes.xaxis.label.set_fontsize(9)
        axes.tick_params(labelsize=8)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    save(figure, path)


def _colour(name: str, results: Results) -> str:
    return _OURS if name == results.options.reference else _OTHER


def _counts(results: Results) -> str:
    names = [found.method.name for found in results.complete]
    cases = sorted({case for name in names for case in results.values[name]})
    n_patients = len({results.patients[case] for case in cases})
    return f"{counted(len(cases), 'case')} of {counted(n_patients, 'patient')}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"
