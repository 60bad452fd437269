"""Our Frechet distance beside pytorch-fid's own command, on the same PNG files and weights.

    python tests/benchmarks/fid_against_pytorch_fid.py [--images 100] [--dims 2048] [--weights FILE]

Compares colour images with grey ones. Without the official weights both networks have the same random ones.
"""

import argparse
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import scipy
import torch
from PIL import Image
from pytorch_fid import inception
from safetensors.torch import save_file
from torch import nn

from pyro_lrp.features import Inception
from pyro_lrp.metrics import FeatureStatistics

FILE = inception.FID_WEIGHTS_URL.rsplit("/", 1)[1]
# what pytorch-fid 0.3.0 passes to scipy.linalg.sqrtm, and SciPy 1.18 no longer takes
RUNS = "disp" in inspect.signature(scipy.linalg.sqrtm).parameters


def random_inception(path, seed=0):
    """A .safetensors file of weights that let features vary; the default ones make all images alike."""
    loaded = mock.patch.object(inception, "load_state_dict_from_url", return_value={})
    with loaded, mock.patch.object(nn.Module, "load_state_dict"):
        network = inception.fid_inception_v3()
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            scale = (2 / module.weight[0].numel()) ** 0.5
            module.weight.data = scale * torch.randn(module.weight.shape, generator=generator)
    save_file(network.state_dict(), path)
    return network.state_dict()


def write_images(folder, n, channels, seed=0, side=32):
    """Smooth random colour or grey PNG files, and the same as a uint8 tensor ``(n, channels, side, side)``."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator)
    images = (nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1) * 255).byte()
    for number, image in enumerate(images):
        array = np.ascontiguousarray(image.permute(1, 2, 0).squeeze(-1).numpy())
        Image.fromarray(array).save(folder / f"{number:05}.png")
    return images


def theirs(hub, folders, dims, batch_size=50):
    """What pytorch-fid's command prints, with its weights in the torch home ``hub``."""
    command = [sys.executable, "-m", "pytorch_fid", *map(str, folders), "--device", "cpu", "--num-workers", "0"]
    command += ["--dims", str(dims), "--batch-size", str(batch_size)]
    environment = {**os.environ, "TORCH_HOME": str(hub)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    return float(ran.stdout.rsplit("FID:", 1)[1])


@torch.no_grad()
def ours(weights, sets, dims, batch_size=50):
    """The same from tensors."""
    network, statistics = Inception(weights, dims), []
    for images in sets:
        statistics.append(FeatureStatistics())
        for part in images.split(batch_size):
            statistics[-1].update(network.features(part / 255))
    return statistics[0].distance(statistics[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--weights", type=Path, help="pytorch-fid's own file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hub/checkpoints").mkdir(parents=True)
        placed = folder / "hub/checkpoints" / FILE
        if options.weights:
            weights = options.weights
            shutil.copy(weights, placed)
        else:
            weights = folder / "random.safetensors"
            torch.save(random_inception(weights), placed)
        folders = [folder / "colour", folder / "grey"]
        channels = (3, 1)
        sets = [write_images(f, options.images, c, seed=c) for f, c in zip(folders, channels, strict=True)]
        start = time.monotonic()
        own = ours(weights, sets, options.dims)
        middle = time.monotonic()
        print(f"ours        {own:.8f}   {middle - start:.0f} s", flush=True)
        if not RUNS:
            print(f"pytorch-fid does not run with SciPy {scipy.__version__}: it needs one before 1.18")
            return
        other = theirs(folder, folders, options.dims)
        print(f"pytorch-fid {other:.8f}   {time.monotonic() - middle:.0f} s   relative {own / other - 1:.1e}")


if __name__ == "__main__":
    main()
