"""Results as plain values: the record of a case (`CASE.json`), its slices, and its row in the summary."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from hgisam import NOTICE, __version__
from hgisam.io.dicom_series import DicomSeries
from hgisam.io.tables import json_text
from hgisam.labels import SUBTYPES
from hgisam.pipeline import ClassificationResult, SegmentationResult, hash_of
from hgisam.plausibility import Plausibility
from hgisam.volume import SlicePlanes

SEGMENT_SUMMARY = (
    "case", "input", "series_uid", "status", "reason", "probability", "volume_ml", "volume_is_lower_bound",
    "volume_reason", "n_voxels", "n_slices", "n_slices_in_mask", "plausibility", "n_warnings", "seconds",
)  # fmt: skip
CLASSIFY_SUMMARY = (
    "case", "input", "series_uid", "status", "reason", "probability", "n_slices", "n_slices_positive", "plausibility",
    "n_warnings", "seconds",
)  # fmt: skip
RUN_COLUMNS = ("case", "input", "status", "reason", "seconds")

Record = dict[str, Any]

_SEAL = "record_sha256"
_OF_RUN = ("case", "command", "hgisam_version", "settings_hash", "weights_sha256", "options")


def recorded_path(path: Path) -> str:
    """A path as outputs state it: its last name alone, since folders are often named after patients and users."""
    return valid_text(path.name or path.resolve().name)


def recorded_reason(reason: str, path: Path) -> str:
    """A reason as outputs state it: one line, and paths as `recorded_path` has them.

    A file within the case's folder or archive is named first, before what was expected of it.
    """
    source, expected, rest = reason.partition(": expected ")
    if expected and source.startswith(str(path)):
        source = recorded_path(Path(source))
    named = f"{source}{expected}{rest}"
    if len(path.parts) > 1:  # else it is a name already, or "." or "..", which stand for anything
        named = named.replace(str(path), recorded_path(path))
    return valid_text(" ".join(named.split()))


def case_record(
    command: str,
    case: str,
    path: Path,
    input_sha256: str | None,
    settings: dict[str, Any],
    options: dict[str, bool],
) -> Record:
    """What every record begins with, whatever came of the case.

    Args:
        command: `segment`, `classify` or `compare`.
        case: the case's name.
        path: the input, as given.
        input_sha256: of the input's bytes; None where it could not be read.
        settings: every setting that leads to a result, `weights_sha256` among them.
        options: which outputs were asked for.
    """
    return {
        "case": case,
        "command": command,
        "hgisam_version": __version__,
        "notice": NOTICE,
        "input": recorded_path(path),
        "input_sha256": input_sha256,
        "settings_hash": hash_of(settings),
        "weights_sha256": settings.get("weights_sha256"),
        "options": options,
    }


def sealed(record: Record) -> Record:
    """The record with a hash of all that it says, as its last value."""
    return record | {_SEAL: hashlib.sha256(json_text(record).encode()).hexdigest()}


def is_sealed(record: Record) -> bool:
    """Whether a record that was read says what it said when it was sealed."""
    return sealed({key: value for key, value in record.items() if key != _SEAL}) == record


def is_of_run(record: Record, header: Record) -> bool:
    """Whether a record that was read is of the same case, command, version, settings, weights and kinds of outputs.

    Args:
        record: what was read; may be empty.
        header: the case's `case_record` in this run.
    """
    return all(record.get(key) == header[key] for key in _OF_RUN)


def dicom_record(series: DicomSeries | None) -> Record:
    """What a record says of a DICOM series beside its slices; nothing for any other input. No text of the header."""
    if series is None:
        return {}
    return {"dicom": {"series_uid": series.uid, "n_files": len(series.files), "left_out": series.left_out_reasons}}


def refusal_record(command: str, status: str, reason: str) -> Record:
    """What stands in the record of a case that gave no result. A volume is null, never 0."""
    unmeasured = {"volume_ml": None, "volume_reason": reason} if command == "segment" else {}
    return {"status": status, "reason": reason, "probability": None, **unmeasured}


def plausibility_values(found: Plausibility) -> Record:
    """The verdict on a scan's HU, as values for JSON."""
    return {"verdict": found.verdict, "reasons": list(found.reasons), "figures": found.figures}


