"""What is installed here: versions, the weights and where they come from, devices and threads."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from hgisam import NOTICE, __version__
from hgisam.model.checkpoint import default_weights_path, load_network


def describe(weights: Path | None = None) -> dict[str, Any]:
    """Everything that a report of a problem, or of a result, should state; no path or name of this machine.

    Args:
        weights: a weights file; None takes those that come with the package.

    Raises:
        WeightsError: where the weights are missing or damaged.
    """
    path = weights or default_weights_path()
    loaded = load_network(path)
    return {
        "hgisam": __version__,
        "notice": NOTICE,
        "weights": {
            "file": path.name,
            "from": "the package" if weights is None else "the command line",
            "sha256": loaded.sha256,
            "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
            **loaded.metadata.model_dump(mode="json"),
        },
        "devices": devices(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def devices() -> dict[str, str]:
    """What may be given as `--device` here, each with the name of the hardware."""
    found = {"cpu": platform.machine()}
    for index in range(torch.cuda.device_count()):
        found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found
