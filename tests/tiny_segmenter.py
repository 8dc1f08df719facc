"""A segmenter's training so small that a test can run it to its end, and still long enough to learn bright squares."""

from pathlib import Path
from typing import Any

import yaml

TINY: dict[str, Any] = {
    "preprocess": {"spacing_mm": 4.0, "fov_px": 48, "mask_margin_mm": 0.0},
    "network": {"kind": "unet", "channels": [8, 16, 16], "residual_units": 1, "norm": "batch"},
    "split": {"folds": 2, "tuning_share": 0.34, "seed": 1},
    "sampling": {"bleeding": 3, "anywhere": 3},
    "loop": {
        "steps": 60, "learning_rate": 1.0e-2, "average_decay": 0.9, "evaluate_every": 20, "checkpoint_every": 30,
        "bfloat16": False,
    },
}  # fmt: skip


def write_tiny_segmenter(path: Path, changed: dict[str, Any] | None = None, **loop: object) -> Path:
    """The recipe as YAML, with other settings where they are given."""
    recipe = TINY | {"loop": TINY["loop"] | loop} | (changed or {})
    path.write_text(yaml.safe_dump({"source": "a test", "train_segmenter": recipe}), encoding="utf-8")
    return path
