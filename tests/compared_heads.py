"""A comparison so small that a test can run it to its end: coarse drawn heads with masks, methods of a moment."""

from pathlib import Path

import nibabel as nib
import torch
import yaml
from analytic_head import draw_head

from hgisam.io.nifti import new_grid_for, write_ct, write_mask

BLEED_HU = 75.0
HALF_WIDTHS_MM = (0.0, 16.0, 0.0, 22.0, 28.0, 34.0)
"""Half the width of each head's bleed; 0: it did not bleed."""
UPSIDE_DOWN = 4
"""This head's reference is stored from its highest slice down, as another tool might; the scan is not."""

METHODS = [
    {"name": "HU, refined", "learned_from": "nothing", "segment": {"refine": {"method": "components"}}},
    {"name": "HU 15", "learned_from": "nothing", "segment": {"weak": {"contrast_hu": 15}}},
    {"name": "HU 35", "learned_from": "nothing", "segment": {"weak": {"contrast_hu": 35}}},
]


def write_heads(folder: Path, n: int = len(HALF_WIDTHS_MM)) -> Path:
    """Scans `p0.nii.gz` and so on, and `truth/p0_mask.nii.gz` and so on."""
    (folder / "truth").mkdir(parents=True)
    for number, half_mm in enumerate(HALF_WIDTHS_MM[:n]):
        head = draw_head((10.0, 2.5, 2.5), offset_mm=2.0 * (number % 3))
        bleed = head.inside & ((head.across_mm - 25).abs() < half_mm) & (head.along_mm.abs() < half_mm)
        bleed[:6], bleed[9:] = False, False
        ct = head.ct if half_mm == 0 else type(head.ct)(head.with_hu(bleed, BLEED_HU).hu, head.ct.affine, f"p{number}")
        write_ct(folder / f"p{number}.nii.gz", ct, new_grid_for(ct))
        truth = folder / "truth" / f"p{number}_mask.nii.gz"
        write_mask(truth, bleed & torch.tensor(half_mm > 0), new_grid_for(ct))
        if number == UPSIDE_DOWN:
            turned = nib.load(truth).as_reoriented([[0, 1], [1, 1], [2, -1]])
            nib.save(nib.Nifti1Image.from_bytes(turned.to_bytes()), truth)
    return folder


class _Plain(yaml.SafeDumper):
    """What stands twice in Python is written out twice: settings take no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def write_yaml(path: Path, content: object) -> None:
    """Settings as YAML."""
    path.write_text(yaml.dump(content, Dumper=_Plain), encoding="utf-8")


def write_comparison_yaml(path: Path, *more: dict[str, object], **changes: object) -> Path:
    """The comparison as YAML, beside the recipe that its methods share; with more methods and other settings."""
    recipe = {"gate": False, "weak": {"method": "hu_threshold"}, "refine": {"method": "threshold"}}
    write_yaml(path.parent / "hu.yaml", {"source": "a test", "segment": recipe})
    options = {
        "title": "Three thresholds on drawn heads",
        "data": {"kind": "scans"},
        "reference": "HU, refined",
        "methods": [*({"config": "hu.yaml"} | method for method in METHODS), *more],
    }
    write_yaml(path, {"source": "a test", "compare": options | changes})
    return path
