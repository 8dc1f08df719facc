"""An augmentation that changes nothing."""

from hgisam.train.augment import AugmentOptions

STILL = AugmentOptions(
    flip_probability=0.0,
    rotation_deg=0.0,
    scale=0.0,
    shift_mm=(0.0, 0.0),
    gain=0.0,
    offset_hu=0.0,
    noise_hu=0.0,
    blur_px=0.0,
)
