"""What a training step of a recipe costs, against what the machine's matrix products could do in that time.

    python tools/bench_train.py                                                  # configs/ct_ich.yaml
    python tools/bench_train.py --config configs/hgi_sam_paper.yaml --images 1
    python tools/bench_train.py --data FOLDER --cache FOLDER                     # and the share of waiting for data

Steps are whole ones (forward, backward, clipping, AdamW, running average) of random images in the recipe's size. The
bound is the rate of large square matrix products, measured in turn with the steps, so that a busy machine slows both;
the median round counts. Shares are given by the clock and, on a CPU, by the process's own CPU time, which other
processes do not stretch. FLOPs are torch's count of one step (FlopCounterMode): matrix products and convolutions,
forward and backward. It misses softmax, norms, GELU, biases, permutations, casts, the loss and the optimizer, so even
a perfect step stays below the bound. On a CPU freed memory is kept for later, as trainings keep it.
"""

import argparse
import logging
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from hgisam.allocator import memory_kept
from hgisam.config import load_settings
from hgisam.labels import Subtype
from hgisam.model.architecture import build_classifier
from hgisam.model.slice_classifier import SliceClassifier
from hgisam.train.batches import TrainingBatch, TrainingBatches
from hgisam.train.loop import Trainer
from hgisam.train.losses import ClassifierObjective
from hgisam.train.recipe import TrainOptions, gather

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
PRECISIONS = (torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Seconds:
    """What something took: by the clock, and of this process's CPU time."""

    wall: float
    cpu: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIGS / "ct_ich.yaml")
    parser.add_argument("--images", type=int, help="of a step; the recipe's number unless given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--matrix", type=int, default=2048, help="rows and columns of the matrices of the bound")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, help="labelled scans, to time real batches")
    parser.add_argument("--cache", type=Path, help="where prepared scans are kept; a temporary folder unless given")
    parser.add_argument("--profile", action="store_true", help="say where a bfloat16 step spends its time, and stop")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    with memory_kept(device):
        measure(given, device)


def measure(given: argparse.Namespace, device: torch.device) -> None:
    """Measure and print what is asked for."""
    options = load_settings(given.config).train
    batch = random_batch(options, given.images or options.sampling.n_images)
    if given.profile:
        print_profile(trainer(options, torch.bfloat16, device), batch, device)
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    threads = f", {given.threads} threads" if device.type == "cpu" else ""
    print(f"{name}, torch {torch.__version__}{threads}")
    n_images, n_wanted = len(batch.images), options.sampling.n_images
    of = "" if n_images == n_wanted else f" of the recipe's {n_wanted}"
    print(f"{given.config.name}: {n_images} images{of} of {batch.images.shape[-1]} px a step")
    steps = {}
    for precision in PRECISIONS:
        steps[precision] = report_steps(options, batch, precision, given.rounds, given.matrix, device)
    if given.data is not None:
        took = seconds_of_real_batch(options, given.data, given.cache, given.rounds)
        print(f"a real batch of {n_wanted} images: {took.cpu:.3f} s of CPU, {took.wall:.3f} s by the clock")
        for precision, step in steps.items():
            share = took.cpu / (took.cpu + step.cpu * n_wanted / n_images)
            print(f"{named(precision)}: {share:.1%} of the time waits for data, where one process loads and learns")


def trainer(
    options: TrainOptions, precision: torch.dtype, device: torch.device
) -> Trainer[SliceClassifier, TrainingBatch]:
    """The recipe's network, with random weights, in one precision."""
    torch.manual_seed(0)
    model = build_classifier(options.classifier, token_heads=options.loss.token_weight > 0)
    loop = options.loop.model_copy(update={"bfloat16": precision == torch.bfloat16, "freeze_steps": 0})
    return Trainer(model, loop, ClassifierObjective(options.loss), device)


