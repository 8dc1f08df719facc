"""Phantoms -> a folder as a data set would come: scans, their truth, and a table of labels per slice."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hgisam import NOTICE, __version__
from hgisam.exits import Interrupts
from hgisam.io.atomic import make_output_folder
from hgisam.io.nifti import new_grid_for, write_ct, write_labels
from hgisam.io.space import ensure_free_space
from hgisam.io.tables import SLICE_LABEL_COLUMNS, read_slice_labels, write_csv, write_json
from hgisam.labels import Subtype
from hgisam.outputs import RUN_RECORD, claimed, refuse_overwriting
from hgisam.phantom import Phantom, PhantomOptions, slice_labels
from hgisam.progress import case_progress

SLICE_LABELS = "slice_labels.csv"
TRUTH = "truth"

_HEAD_MM = 230
"""So long a head is, at most: of pixels beyond, a file holds next to nothing."""

_BYTES_PER_VOXEL = (0.2, 0.6)
"""What a scan takes on disk: at the least, and as a rule (0.43 to 0.83 of 80 phantoms, with noise). Masks are small."""

Row = dict[str, Any]


def write_phantoms(
    phantoms: Iterable[Phantom],
    names: Sequence[str],
    folder: Path,
    *,
    options: PhantomOptions | None = None,
    show_progress: bool = False,
) -> list[Row]:
    """Write `NAME.nii.gz`, `truth/NAME_labels.nii.gz`, `slice_labels.csv` and `run.json`.

    Rows of an earlier table stay where they speak of other files, so that a folder can grow by further seeds. What was
    made before an interruption is listed in the table.

    Args:
        phantoms: as many as there are names; made as they are asked for.
        names: a case name for each.
        folder: made if absent.
        options: what the phantoms were made with, for the record; None where they differ.
        show_progress: whether to draw a progress bar on the terminal.

    Returns:
        One row per phantom: case, seed, bleeds with their volumes, and volume_ml in all.

    Raises:
        InputError: where a file is in the way that hgisam has not written.
        OutputError: where the folder cannot be written, or its disk has no room for the phantoms.
    """
    files = [f"{name}.nii.gz" for name in names] + [f"{TRUTH}/{name}_labels.nii.gz" for name in names]
    rows: list[Row] = []
    labels: list[Row] = []
    with claimed(folder), Interrupts() as interrupts, case_progress(len(names), show=show_progress) as begin:
        refuse_overwriting(folder, [], [], [SLICE_LABELS, *files])
        n_new = sum(not (folder / f"{name}.nii.gz").exists() for name in names)
        if options is not None:
            at_least, usual = (int(n_new * _n_voxels(options) * each) for each in _BYTES_PER_VOXEL)
            ensure_free_space(folder, at_least, usual)
        make_output_folder(folder / TRUTH)
        earlier = _earlier_labels(folder, {f"{name}.nii.gz" for name in names})
        _write_record(folder, rows, options, "running")
        status = "stopped"
        try:
            made = iter(phantoms)
            for name in names:
                begin(name)
                phantom = next(made)
                with interrupts.held():
                    grid = new_grid_for(phantom.ct)
                    write_ct(folder / f"{name}.nii.gz", phantom.ct, grid)
                    write_labels(folder / TRUTH / f"{name}_labels.nii.gz", phantom.labels, grid)
                    labels += _label_rows(f"{name}.nii.gz", phantom)
                    rows.append(_row(name, phantom))
            status = "done"
        finally:
            with interrupts.held():
                write_csv(folder / SLICE_LABELS, [*earlier, *labels], SLICE_LABEL_COLUMNS)
                _write_record(folder, rows, options, status)
    return rows


def _n_voxels(options: PhantomOptions) -> float:
    """Voxels of a phantom's slices that lie near its head."""
    return options.n_slices * min(options.size_px, _HEAD_MM / options.pixel_mm) ** 2


def _row(name: str, phantom: Phantom) -> Row:
    bleeds = [{"subtype": b.subtype, "volume_ml": b.volume_ml, "contrast_hu": b.contrast_hu} for b in phantom.bleeds]
    return {
        "case": name,
        "seed": phantom.seed,
        "volume_ml": sum((bleed.volume_ml for bleed in phantom.bleeds), 0.0),
        "bleeds": bleeds,
    }


def _label_rows(file: str, phantom: Phantom) -> list[Row]:
    return [
        {"file": file, "slice_index": row.slice_index} | {s.value: int(row.present[s]) for s in Subtype}
        for row in slice_labels(phantom)
    ]


def _earlier_labels(folder: Path, replaced: set[str]) -> list[Row]:
    """Rows of the table that is there already, of files that are not made anew."""
    if not (folder / SLICE_LABELS).is_file():
        return []
    return [
        {"file": label.file, "slice_index": label.slice_index} | {s.value: int(s in label.subtypes) for s in Subtype}
        for label in read_slice_labels(folder / SLICE_LABELS)
        if label.file not in replaced
    ]


def _write_record(folder: Path, rows: Sequence[Row], options: PhantomOptions | None, status: str) -> None:
    write_json(
        folder / RUN_RECORD,
        {
            "command": "phantom",
            "status": status,
            "notice": NOTICE,
            "versions": {"hgisam": __version__},
            "settings": None if options is None else options.model_dump(mode="json"),
            "cases": list(rows),
        },
    )
