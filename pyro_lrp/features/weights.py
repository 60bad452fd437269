"""Weights of pretrained networks: where the official files are, how files are read, what is recorded."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_fid.inception import FID_WEIGHTS_URL
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights, VGG19_Weights

from pyro_lrp.core.downloads import online
from pyro_lrp.core.errors import UserError

__all__ = ["Frozen", "Weights", "obtainable", "read", "sha256"]


@dataclass(frozen=True)
class _Official:
    """A network's official file."""

    owner: str
    url: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def hash(self) -> str:
        """The start of its SHA-256, which is part of its name."""
        return self.file.rsplit("-", 1)[1].removesuffix(".pth")

    @property
    def place(self) -> Path:
        """Where it is once torch.hub has downloaded it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


_OFFICIAL = {
    "vgg16": _Official("torchvision", VGG16_Weights.IMAGENET1K_V1.url),
    "vgg19": _Official("torchvision", VGG19_Weights.IMAGENET1K_V1.url),
    "alexnet": _Official("torchvision", AlexNet_Weights.IMAGENET1K_V1.url),
    "squeezenet": _Official("torchvision", SqueezeNet1_1_Weights.IMAGENET1K_V1.url),
    "inception": _Official("pytorch-fid", FID_WEIGHTS_URL),
}
_DAMAGE = (OSError, ValueError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, SafetensorError)


@dataclass(frozen=True)
class Weights:
    """What a file holds.

    Attributes:
        network: Whose they are.
        path: The file.
        state: Tensors by name.
        sha256: Of the file.
        official: Whether it is the official file, by its hash.
    """

    network: str
    path: Path
    state: Mapping[str, Tensor]
    sha256: str
    official: bool

    @property
    def origin(self) -> str:
        """Key and file, for a message."""
        return f"weights.{self.network}: {self.path}"

    @property
    def record(self) -> dict[str, Any]:
        """Its part of a protocol; the key ``surrogate`` is there only if the file is not the official one."""
        said = {"weights": self.path.name, "weights_sha256": self.sha256}
        if self.official:
            return said
        owner = _official(self.network).owner
        return said | {"surrogate": f"weights of {self.path.name}, not {owner}'s official ones"}


class Frozen(nn.Module):
    """A network that is never trained, of images in [0, 1] with 1 or 3 channels.

    It computes in float64 if the images are, and else in float32: its weights follow, which loses nothing.

    Args:
        weights: What it is made of.

    Attributes:
        sha256: Of the weights' file.
        record: Its part of a protocol; the key ``surrogate``, if there, says why it is one.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.sha256 = weights.sha256
        self.record = {"network": weights.network, **weights.record}

    def rgb(self, x: Tensor) -> Tensor:
        """Images in the precision of the network, grey repeated: ``(B, 1 or 3, H, W) -> (B, 3, H, W)``."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        if next(self.parameters()).dtype != dtype:
            self.to(dtype)
        return x.to(dtype).expand(-1, 3, -1, -1)


def obtainable(network: str, weights: Mapping[str, str | Path | None]) -> bool:
    """Whether a network's weights need no download: a file was given, or torch's cache holds the official one.

    Args:
        network: Its name.
        weights: Files that were given, by network.
    """
    return weights.get(network) is not None or _official(network).place.is_file()


def sha256(network: str, weights: str | Path) -> str:
    """Of the file of a network's weights; a UserError if there is none."""
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"weights.{network}: there is no file {path}")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read(network: str, weights: str | Path | None = None) -> Weights:
    """A network's weights.

    Args:
        network: ``"vgg16"``, ``"vgg19"``, ``"alexnet"``, ``"squeezenet"`` (1.1) or ``"inception"``.
        weights: A file: the official ``.pth``, whose hash is checked, or a ``.npz`` or ``.safetensors`` of the
            same names. None: the official file, downloaded if torch's cache does not have it.

    Raises:
        UserError: If the file is missing, damaged or has a wrong hash, or the download fails.
    """
    path = _obtained(network) if weights is None else Path(weights).expanduser()
    digest = sha256(network, path)
    official = digest.startswith(_official(network).hash)
    return Weights(network, path, _state(network, path, digest), digest, official)


def unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file, and nothing but tensors."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _official(network: str) -> _Official:
    if network not in _OFFICIAL:
        raise UserError(f"network: expected one of {', '.join(_OFFICIAL)}, got {network!r}")
    return _OFFICIAL[network]


def _obtained(network: str) -> Path:
    """The official file, from torch's own cache or downloaded into it."""
    official = _official(network)
    path = official.place
    if not path.is_file():
        advice = f"set weights.{network}=FILE, or place {official.file} in {path.parent}"
        if not online(official.url):
            raise UserError(f"the weights of {network} are not here and there is no network: {advice}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(official.url, str(path), hash_prefix=official.hash)
        except (OSError, RuntimeError) as error:
            raise UserError(f"the download of {official.url} failed ({error}): {advice}") from error
    return path


def _state(network: str, path: Path, digest: str) -> Mapping[str, Tensor]:
    key, official = f"weights.{network}", _official(network)
    if path.suffix not in (".pth", ".pt", ".npz", ".safetensors"):
        raise UserError(f"{key}: expected a file that ends in .pth, .npz or .safetensors, got {path}")
    if path.suffix in (".pth", ".pt") and not digest.startswith(official.hash):
        raise UserError(
            f"{key}: {path} has a wrong hash: its SHA-256 starts with {digest[: len(official.hash)]}, "
            f"that of {official.file} with {official.hash} (other weights: as .npz or .safetensors)"
        )
    try:
        if path.suffix == ".npz":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: torch.from_numpy(archive[name]) for name in archive.files}
        return load_file(path) if path.suffix == ".safetensors" else unpickled(path)
    except _DAMAGE as error:
        raise UserError(f"{key}: {path} is not readable, or is truncated ({error})") from error
