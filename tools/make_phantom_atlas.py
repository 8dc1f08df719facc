"""Make hgisam/phantom/data/atlas.npz: the ICBM 2009a symmetric brain, quantised, with the surfaces that phantoms need.

Run by hand with the `atlas` extra installed (`pip install -e .[atlas]`): `python tools/make_phantom_atlas.py`.
The template is symmetric, so only its right half (x >= 0 mm) is kept.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

OUTPUT = Path(__file__).resolve().parents[1] / "hgisam" / "phantom" / "data" / "atlas.npz"
ORIGIN_MM = np.array([-98.0, -134.0, -72.0])
"""RAS+ mm of voxel (0, 0, 0) of the 1 mm template."""
PAD_BELOW_MM = 58
"""The template ends at z = -72 mm; the canal and the neck go on to -130 mm."""
TISSUE_LEVELS = 15
"""Tissue fractions are kept as 0..15: 614 kB for both, and finer than the noise of any scan."""
SURFACE_STEP_MM = 0.25
SURFACE_SPACING_MM = 2


def template(kind: str) -> NDArray[np.float64]:
    """One map of the template in [0, 1], axes x, y, z to Right, Anterior, Superior, padded below."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise SystemExit("expected the package nilearn, which holds the template; run: pip install -e '.[atlas]'")
    path = Path(spec.origin).parent / "datasets" / "data" / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    values = np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj, dtype=np.float64) / 255.0
    return np.pad(values, ((0, 0), (0, 0), (PAD_BELOW_MM, 0)))


