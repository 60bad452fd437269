"""Weights of pretrained networks: the official files, how files are read, and what is recorded of them."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pyro_lrp.core.downloads import online
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_npz

__all__ = ["Frozen", "Weights", "obtainable", "read", "sha256"]


@dataclass(frozen=True)
class _Official:
    """The official file of a network."""

    owner: str
    url: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def hash(self) -> str:
        """The first digits of its SHA-256, which are part of its name."""
        return self.file.rsplit("-", 1)[1].removesuffix(".pth")

    @property
    def place(self) -> Path:
        """The path to which torch.hub downloads it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


# written out, because the packages that define these addresses take seconds to import
_TORCHVISION = "https://download.pytorch.org/models"
_PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
_OFFICIAL = {
    "vgg16": _Official("torchvision", f"{_TORCHVISION}/vgg16-397923af.pth"),
    "vgg19": _Official("torchvision", f"{_TORCHVISION}/vgg19-dcbb9e9d.pth"),
    "alexnet": _Official("torchvision", f"{_TORCHVISION}/alexnet-owt-7be5be79.pth"),
    "squeezenet": _Official("torchvision", f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth"),
    "inception": _Official("pytorch-fid", f"{_PYTORCH_FID}/pt_inception-2015-12-05-6726825d.pth"),
}
_DAMAGE = (OSError, ValueError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, SafetensorError)
_PICKLED = (".pth", ".pt")
_BLOCK = 1 << 20  # bytes that are hashed at once


@dataclass(frozen=True)
class Weights:
    """The contents of a file of weights.

    Attributes:
        network: The network they belong to.
        path: The file.
        state: Tensors by name.
        sha256: The hash of the file.
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
        """The entries of a protocol; the key ``surrogate`` is absent for the official file."""
        record = {"weights": self.path.name, "weights_sha256": self.sha256}
        if not self.official:
            owner = _official(self.network).owner
            record["surrogate"] = f"weights of {self.path.name}, not {owner}'s official ones"
        return record

    def tensor(self, name: str, expected: Tensor) -> Tensor:
        """A tensor of the file.

        Args:
            name: Its name in the file.
            expected: A tensor of the shape that the network needs.

        Raises:
            UserError: If it is missing, or is not a float tensor of this shape.
        """
        tensor = self.state.get(name)
        if tensor is None:
            raise UserError(f"{self.origin} lacks {name}")
        if tensor.shape != expected.shape or not tensor.is_floating_point():
            raise UserError(
                f"{self.origin} belongs to another network: {name} is {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}, expected {tuple(expected.shape)}"
            )
        return tensor


class Frozen(nn.Module):
    """A network that is never trained, for images in [0, 1] with 1 or 3 channels.

    It computes in float64 if the images are float64, else in float32. Its weights are converted when needed,
    which loses nothing.

    Args:
        weights: The file that the network is loaded from.

    Attributes:
        sha256: The hash of that file.
        record: The entries of a protocol; the key ``surrogate``, if present, says why the network is one.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.sha256 = weights.sha256
        self.record = {"network": weights.network, **weights.record}

    def rgb(self, x: Tensor) -> Tensor:
        """Images in the precision of the network, grey repeated: ``(B, 1 or 3, H, W) -> (B, 3, H, W)``."""
        dtype = torch.float32
        if x.dtype == torch.float64:
            dtype = torch.float64
        if next(self.parameters()).dtype != dtype:
            self.to(dtype)
        return x.to(dtype).expand(-1, 3, -1, -1)


def obtainable(network: str, weights: Mapping[str, str | Path | None]) -> bool:
    """Whether the weights of a network need no download.

    They need none if a file is given, or if torch's cache holds the official one.

    Args:
        network: The name of the network.
        weights: The files that are given, by network.
    """
    given = weights.get(network) is not None
    return given or _official(network).place.is_file()


def sha256(network: str, weights: str | Path) -> str:
    """The SHA-256 of the file of a network's weights.

    Raises:
        UserError: If there is no such file.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"weights.{network}: there is no file {path}")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read(network: str, weights: str | Path | None = None) -> Weights:
    """The weights of a network.

    Args:
        network: ``"vgg16"``, ``"vgg19"``, ``"alexnet"``, ``"squeezenet"`` (1.1) or ``"inception"``.
        weights: A file: the official ``.pth``, whose hash is checked, or a ``.npz`` or ``.safetensors`` of the
            same names. None: the official file, downloaded if torch's cache does not have it.

    Raises:
        UserError: If the file is missing, damaged or has a wrong hash, or the download fails.
    """
    if weights is None:
        path = _obtained(network)
    else:
        path = Path(weights).expanduser()
    digest = sha256(network, path)
    official = digest.startswith(_official(network).hash)
    state = _state(network, path, digest)
    return Weights(network, path, state, digest, official)


def unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` or ``.pt`` file, and nothing but tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of pickles that it did not write itself
        return torch.load(path, map_location="cpu", weights_only=True)


def _official(network: str) -> _Official:
    if network not in _OFFICIAL:
        raise UserError(f"network: expected one of {', '.join(_OFFICIAL)}, got {network!r}")
    return _OFFICIAL[network]


def _obtained(network: str) -> Path:
    """The official file, from torch's own cache or downloaded into it; a damaged one is downloaded again."""
    official = _official(network)
    path = official.place
    damaged = path.is_file() and not sha256(network, path).startswith(official.hash)
    if path.is_file() and not damaged:
        return path
    problem = f"the weights of {network} are not here"
    if damaged:
        problem = f"{path} is damaged (its hash is not the one in its name)"
    advice = f"set weights.{network}=FILE, or place {official.file} in {path.parent}"
    if not online(official.url):
        raise UserError(f"{problem} and there is no network: {advice}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(official.url, str(path), hash_prefix=official.hash)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the download of {official.url} to {path.parent} failed ({error}): {advice}, or set the "
            "environment variable TORCH_HOME to a folder that can be written"
        ) from error
    return path


def _state(network: str, path: Path, digest: str) -> Mapping[str, Tensor]:
    """The tensors of a file; pickled files must be the official ones."""
    key = f"weights.{network}"
    official = _official(network)
    if path.suffix not in (*_PICKLED, ".npz", ".safetensors"):
        raise UserError(f"{key}: expected a file that ends in .pth, .npz or .safetensors, got {path}")
    if path.suffix in _PICKLED and not digest.startswith(official.hash):
        raise UserError(
            f"{key}: {path} has a wrong hash: its SHA-256 starts with {digest[: len(official.hash)]}, "
            f"that of {official.file} with {official.hash} (other weights: as .npz or .safetensors)"
        )
    try:
        return _tensors(path)
    except _DAMAGE as error:
        raise UserError(f"{key}: {path} is not readable, or is truncated ({error})") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in _PICKLED:
        return unpickled(path)
    return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
