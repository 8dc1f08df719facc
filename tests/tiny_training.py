"""A training so small that a test can run it to its end: drawn heads, a network of a few thousand parameters."""

from pathlib import Path

import yaml

from hgisam.config import load_settings

TINY = {
    "source": "a test",
    "train": {
        "preprocess": {"spacing_mm": 2.0, "fov_px": 96},
        "classifier": {
            "swin": {
                "img_size": 96,
                "window": 6,
                "embed_dim": 8,
                "depths": [2, 2, 2],
                "heads": [1, 2, 4],
                "in_channels": 2,
                "drop_path": 0.2,
            },
            "pooling": "log_sum_exp",
        },
        "split": {"folds": 2, "tuning_share": 0.34, "seed": 1},
        "sampling": {
            "positive": 2,
            "painted": 2,
            "painted_twins": 2,
            "hard_negative": 1,
            "negative": 1,
            "start_difficulty": 0.5,
        },
        "judged_maps": 6,
        "loop": {"steps": 8, "learning_rate": 2.0e-3, "evaluate_every": 4, "checkpoint_every": 3, "bfloat16": False},
    },
}


def write_tiny_recipe(path: Path, **loop: object) -> Path:
    """The recipe as YAML, with other settings of the loop where they are given."""
    train = TINY["train"] | {"loop": TINY["train"]["loop"] | loop}  # type: ignore[index]
    path.write_text(yaml.safe_dump(TINY | {"train": train}), encoding="utf-8")
    return path


def write_shrunk_recipe(path: Path, recipe: Path, train: dict[str, object]) -> Path:
    """A recipe of configs/ with some of its settings of `train` made smaller, as YAML."""
    settings = load_settings(recipe, {"train": train})
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json", include={"source", "train"})), encoding="utf-8")
    return path