def coordinates_mm(shape: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Broadcastable x, y, z in mm of a padded array."""
    origin = ORIGIN_MM - np.array([0.0, 0.0, PAD_BELOW_MM])
    return [
        (np.arange(n) + o).reshape([-1 if axis == i else 1 for axis in range(3)])
        for i, (n, o) in enumerate(zip(shape, origin, strict=True))
    ]


def signed_distance_mm(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the border of a mask in mm, positive inside."""
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return distance


def close_by_mm(mask: NDArray[np.bool_], radius_mm: float) -> NDArray[np.bool_]:
    """Closing with a ball, by distance maps."""
    margin = int(radius_mm) + 2
    grown = ndimage.distance_transform_edt(~np.pad(mask, margin)) <= radius_mm
    closed: NDArray[np.bool_] = ndimage.distance_transform_edt(grown) > radius_mm
    return closed[margin:-margin, margin:-margin, margin:-margin]


def dural_surface(brain: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Signed distance to the dura in mm: the brain closed over its fissures and cisterns, with the spinal canal."""
    x, y, z = coordinates_mm(brain.shape)
    cistern = (np.abs(x) < 13) & (y > -20) & (y < 14) & (z > -30) & (z < -10)  # suprasellar
    magna = ((x / 24) ** 2 + ((y + 62) / 16) ** 2 + ((z + 62) / 9) ** 2) < 1  # cisterna magna
    canal_y = -46.0 - 0.12 * (z + 70)
    canal = ((x / 11) ** 2 + ((y - canal_y) / 9.5) ** 2 < 1) & (z < -60)
    closed = close_by_mm(brain | cistern, 9.0) | magna | canal
    vault = close_by_mm(brain, 28.0) & (z > -16 + 0.1 * y)  # bridges the fissures that the skull does not follow
    smooth = ndimage.gaussian_filter((closed | vault).astype(np.float64), 2.0) > 0.5
    return signed_distance_mm(smooth)


def hull_surface(brain: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Signed distance in mm to a smooth, nearly convex hull of the brain: what the outside of the skull follows."""
    coarse = close_by_mm(brain[::2, ::2, ::2], 40.0)  # 80 mm
    closed = ndimage.zoom(coarse.astype(np.float64), 2.0, order=1)[tuple(slice(n) for n in brain.shape)]
    closed = np.pad(closed, [(0, n - m) for n, m in zip(brain.shape, closed.shape, strict=True)])
    return signed_distance_mm(ndimage.gaussian_filter(closed, 5.0) > 0.5)


def ventricles(csf: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Lateral, third and fourth ventricles: deep CSF inside hand-set boxes that leave the cisterns out."""
    x, y, z = coordinates_mm(csf.shape)
    ax = np.abs(x)
    bodies = (ax > 2) & (ax < 24) & (y > -32) & (y < 40) & (z > 2) & (z < 36)
    bodies &= z > 14 - 0.35 * ax - 0.35 * (y - 10) - 12 * (y > 0)
    atria = (ax > 12) & (ax < 42) & (y > -66) & (y < -25) & (z > -10) & (z < 32)
    temporal = (ax > 24) & (ax < 42) & (y > -42) & (y < 0) & (z > -28) & (z < 0)
    third = (ax < 6) & (y > -30) & (y < 2) & (z > -16) & (z < 8) & (y > -30 + 0.9 * (4 - z) * (z < 4))
    fourth = (ax < np.where(z < -38, 7, 16)) & (y > -60) & (y < -36) & (z > -52) & (z < -18)
    threshold = np.where(temporal & ~atria, 0.35, 0.5)
    found = (csf > threshold) & (bodies | atria | temporal | third | fourth)
    labels, n = ndimage.label(found)
    sizes = ndimage.sum_labels(found, labels, np.arange(1, n + 1))
    kept: NDArray[np.bool_] = np.isin(labels, 1 + np.flatnonzero(sizes > 60))
    return kept


def tentorium_height_mm(csf: NDArray[np.float64]) -> NDArray[np.float64]:
    """z in mm of the tentorium over (x >= 0, y): the valley of tissue near a tent-shaped first guess, smoothed."""
    x, y, z = coordinates_mm(csf.shape)
    guess = np.maximum(4 - 0.33 * (-40 - y) - 0.6 * np.abs(x), -24.0)
    score = ndimage.gaussian_filter(csf, 1.0) - ((z - guess) / 8.0) ** 2
    best = z.ravel()[np.argmax(score, axis=2)]
    weight = ndimage.gaussian_filter(np.maximum(score.max(axis=2), 0.01), 4.0)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(best * np.maximum(score.max(axis=2), 0.01), 4.0) / weight
    return smooth


def main() -> None:
    """Write the atlas and say how large it is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output: Path = parser.parse_args().output

    gm, wm = template("gm"), template("wm")
    brain = gm + wm > 0.35
    labels, _ = ndimage.label(brain)
    brain = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    dura = dural_surface(brain)
    hull = hull_surface(brain)
    csf = np.clip(1.0 - gm - wm, 0.0, 1.0) * (dura > 0)
    ventricle = ventricles(csf)
    tent = tentorium_height_mm(csf)

    middle = int(-ORIGIN_MM[0])
    half = slice(middle, None)
    box = np.nonzero((gm + wm > 0.5 / TISSUE_LEVELS)[half])
    low, high = [int(b.min()) for b in box], [int(b.max()) + 1 for b in box]
    crop = tuple(slice(a, b) for a, b in zip((0, *low[1:]), high, strict=True))
    corner_mm = ORIGIN_MM - np.array([0, 0, PAD_BELOW_MM]) + np.array([middle, low[1], low[2]])
    coarse = (slice(None, None, SURFACE_SPACING_MM),) * 3
    surfaces = [
        np.round(np.clip(field[half][coarse] / SURFACE_STEP_MM, -127, 127)).astype(np.int8) for field in (dura, hull)
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        output,
        gm=np.round(gm[half][crop] * TISSUE_LEVELS).astype(np.uint8),
        wm=np.round(wm[half][crop] * TISSUE_LEVELS).astype(np.uint8),
        ventricles=np.packbits(ventricle[half][crop]),
        corner_mm=corner_mm,
        dura_quarter_mm=np.diff(surfaces[0], axis=1, prepend=np.int8(0)),
        hull_quarter_mm=np.diff(surfaces[1], axis=1, prepend=np.int8(0)),
        surface_corner_mm=ORIGIN_MM - np.array([-middle, 0, PAD_BELOW_MM]),
        tentorium_z_mm=np.round(tent[half][::2, ::2]).astype(np.int8),
    )
    print(
        f"{output}: {output.stat().st_size / 1000:.0f} kB; ventricles {ventricle.sum() / 1000:.1f} mL, "
        f"inside the dura {(dura > 0).sum() / 1000:.0f} mL"
    )


if __name__ == "__main__":
    main()
