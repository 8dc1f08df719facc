"""Which prediction belongs to which reference, by case name. Nothing is dropped in silence."""

import re
from dataclasses import dataclass
from pathlib import Path

from hgisam.io.errors import ScanRefused

_PREDICTION_KINDS = ("_mask",)
_REFERENCE_KINDS = ("_mask", "_labels")
_OTHER_OUTPUTS = re.compile(r".+_map\.nii(\.gz)?")


@dataclass(frozen=True)
class Pair:
    """One case's two masks.

    Attributes:
        case: the name that both share.
        prediction: the file to judge.
        reference: the file to judge it by.
    """

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class Pairing:
    """Every mask found, paired or not.

    Attributes:
        pairs: by case name.
        without_reference: cases that have a prediction only.
        without_prediction: cases that have a reference only.
    """

    pairs: tuple[Pair, ...]
    without_reference: tuple[str, ...]
    without_prediction: tuple[str, ...]


def pair_masks(predictions: Path, references: Path) -> Pairing:
    """Pair the masks of two folders, or two single files whatever their names.

    In a folder, predictions are `CASE_mask.nii.gz` and references `CASE_mask.nii.gz`, else `CASE_labels.nii.gz`. A
    folder with none of these is one of bare `CASE.nii.gz`; in others a bare name is the scan, and is left out. So are
    hidden files and `CASE_map.nii.gz`. `.nii` is as good as `.nii.gz`.

    Raises:
        ScanRefused: where one is a file and the other a folder, one does not exist, a folder has no masks, a case has
            both a .nii and a .nii.gz, or no case has both masks.
    """
    for place in (predictions, references):
        if not place.exists():
            raise ScanRefused(f"{place}: expected a mask or a folder of masks; got nothing there; check the path")
    if predictions.is_file() and references.is_file():
        case, _ = _case_and_kind(predictions.name, _PREDICTION_KINDS) or (predictions.name, "")
        return Pairing((Pair(case, predictions, references),), (), ())
    if predictions.is_file() or references.is_file():
        raise ScanRefused(f"{predictions} and {references}: expected two folders or two files; got one of each")
    predicted = _masks_in(predictions, _PREDICTION_KINDS)
    referenced = _masks_in(references, _REFERENCE_KINDS)
    both = sorted(predicted.keys() & referenced.keys())
    if not both:
        raise ScanRefused(
            f"{predictions} and {references}: expected masks of the same cases; got {min(predicted)!r} ... in the one"
            f" and {min(referenced)!r} ... in the other; name them alike"
        )
    return Pairing(
        pairs=tuple(Pair(case, predicted[case], referenced[case]) for case in both),
        without_reference=tuple(sorted(predicted.keys() - referenced.keys())),
        without_prediction=tuple(sorted(referenced.keys() - predicted.keys())),
    )


def _masks_in(folder: Path, kinds: tuple[str, ...]) -> dict[str, Path]:
    """Each case's mask: of the first kind that it has, or bare names in a folder where nothing is of any kind."""
    found: dict[str, dict[str, Path]] = {kind: {} for kind in (*kinds, "")}
    for path in sorted(folder.iterdir()):
        named = _case_and_kind(path.name, kinds)
        if named is None or not path.is_file():
            continue
        case, kind = named
        if case in found[kind]:
            raise ScanRefused(f"{folder}: expected one file; got {found[kind][case].name} and {path.name}; leave one")
        found[kind][case] = path
    masks = {case: path for kind in reversed(kinds) for case, path in found[kind].items()} or found[""]
    if not masks:
        raise ScanRefused(f"{folder}: expected masks (.nii.gz or .nii); got none; check the folder")
    return masks


def _case_and_kind(name: str, kinds: tuple[str, ...]) -> tuple[str, str] | None:
    """A file's case and which kind of mask it says to be, "" for a bare name; None for what is no mask."""
    stem = name.removesuffix(".gz").removesuffix(".nii")
    if stem in {name, name.removesuffix(".gz")} or name.startswith(".") or _OTHER_OUTPUTS.fullmatch(name):
        return None
    kind = next((kind for kind in kinds if stem.endswith(kind) and stem != kind), "")
    return stem.removesuffix(kind), kind
