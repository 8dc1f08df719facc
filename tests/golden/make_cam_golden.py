"""Make cams.npz: what torchcam and pytorch-grad-cam say of a thin ResNet-18.

    pip install torchcam==0.5.0 grad-cam==1.5.7 monai==1.6.1    # in an environment of its own; hgisam is not needed
    python make_cam_golden.py cams.npz

Raw maps, neither normalised nor enlarged, at several stages: Grad-CAM and LayerCAM by torchcam, which also fuses the
latter; Grad-CAM++ by pytorch-grad-cam. (torchcam 0.5.0 never divides by the denominator of alpha: its division in place
works on a copy. MONAI 1.6.1 sums A g^3 with the gradients of all places, where equation 19 has that of the place.)
"""

import sys

import numpy as np
import torch
from monai.networks.nets.resnet import ResNet
from pytorch_grad_cam import GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchcam.methods import GradCAM, LayerCAM

WIDTH, IMG, TARGET = 4, 64, 1
STAGES = (2, 3, 4)


def plus_plus(network: torch.nn.Module, layer: str, images: torch.Tensor) -> np.ndarray:
    """The map before it is stretched and enlarged."""
    targets = [ClassifierOutputTarget(TARGET) for _ in images]
    with GradCAMPlusPlus(network, [getattr(network, layer)]) as method:
        method(images, targets)
        (features,), (gradient,) = method.activations_and_grads.activations, method.activations_and_grads.gradients
        arrays = features.detach().numpy(), gradient.detach().numpy()
        raw: np.ndarray = method.get_cam_image(images, None, targets, *arrays)
    return np.maximum(raw, 0.0).astype(np.float32)


def main() -> None:
    """Write the file named on the command line."""
    torch.manual_seed(20)
    channels = [WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
    network = ResNet(
        "basic", [2, 2, 2, 2], channels, 2, 3, conv1_t_stride=2, num_classes=2, bias_downsample=False
    ).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif name == "fc.weight":  # steep, or the 1e-6 of pytorch-grad-cam's denominator would show
                tensor.normal_(0.0, 50.0)
            elif tensor.dim() > 1:
                tensor.normal_(0.0, (4.0 / tensor[0].numel()) ** 0.5)
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    rng = np.random.default_rng(20)
    coarse = torch.from_numpy(rng.random((2, 3, 8, 8), dtype=np.float32))
    images = (torch.nn.functional.interpolate(coarse, size=(IMG, IMG), mode="bilinear") * 255).to(torch.uint8)
    out = {"images": images.numpy(), "logits": network(images.float() / 255).detach().numpy()}
    layers = [f"layer{stage}" for stage in STAGES]
    for name, method in (("grad_cam", GradCAM), ("layer_cam", LayerCAM)):
        with method(network, layers, input_shape=(3, IMG, IMG)) as extractor:
            raw = extractor(TARGET, network(images.float() / 255), normalized=False)
            for stage, maps in zip(STAGES, raw, strict=True):
                out[f"{name}/stage{stage}"] = maps.numpy()
    for stage in STAGES:
        out[f"grad_cam_plus_plus/stage{stage}"] = plus_plus(network, f"layer{stage}", images.float() / 255)
    with LayerCAM(network, layers, input_shape=(3, IMG, IMG)) as extractor:
        raw = extractor(TARGET, network(images.float() / 255), normalized=False)
        shares = [maps / maps.amax(dim=(1, 2), keepdim=True) for maps in raw]
        out["layer_cam/fused"] = extractor.fuse_cams(shares, (IMG, IMG)).numpy()
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            out[f"weight/{name}"] = tensor.half().numpy()
    np.savez_compressed(sys.argv[1], **out)


if __name__ == "__main__":
    main()