def classification_record(result: ClassificationResult) -> Record:
    """What the network said of a scan, as values for JSON. Slices are in the input's own order, from 0."""
    asked = result.operating_point is not None
    positive = result.slice_probabilities >= (result.operating_point or 0.0)
    return {
        "status": "ok",
        "reason": None,
        "probability": result.probability,
        "operating_point": result.operating_point,
        "n_slices": len(result.slice_probabilities),
        "n_slices_with_brain": int(result.slice_has_brain.sum()),
        "n_slices_positive": int((positive & result.slice_has_brain).sum()) if asked else None,
        "slice_axis": result.slice_axis,
        "slices": slice_rows(result),
        "plausibility": plausibility_values(result.plausibility),
        "warnings": list(result.warnings),
        "timings_s": result.timings_s,
    }


def segmentation_record(result: SegmentationResult) -> Record:
    """A classification's values, and how much blood lies where. `volume_ml` is null where it was not measured."""
    record = classification_record(result)
    mask = np.moveaxis(result.mask.reshape(result.grid.shape), result.slice_axis, 0).astype(bool)
    in_mask = mask.reshape(len(mask), -1).sum(axis=1)
    for row, gated, n_voxels in zip(record["slices"], result.slice_gated, in_mask, strict=True):
        row["mapped"] = bool(gated)
        row["n_voxels"] = int(n_voxels)
    return record | {
        "volume_ml": result.volume_ml,
        "volume_reason": result.volume_reason,
        "volume_is_lower_bound": result.volume_is_lower_bound,
        "n_voxels": int(in_mask.sum()),
        "n_slices_in_mask": int((in_mask > 0).sum()),
    }


def slice_rows(result: ClassificationResult) -> list[Record]:
    """One row per slice: index in the input, position in mm, probability of `any` and of the known subtypes.

    Without a network the probability is None, never 0.
    For DICOM the index counts from the lowest slice up, and a row has the slice's own spacing, thickness and UID too.
    """
    subtypes = [subtype for subtype in SUBTYPES if subtype in result.subtype_probabilities]
    return [
        {
            "slice_index": index,
            "position_mm": round(float(result.slice_positions_mm[index]), 3),
            **_slice_origin(result.ct.slices, index),
            "probability_any": None if np.isnan(probability) else round(float(probability), 6),
        }
        | {f"probability_{s}": round(float(result.subtype_probabilities[s][index]), 6) for s in subtypes}
        for index, probability in enumerate(result.slice_probabilities)
    ]


def _slice_origin(slices: SlicePlanes | None, index: int) -> Record:
    """What a row says of a DICOM slice beside its position; nothing for a slice of any other input."""
    if slices is None or not slices.uids[index]:
        return {}
    return {
        "spacing_mm": round(float(slices.spacing_mm[index]), 3),
        "thickness_mm": round(float(slices.thickness_mm[index]), 3),
        "sop_instance_uid": slices.uids[index],
        "frame": slices.frames[index],
    }


def summary_row(record: Record, columns: tuple[str, ...]) -> Record:
    """A record as one row of `summary.csv`; empty where the record has no such value."""
    derived: Record = {"series_uid": record.get("dicom", {}).get("series_uid")}
    if "plausibility" in record:
        derived["plausibility"] = record["plausibility"]["verdict"]
    if record["status"] == "ok":
        derived["n_warnings"] = len(record["warnings"])
        derived["seconds"] = round(sum(record["timings_s"].values()), 2)
    return {column: derived.get(column, record.get(column)) for column in columns}


def valid_text(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a file's name that are no text are written out as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()
