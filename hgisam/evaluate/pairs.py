"""Which prediction belongs to which reference, by the case names that `hgisam segment` makes. Nothing is dropped in
silence.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from hgisam.cases import own_record, safe_name
from hgisam.io.errors import ScanRefused

_PREDICTION_KINDS = ("_mask",)
_REFERENCE_KINDS = ("_mask", "_labels")
_OTHER_OUTPUTS = re.compile(r".+_map\.nii(\.gz)?")
_CT_CHANNEL = "_0000"
"""What nnU-Net adds to the name of a CT scan, and not to that of its labels."""


@dataclass(frozen=True)
class Pair:
    """One case's two masks.

    Attributes:
        case: the prediction's own.
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

    Names are compared as `hgisam segment` would have made them (`safe_name`), whatever a system does to letters with
    accents: its `Patient_01_mask` belongs to the reference `Patient 01_mask`. What still lacks a partner is tried
    without the `_0000` of nnU-Net's scans: `case_0000_mask` belongs to the labels `case`.

    Raises:
        ScanRefused: where one is a file and the other a folder, one does not exist, a folder has no masks, two files of
            a folder come to one case (a .nii and a .nii.gz, or two names that `segment` makes one), or no case has both
            masks.
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
    partners = {name: name for name in predicted.keys() & referenced.keys()}
    for name in predicted.keys() - referenced.keys():
        if (bare := name.removesuffix(_CT_CHANNEL)) in referenced.keys() - predicted.keys():
            partners[name] = bare
    if not partners:
        raise ScanRefused(
            f"{predictions} and {references}: expected masks of the same cases; got {_first(predicted)!r} ... in the"
            f" one and {_first(referenced)!r} ... in the other; name them alike"
        )
    return Pairing(
        pairs=tuple(
            Pair(predicted[name].case, predicted[name].path, referenced[partner].path)
            for name, partner in sorted(partners.items())
        ),
        without_reference=tuple(sorted(predicted[name].case for name in predicted.keys() - partners.keys())),
        without_prediction=tuple(sorted(referenced[name].case for name in referenced.keys() - {*partners.values()})),
    )


def holds_named_masks(folder: Path) -> bool:
    """Whether masks that are named as references are, `CASE_mask` or `CASE_labels`, lie directly in a folder.

    Those beside a record of ours of their case are predictions, and no reference.
    """
    for path in folder.iterdir():
        case, kind = _case_and_kind(path.name, _REFERENCE_KINDS) or ("", "")
        if kind and path.is_file() and not own_record(folder / f"{case}.json"):
            return True
    return False


@dataclass(frozen=True)
class _Mask:
    """One file, and the name of its case as the file has it."""

    case: str
    path: Path


def _first(masks: dict[str, _Mask]) -> str:
    return min(mask.case for mask in masks.values())


def _masks_in(folder: Path, kinds: tuple[str, ...]) -> dict[str, _Mask]:
    """Each case's mask by its safe name: of the first kind that it has, or bare names where nothing is of any kind."""
    found: dict[str, list[_Mask]] = {kind: [] for kind in (*kinds, "")}
    for path in sorted(folder.iterdir()):
        named = _case_and_kind(path.name, kinds)
        if named is not None and path.is_file():
            case, kind = named
            found[kind].append(_Mask(case, path))
    masks: dict[str, _Mask] = {}
    for kind in kinds if any(found[kind] for kind in kinds) else ("",):
        for mask in found[kind]:
            name = safe_name(mask.case)
            first = masks.setdefault(name, mask)
            if first is not mask and (first.case != mask.case or first in found[kind]):
                raise ScanRefused(
                    f"{folder}: expected one mask of the case {name!r}; got {first.path.name} and {mask.path.name};"
                    " leave one, or rename it"
                )
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
