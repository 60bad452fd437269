"""Frozen networks that turn images into features: their weights, hashes and input ranges, in one place.

Most errors of perceptual losses and Fréchet distances are errors of preprocessing, so every network here takes
images in [0, 1] and does the rest itself.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pyro_lrp.downloads import online
from pyro_lrp.errors import UserError

__all__ = ["Features", "layer_names"]


@dataclass(frozen=True)
class _Trunk:
    """A torchvision network's convolutional part, and where its official weights are."""

    build: Callable[[], nn.Sequential]
    url: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def hash(self) -> str:
        """The start of the official file's SHA-256, which torchvision puts into its name."""
        return self.file.rsplit("-", 1)[1].removesuffix(".pth")


_TRUNKS = {
    "vgg19": _Trunk(
        lambda: torchvision.models.vgg19(weights=None).features,
        torchvision.models.VGG19_Weights.IMAGENET1K_V1.url,
    ),
}
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for RGB in [0, 1]


def layer_names(network: str) -> dict[str, int]:
    """The activations of a network by name, ``relu_<block>_<number>``, and their place in its trunk.

    >>> names = layer_names("vgg19")
    >>> [names[name] for name in ("relu_1_1", "relu_2_1", "relu_3_1", "relu_4_1")]
    [1, 6, 11, 20]
    """
    names, block, number = {}, 1, 0
    with torch.device("meta"):
        trunk = _trunk(network).build()
    for index, module in enumerate(trunk):
        if isinstance(module, nn.MaxPool2d):
            block, number = block + 1, 0
        elif isinstance(module, nn.ReLU):
            number += 1
            names[f"relu_{block}_{number}"] = index
    return names


class Features(nn.Module):
    """Activations of a frozen network, of images in [0, 1].

    Args:
        network: ``"vgg19"``, of torchvision.
        layers: Names of :func:`layer_names`.
        weights: A file: torchvision's own ``.pth``, whose hash is checked; or a ``.npz`` or ``.safetensors``
            with its ``features.<n>.weight`` and ``.bias``, which may lack the upper layers. None: the official
            file, downloaded if torch's cache does not have it.

    Attributes:
        layers: Those asked for that the file has.
        sha256: Of the file.

    Raises:
        UserError: If the file is missing, damaged, another network's, has a wrong hash or none of the layers.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: str, layers: Sequence[str], weights: str | Path | None = None) -> None:
        super().__init__()
        places = layer_names(network)
        unknown = [name for name in layers if name not in places]
        if unknown or not layers:
            known = ", ".join(places)
            raise UserError(f"layers: expected some of {known}, got {unknown[0] if unknown else 'none'}")
        path = _official(network) if weights is None else Path(weights).expanduser()
        state, self.sha256 = _read(network, path)
        with torch.device("meta"):
            trunk = _trunk(network).build()
        depth = _depth(trunk, state, f"weights.{network}: {path}")
        self.layers = tuple(name for name in layers if places[name] < depth)
        if not self.layers:
            raise UserError(
                f"weights.{network}: {path} has none of the layers {', '.join(layers)}: its convolutions end "
                f"before number {depth} of the trunk"
            )
        self.places = [places[name] for name in self.layers]
        self.trunk = trunk[: max(self.places) + 1]
        wanted = self.trunk.state_dict()
        self.trunk.load_state_dict({name: state[f"features.{name}"] for name in wanted}, assign=True)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Each layer's activation: ``(B, 1 or 3, H, W) -> [(B, C, h, w), ...]``; grey is repeated to RGB."""
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.deviation
        activations = []
        for index, module in enumerate(self.trunk):
            # in place, a ReLU would overwrite what the layer before it must keep for its gradient
            x = nn.functional.relu(x) if isinstance(module, nn.ReLU) else module(x)
            if index in self.places:
                activations.append(x)
        return activations


def _trunk(network: str) -> _Trunk:
    if network not in _TRUNKS:
        raise UserError(f"network: expected one of {', '.join(_TRUNKS)}, got {network!r}")
    return _TRUNKS[network]


def _official(network: str) -> Path:
    """Torchvision's file, from torch's own cache or downloaded into it."""
    trunk = _trunk(network)
    path = Path(torch.hub.get_dir()) / "checkpoints" / trunk.file
    if not path.is_file():
        advice = f"set weights.{network}=FILE, or place {trunk.file} in {path.parent}"
        if not online(trunk.url):
            raise UserError(f"the weights of {network} are not here and there is no network: {advice}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(trunk.url, str(path), hash_prefix=trunk.hash)
        except (OSError, RuntimeError) as error:
            raise UserError(f"the download of {trunk.url} failed ({error}): {advice}") from error
    return path


def _read(network: str, path: Path) -> tuple[Mapping[str, Tensor], str]:
    key = f"weights.{network}"
    if not path.is_file():
        raise UserError(f"{key}: there is no file {path}")
    with open(path, "rb") as file:
        digest = (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(file)
        )
    try:
        if path.suffix == ".npz":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                names = [name for name in archive.files if name.startswith("features.")]
                return {name: torch.from_numpy(archive[name]) for name in names}, digest
        if path.suffix == ".safetensors":
            return load_file(path), digest
        if path.suffix in (".pth", ".pt"):
            official = _trunk(network).hash
            if not digest.startswith(official):
                raise UserError(
                    f"{key}: {path} has a wrong hash: its SHA-256 starts with {digest[: len(official)]}, that "
                    f"of {_trunk(network).file} with {official} (other weights: as .npz or .safetensors)"
                )
            return torch.load(path, map_location="cpu", weights_only=True), digest
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError, RuntimeError) as error:
        raise UserError(f"{key}: {path} is not readable, or is truncated ({error})") from error
    raise UserError(f"{key}: expected a file that ends in .pth, .npz or .safetensors, got {path}")


def _sha(file) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Python 3.10 has no hashlib.file_digest."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _depth(trunk: nn.Sequential, state: Mapping[str, Tensor], origin: str) -> int:
    """The place of the first layer whose weights are missing; up to there activations can be computed."""
    for name, wanted in trunk.state_dict().items():
        found = state.get(f"features.{name}")
        if found is None:
            return int(name.partition(".")[0])
        if found.shape != wanted.shape or not found.is_floating_point():
            raise UserError(
                f"{origin} is of another network: features.{name} is {found.dtype} of shape "
                f"{tuple(found.shape)}, expected {tuple(wanted.shape)}"
            )
    return len(trunk)
