"""Whole 3D components of dense tissue, chosen by the saliency that they gather."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from hgisam.refine.density import excess_hu
from hgisam.refine.pieces import box_about, chosen_components, ranks, split_at_necks
from hgisam.refine.refiner import SKULL_MM, MappedScan, Refiner

_BRIGHT = 75
"""Percentile of a component's excess that stands for its own contrast: most of it is dimmed by its edge."""

_BONE = 90
"""Percentile of what is denser than any clot that stands for the skull's bone: most of it is blurred."""


class Components(Refiner):
    """Tissue denser than what is normal there falls into components; those that the map points at are kept.

    A map that points at no dense tissue gives an empty mask. Source of contrast_hu and rim_mm: best mean volume
    Dice of ten tuning phantoms, tools/tune_refinement.py. Of the other options: best mean Dice of the phantoms of
    `tools/refinement_ablation.py --for choosing --phantoms 60`, which tells what each is worth; its painted bleeds have
    one piece each, and would let all others be left out. Of min_mean and faint_split_mm: slice labels,
    `tools/evaluate_on_labels.py`. Of skull_hu and skull_mm: the phantoms `--for choosing`; painted bleeds end where the
    skull's blur begins, and cannot tell.
    """

    method: Literal["components"] = "components"
    """Tells this method from others."""
    contrast_hu: float = Field(default=12.0, gt=0)
    """HU over what is normal from which tissue counts as dense."""
    ceiling_hu: float = 100.0
    """HU above which a voxel is bone or calcification and says nothing about its surroundings: no clot is denser."""
    smoothing_mm: float = Field(default=0.8, ge=0)
    """In-plane standard deviation of the Gaussian that quiets noise before HU are compared; 0 for none."""
    rim_mm: float = Field(default=8.0, ge=0)
    """Reach of the skull's partial volume and scatter: up to this depth below the region's outline, normal is the
    median of the slice at the same depth where that is above the scan's brain median. 0 for the brain median alone."""
    split_mm: float = Field(default=0.0, ge=0)
    """Dense tissue is cut where it is thinner than twice this between two thicker parts, such as a bleed and the falx
    it touches; each part gathers saliency of its own. 0 for no cut."""
    faint_split_mm: float = Field(default=1.5, ge=0)
    """The same, but only for components that `min_mean` leaves out: parts that rank high enough beside those that are
    kept are added to them, so that a bleed is not lost with what it touches. 0 for no cut."""
    min_share: float = Field(default=0.3, ge=0, le=1)
    """A component is kept where the geometric mean of its saliency's sum and mean is at least this share of the best
    component's."""
    min_mean: float = Field(default=0.1, ge=0, le=1)
    """A component over which the mean saliency is below this share of the scan's highest is left out: where brain
    itself is as dense as blood, as under a thick vertex, one spot of the map would bring in all of it."""
    edge_mm: float = Field(default=2.0, ge=0)
    """A kept component's edge is moved by up to this much in its slices, and by one slice up and down, to where the
    excess is `edge_share` of the component's own. 0 leaves the edge at `contrast_hu`."""
    edge_share: float = Field(default=0.4, ge=0, le=1)
    """Half is where a blurred edge lies; smoothing has moved it outwards."""
    edge_hu: float = Field(default=8.0, gt=0)
    """The edge lies at no less than this: below is brain."""
    skull_mm: float = Field(default=3.0, ge=0, le=SKULL_MM)
    """Where blood and skull are blurred into one voxel it looks like bone, and lies outside the region. What is denser
    than `ceiling_hu` and no nearer to bone is marked where the nearest softer voxel of its slice is, if that is not
    farther away than this. No deeper than this below the region's outline: there it would be a calcification. 0 for
    nothing."""
    skull_hu: float = 400.0
    """The inner table lies where HU are half way from the blood's to the bone's, the skull being thin, or cut off by
    the file, and at no more than this."""

    def __call__(self, scan: MappedScan) -> Bool[Tensor, "depth height width"]:
        """See the class."""
        return self.up_to_the_skull(scan, torch.from_numpy(self.outlined(scan, self.excess_hu(scan)) > 0))

    def excess_hu(self, scan: MappedScan) -> Float[Tensor, "depth height width"]:
        """HU over what is normal there; -inf where that is not known, or outside the region."""
        return excess_hu(scan, self.smoothing_mm, self.rim_mm, self.ceiling_hu)

    def outlined(self, scan: MappedScan, excess: Float[Tensor, "depth height width"]) -> NDArray[np.int64]:
        """The number of the kept component that each voxel is of, from 1; 0 elsewhere."""
        saliency = scan.saliency.numpy()
        pieces = split_at_necks(excess >= self.contrast_hu, scan.spacing_mm, self.split_mm)
        rank = ranks(pieces, saliency, self.min_mean)
        kept = chosen_components(pieces, rank, self.min_share)
        if self.faint_split_mm > 0:
            n = int(pieces.max())
            faint = (pieces > 0) & (rank[pieces] == 0)
            neck_mm = max(self.split_mm, self.faint_split_mm)
            parts = split_at_necks(torch.from_numpy(faint), scan.spacing_mm, neck_mm)
            part_rank = ranks(parts, saliency, self.min_mean)
            added = chosen_components(parts, part_rank, self.min_share, float(rank.max()) or None)
            pieces, kept = np.where(faint, parts + n, pieces), np.where(added > 0, added + n, kept)
        if self.edge_mm == 0 or not kept.any():
            return kept
        return self._at_own_edge(kept, (pieces > 0) & (kept == 0), excess.numpy(), scan.spacing_mm)

    def up_to_the_skull(
        self, scan: MappedScan, mask: Bool[Tensor, "depth height width"]
    ) -> Bool[Tensor, "depth height width"]:
        """The mask with what lies between it and the inner table, as `skull_mm` says; an empty mask stays empty."""
        hu, region = scan.hu.numpy(), scan.region.numpy()
        dense = hu > self.ceiling_hu
        if self.skull_mm == 0 or not mask.any() or not dense.any():
            return mask
        grown = mask.numpy().copy()
        half_way_hu = 0.5 * float(np.median(hu[grown]) + np.percentile(hu[dense], _BONE))
        blurred = dense & (hu <= min(self.skull_hu, half_way_hu))
        for index in np.flatnonzero(grown.any(axis=(1, 2))):
            box = box_about(grown[index], scan.spacing_mm, 2 * self.skull_mm)
            marked, inside = grown[index][box], region[index][box]
            if inside.all():
                continue
            soft = marked | ~dense[index][box]
            away_mm, where = distance_transform_edt(~soft, sampling=scan.spacing_mm, return_indices=True)
            depth_mm = distance_transform_edt(inside, sampling=scan.spacing_mm)
            near = (away_mm <= self.skull_mm) & (depth_mm <= self.skull_mm)
            grown[index][box] |= blurred[index][box] & near & marked[tuple(where)]
        return torch.from_numpy(grown)

    def _at_own_edge(
        self,
        kept: NDArray[np.int64],
        others: NDArray[np.bool_],
        excess: NDArray[np.float32],
        spacing_mm: tuple[float, float],
    ) -> NDArray[np.int64]:
        """Kept components with their edges where their own excess says; other components are not entered."""
        level_hu = np.full(int(kept.max()) + 1, np.inf)
        for number in np.unique(kept[kept > 0]).tolist():
            own_hu = float(np.percentile(excess[kept == number], _BRIGHT))
            level_hu[number] = max(self.edge_hu, self.edge_share * own_hu)
        beside = np.zeros_like(kept)
        beside[1:] = kept[:-1]
        beside[:-1] = np.where(beside[:-1] > 0, beside[:-1], kept[1:])
        near = np.where(kept > 0, kept, beside)
        moved = np.zeros_like(kept)
        for index in np.flatnonzero(near.any(axis=(1, 2))):
            box = box_about(near[index] > 0, spacing_mm, self.edge_mm)
            away_mm, where = distance_transform_edt(near[index][box] == 0, sampling=spacing_mm, return_indices=True)
            number = near[index][box][tuple(where)]
            inside = (away_mm <= self.edge_mm) & (excess[index][box] >= level_hu[number]) & ~others[index][box]
            moved[index][box] = np.where(inside, number, 0)
        return moved
