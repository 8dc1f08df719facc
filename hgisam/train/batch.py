"""What a step learns from, whatever it is: it moves to a device and falls into parts."""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Tensors with one entry per image; a field may also be None."""

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def __len__(self) -> int:
        """How many images."""
        return len(next(iter(self._tensors().values())))

    def split(self, parts: int) -> list[Self]:
        """So many smaller batches, but no empty ones, that together are this one."""
        n = min(parts, len(self))
        cuts = {name: torch.tensor_split(tensor, n) for name, tensor in self._tensors().items()}
        return [replace(self, **{name: cut[part] for name, cut in cuts.items()}) for part in range(n)]

    def _tensors(self) -> dict[str, Tensor]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}