def random_batch(options: TrainOptions, n_images: int) -> TrainingBatch:
    """Noise, half of it labelled positive, with a traced square of blood."""
    side = options.preprocess.fov_px
    labels = torch.zeros(n_images, len(Subtype), dtype=torch.bool)
    labels[: n_images // 2] = True
    blood = torch.zeros(n_images, side, side, dtype=torch.bool)
    blood[: n_images // 2, side // 3 : side // 2, side // 3 : side // 2] = True
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n_images, options.preprocess.n_channels, side, side, generator=generator)
    everywhere = torch.ones(n_images, dtype=torch.bool)
    return TrainingBatch(images, labels, torch.ones_like(labels), blood, everywhere)


def report_steps(
    options: TrainOptions, batch: TrainingBatch, precision: torch.dtype, rounds: int, size: int, device: torch.device
) -> Seconds:
    """Measure and print one precision: matrix products and steps that take turns. What a step took, the median."""
    training = trainer(options, precision, device)
    with FlopCounterMode(display=False) as counted:
        training.learn(batch)
    flops, product_flops, n_images = counted.get_total_flops(), 2 * size**3, len(batch.images)
    left, right = (torch.randn(size, size, device=device).to(precision) for _ in range(2))
    products, steps = [], []
    timed(lambda: left @ right, device)
    for _ in range(rounds):
        products.append(timed(lambda: left @ right, device))
        steps.append(timed(lambda: training.learn(batch), device))
    product, step = median(products), median(steps)
    n = sum(parameter.numel() for parameter in training.model.parameters()) / 1e6
    each = flops / n_images / 1e9
    print(f"{named(precision)}: {n:.1f} M parameters, {flops / 1e9:.1f} GFLOP a step, {each:.1f} an image")
    clocks = {"the clock": (product.wall, step.wall), "CPU time": (product.cpu, step.cpu)}
    if device.type == "cuda":
        del clocks["CPU time"]
    for clock, (of_product, of_step) in clocks.items():
        bound, reached = product_flops / of_product / 1e9, flops / of_step / 1e9
        print(f"  by {clock:9s}  bound {bound:8.1f} GFLOP/s", end="")
        print(f"   step {of_step:7.3f} s = {reached / bound:5.1%} of the bound   {n_images / of_step:7.2f} slices/s")
    print(f"  peak memory so far {peak_bytes(device) / 2**20:.0f} MiB", flush=True)
    return step


def timed(work: Callable[[], object], device: torch.device) -> Seconds:
    """What one call took, the device's part included."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def median(taken: list[Seconds]) -> Seconds:
    """Each clock's median."""
    return Seconds(statistics.median(one.wall for one in taken), statistics.median(one.cpu for one in taken))


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def seconds_of_real_batch(options: TrainOptions, data: Path, cache: Path | None, rounds: int) -> Seconds:
    """A batch of the recipe's slices, drawn, painted and augmented: the median of some."""
    with tempfile.TemporaryDirectory() as folder:
        sources = gather(options, data, Path(folder), cache or Path(folder) / "cache", workers=1)
        batches = TrainingBatches(
            sources.patients,
            sources.phantoms,
            options.preprocess,
            options.sampling,
            options.augmentation,
            options.painting,
            options.loop.seed,
        )
        cpu = torch.device("cpu")
        batches[0]  # what is made once
        return median([timed(partial(batches.__getitem__, step), cpu) for step in range(1, rounds + 1)])


def print_profile(
    training: Trainer[SliceClassifier, TrainingBatch], batch: TrainingBatch, device: torch.device
) -> None:
    """The operators of one step that take most time themselves."""
    training.learn(batch)
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities, record_shapes=True) as seen:
        training.learn(batch)
    order = "self_cuda_time_total" if on_cuda else "self_cpu_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=50))
    print(seen.key_averages(group_by_input_shape=True).table(sort_by=order, row_limit=25, max_name_column_width=40))


def named(precision: torch.dtype) -> str:
    """bfloat16, float32."""
    return str(precision).removeprefix("torch.")


if __name__ == "__main__":
    main()
