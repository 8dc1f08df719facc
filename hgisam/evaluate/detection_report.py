"""Several sets of probabilities of the same slices, compared: a table for people, JSON for machines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hgisam import NOTICE, __version__
from hgisam.evaluate.detection import Detection, Estimate
from hgisam.evaluate.scored import TargetDetection
from hgisam.evaluate.statistics import CONFIDENCE
from hgisam.io.tables import write_json
from hgisam.labels import SUBTYPES, Subtype
from hgisam.segment import SCAN_SLICES


def detection_table(found: Mapping[str, Sequence[TargetDetection]]) -> RenderableType:
    """What several sets of probabilities of the same slices are worth, one under the other, for each target.

    Args:
        found: by the name of what gave the probabilities.
    """
    table = Table()
    table.add_column("hemorrhage", no_wrap=True)
    table.add_column("slices", justify="right")
    table.add_column("scans", justify="right")
    table.add_column("probabilities of", no_wrap=True)
    for head in ("slice AUC", "slice AP", "scan AUC, highest", f"scan AUC, mean of {SCAN_SLICES}"):
        table.add_column(head, justify="right", no_wrap=True)
    for target in (Subtype.ANY, *SUBTYPES):
        rows = [(name, its) for name, by_target in found.items() for its in by_target if its.target is target]
        for k, (name, its) in enumerate(rows):
            slices, scans = its.slices, its.scans_by_highest
            table.add_row(
                *("" if k else cell for cell in (target, _positive_of(slices), _positive_of(scans))),
                escape(name),
                *map(_estimate_shown, (slices.auc, slices.average_precision, scans.auc, its.scans_by_mean.auc)),
                end_section=k == len(rows) - 1,
            )
    notes = (
        f"In brackets: {CONFIDENCE:.0%} bootstrap intervals over patients; '-' where there are too few. A subtype's"
        " slices and scans are held against those without any hemorrhage.",
        NOTICE,
    )
    return Group(table, *(Text(note, style="dim") for note in notes))


def write_detection(path: Path, found: Mapping[str, Sequence[TargetDetection]], **more: object) -> None:
    """Write everything that is known of several sets of probabilities as JSON, with the reasons for what is not.

    Args:
        path: the file.
        found: by the name of what gave the probabilities.
        more: what else the record should hold.

    Raises:
        OutputError: where the file cannot be written.
    """
    by_name = {name: {its.target: asdict(its) for its in by_target} for name, by_target in found.items()}
    write_json(
        path,
        {"hgisam_version": __version__, "notice": NOTICE, "confidence": CONFIDENCE, **more, "probabilities": by_name},
    )


def _positive_of(found: Detection) -> str:
    return f"{found.n_positive:,} of {found.n:,}"


def _estimate_shown(estimate: Estimate) -> str:
    interval = "-" if estimate.low is None or estimate.high is None else f"{estimate.low:.3f}, {estimate.high:.3f}"
    return "-" if estimate.value is None else f"{estimate.value:.3f} [{interval}]"
