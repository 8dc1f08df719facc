"""Make timm_swin.npz: what timm's Swin and plain autograd say of a narrow network.

    pip install timm==1.0.31 torchvision     # in an environment of its own; hgisam is not needed
    python make_timm_golden.py timm_swin.npz

Attention maps are laid back token by token, by the coordinates each token had before the roll: slow, and nothing that
hgisam does. The network has a stage whose window covers the whole grid, and one whose window shrinks.
"""

import sys

import numpy as np
import torch
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from torch import Tensor

IMG, WINDOW, DEPTHS, HEADS = 64, 4, (2, 2, 4, 2), (1, 2, 2, 4)


def remember(network: SwinTransformer) -> list[tuple[Tensor, Tensor]]:
    """Make every attention keep its scores and weights, with their gradients."""
    kept: list[tuple[Tensor, Tensor]] = []

    class KeepingSoftmax(torch.nn.Module):
        def forward(self, scores: Tensor) -> Tensor:
            weights = scores.softmax(dim=-1)
            scores.retain_grad()
            weights.retain_grad()
            kept.append((scores, weights))
            return weights

    for module in network.modules():
        if isinstance(module, WindowAttention):
            module.fused_attn = False
            module.softmax = KeepingSoftmax()
    return kept


def block_map(block: torch.nn.Module, side: int, weights: Tensor, gradient: Tensor, images: int) -> np.ndarray:
    """a of each token where it was before the roll: mean over heads of ||gradient||_F times the mean over queries."""
    (window, _), (shift, _) = block.window_size, block.shift_size
    per_side = side // window
    norms = gradient.double().square().sum(dim=(-2, -1)).sqrt()
    tokens = (norms[..., None] * weights.double().mean(dim=-2)).mean(dim=1)
    laid = np.zeros((images, side, side))
    for index, per_token in enumerate(tokens.view(images, per_side**2, window**2).numpy()):
        for m in range(per_side**2):
            for t in range(window**2):
                row = (m // per_side) * window + t // window
                col = (m % per_side) * window + t % window
                laid[index, (row + shift) % side, (col + shift) % side] = per_token[m, t]
    return laid


def main() -> None:
    """Write the file named on the command line."""
    torch.manual_seed(20)
    rng = np.random.default_rng(20)
    network = SwinTransformer(
        img_size=IMG, embed_dim=8, depths=DEPTHS, num_heads=HEADS, window_size=WINDOW, num_classes=2
    ).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            spread = 0.5 if parameter.dim() > 1 else 0.1
            around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_((around + spread * torch.randn(parameter.shape)).half().float())
    coarse = torch.from_numpy(rng.random((2, 3, 8, 8), dtype=np.float32))
    images = (torch.nn.functional.interpolate(coarse, size=(IMG, IMG), mode="bilinear") * 255).to(torch.uint8)

    kept = remember(network)
    logits = network(images.float() / 255)
    logits[:, 1].sum().backward()
    out = {"images": images.numpy(), "logits": logits.detach().numpy()}
    blocks = [(stage, block) for stage, layer in enumerate(network.layers, start=1) for block in layer.blocks]
    maps: dict[str, list[np.ndarray]] = {}
    for (stage, block), (scores, weights) in zip(blocks, kept, strict=True):
        side = IMG // 4 // 2 ** (stage - 1)
        for kind, gradient in (("scores", scores.grad), ("weights", weights.grad)):
            laid = block_map(block, side, weights.detach(), gradient, len(images))
            maps.setdefault(f"{kind}/stage{stage}", []).append(laid)
    for name, laid in maps.items():
        out[name] = np.mean([laid[i] * laid[i + 1] for i in range(0, len(laid), 2)], axis=0).astype(np.float32)
    for name, tensor in network.state_dict().items():
        out[f"weight/{name}"] = tensor.half().numpy()
    np.savez_compressed(sys.argv[1], **out)


if __name__ == "__main__":
    main()
