"""A Swin Transformer that learns without labels: parts of the picture are hidden from it, and it says what was there.

Source: Xie et al., SimMIM, CVPR 2022 (arXiv 2111.09886): a learned token in place of what is hidden, one linear layer
from the last stage's tokens to pixels.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hgisam.model.classifier import ClassifierOptions
from hgisam.model.swin import SwinTransformer


class MaskedSwin(nn.Module):
    """The encoder of a `HemorrhageClassifier`, under its names, with what only this task needs.

    Args:
        options: of the classifier that is to begin with the encoder; of its head nothing counts.
    """

    def __init__(self, options: ClassifierOptions) -> None:
        super().__init__()
        self.options = options
        self.swin = SwinTransformer(options.swin)
        self.hidden_token = nn.Parameter(torch.empty(options.swin.embed_dim))
        self.pixels = nn.Linear(self.swin.channels, options.swin.in_channels * self.stride_px**2)
        for weight in (self.hidden_token, self.pixels.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.zeros_(self.pixels.bias)

    @property
    def stride_px(self) -> int:
        """Side of the square of pixels that one token of the last stage stands for."""
        return self.options.swin.img_size // self.options.swin.grid_side(self.swin.n_stages)

    def forward(
        self, images: Float[Tensor, "batch channels height width"], hidden: Bool[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """What the whole picture is said to be, hidden or not.

        Args:
            images: values in [0, 1], in which what is hidden is painted over already.
            hidden: whole patches of stage 1.
        """
        patch_px = self.options.swin.patch_size
        of_tokens = hidden[:, ::patch_px, ::patch_px].flatten(1)
        tokens = self.swin.embed(images)
        tokens = torch.where(of_tokens[:, :, None], self.hidden_token.to(tokens.dtype), tokens)
        for stage in range(1, self.swin.n_stages + 1):
            tokens = self.swin.run_stage(stage, tokens)
        pixels: Tensor = self.pixels(self.swin.norm(tokens)).float()
        side, stride = self.options.swin.grid_side(self.swin.n_stages), self.stride_px
        return rearrange(pixels, "b (r c) (n i j) -> b n (r i) (c j)", r=side, i=stride, j=stride)
