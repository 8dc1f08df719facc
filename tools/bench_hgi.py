"""How much faster HGI-SAM runs than a plain forward and full backward pass with stored attention, on one network.

    OMP_NUM_THREADS=2 python tools/bench_hgi.py                  # the paper's network, random weights
    OMP_NUM_THREADS=2 python tools/bench_hgi.py --network small  # the size of the shipped one

The plain way keeps scores and weights of every block with `retain_grad`, asks gradients of all parameters, and reduces
afterwards, as the authors' code does. Both ways make the same maps, which is checked first. The rounds of the two ways
alternate, so that a busy machine slows both; the fastest round of each counts.
"""

import argparse
import platform
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from hgisam.attention import lay_on_grid, pair_product, token_map
from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.swin import BlockGrid, SwinOptions, swin_base_patch4_window12_384
from hgisam.weak import HGI_SAM

T = TypeVar("T")

NETWORKS = {
    "paper": ClassifierOptions(swin=swin_base_patch4_window12_384(), outputs=2),
    "small": ClassifierOptions(swin=SwinOptions(in_channels=2, stem="deep")),
}


class StoredAttention:
    """Attention with scores and weights kept in memory, and their gradients after a backward pass."""

    def __init__(self) -> None:
        self.blocks: list[tuple[BlockGrid, Tensor, Tensor]] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, grid: BlockGrid) -> Tensor:
        """Attend and keep."""
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + bias
        weights = scores.softmax(dim=-1)
        scores.retain_grad()
        weights.retain_grad()
        self.blocks.append((grid, scores, weights))
        attended: Tensor = weights.to(value.dtype) @ value
        return attended


def plain_stage_maps(model: HemorrhageClassifier, images: Tensor) -> list[Tensor]:
    """HGI-SAM's raw stage maps by the plain way."""
    attention = StoredAttention()
    logits = model(images, attend=attention)
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(model.hemorrhage_logit(logits).sum())
    maps: dict[int, list[Tensor]] = {}
    for grid, scores, weights in attention.blocks:
        if grid.stage in HGI_SAM.stages and scores.grad is not None:
            norms = torch.linalg.vector_norm(scores.grad.float(), dim=(-2, -1))
            tokens = token_map(weights.detach().float().mean(dim=-2), norms)
            maps.setdefault(grid.stage, []).append(lay_on_grid(tokens, grid))
    return [pair_product(maps[stage]) for stage in HGI_SAM.stages]


def fastest(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of the fastest of several alternating rounds of each way, after one round to warm up."""
    best = dict.fromkeys(ways, float("inf"))
    for round_index in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if round_index:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="paper")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    options = NETWORKS[arguments.network]
    model = HemorrhageClassifier(options).to(arguments.device)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"network {arguments.network}: {parameters:.1f} M random parameters, {options.swin.img_size} px")
    print("ms per slice, fastest round      forward  plain forward+backward  HGI-SAM  times faster")
    for batch in arguments.batch:
        shape = (batch, options.swin.in_channels, options.swin.img_size, options.swin.img_size)
        images = torch.rand(shape, device=arguments.device)
        for precision in (torch.float32, torch.bfloat16):
            report(model.eval(), images, precision, arguments.rounds)


def report(model: HemorrhageClassifier, images: Tensor, precision: torch.dtype, rounds: int) -> None:
    """Check that both ways agree, time them, and print a line. Each call casts weights for itself."""

    def measured(way: Callable[[], T]) -> Callable[[], T]:
        def call() -> T:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
                result = way()
            if images.is_cuda:
                torch.cuda.synchronize()
            return result

        return call

    forward = measured(torch.inference_mode()(lambda: model(images)))
    plain = measured(lambda: plain_stage_maps(model, images))
    streaming = measured(lambda: HGI_SAM.stage_maps(model, images)[1])
    tolerance = 1e-3 if precision == torch.float32 else 0.2
    for expected, got in zip(plain(), streaming(), strict=True):
        assert (expected - got).abs().max() <= tolerance * expected.abs().max(), "the two ways disagree"

    seconds = fastest({"forward": forward, "plain": plain, "streaming": streaming}, rounds)
    model.zero_grad(set_to_none=True)
    ms = {name: 1000 * value / len(images) for name, value in seconds.items()}
    print(
        f"batch {len(images):3d} {str(precision).removeprefix('torch.'):>10} {ms['forward']:19.1f} {ms['plain']:23.1f}"
        f" {ms['streaming']:8.1f} {ms['plain'] / ms['streaming']:13.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
