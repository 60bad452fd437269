"""CelebA: aligned faces with 40 binary attributes."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.dataset import ImageData, Rows, Split, divide
from pyro_lrp.data.decoded import Refused, Source, decode
from pyro_lrp.data.folder import matched

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["celeba"]

_WIDTH = 178  # of the official aligned images
_HEIGHT = 218
# The centre of the 128 and the 140 crop of the literature: rows 45..172 and columns 25..152 for 128
_CENTRE_X = 89
_CENTRE_Y = 109


def celeba(
    root: str | Path,
    images: str | Path | None = None,
    attributes: str | Path | None = None,
    split: Sequence[float] | None = None,
    crop: int = 128,
    image_size: int = 64,
) -> ImageData:
    """CelebA (Liu et al., 2015), with its official 162,770 training, 19,867 validation and 19,962 test images.

    Each aligned image is cropped to a square (128 pixels: rows 45 to 172, columns 25 to 152, as by Dai and
    Wipf), which is resized, bilinearly and antialiased. For copies of the images at another scale the crop is
    scaled likewise. All images are decoded once and then mapped into memory.

    Args:
        root: A folder that contains ``celeba/``, or that folder.
        images: ``img_align_celeba``, a folder or a ``.zip``, relative to that folder. By default the one with
            this name, or the one whose name begins with it and that has the most images.
        attributes: ``list_attr_celeba.txt``, plain or gzipped; by default the one in that folder, if any.
        split: As for :func:`pyro_lrp.data.divide`, in the order of names; if None the official
            ``list_eval_partition.txt`` decides.
        crop: Side of the square, in pixels of the official 178x218 images.
        image_size: Side of the resulting images.

    Raises:
        UserError: If a file is missing (the message tells where to place it), or files do not match.
    """
    _check_options(crop, image_size)
    base = Path(root).expanduser()
    if (base / "celeba").is_dir():
        base = base / "celeba"
    if images is None:
        place = _default_images(base)
    else:
        place = base / Path(images).expanduser()
    source = Source(place, "data.images")
    columns, table, origin = _attribute_table(base, attributes)
    partition = {}
    if split is None:
        partition = _partition(base, len(source.names))

    names, pixels = decode(
        source,
        partial(_crop, crop=crop, image_size=image_size),
        (3, image_size, image_size),
        {"celeba": crop},
        key="data.images",
    )
    files = [name.rsplit("/", 1)[-1] for name in names]
    flags = None
    if columns:
        flags = matched(table, files, origin)
    everything = Split(pixels, attributes=flags)
    train: Rows
    validation: Rows | None
    test: Rows
    if split is None:
        train, validation, test = _partition_rows(partition, files, base)
    else:
        train, validation, test = divide(split, len(files))
    held_out = None
    if validation is not None:
        held_out = everything[validation]
    name = _name(source)
    return ImageData(name, everything[train], everything[test], held_out, columns)


def _check_options(crop: int, image_size: int) -> None:
    if not (isinstance(crop, int) and 1 <= crop <= _WIDTH):
        raise UserError(f"data.crop must be between 1 and {_WIDTH} pixels of the 178x218 images, got {crop}")
    if not (isinstance(image_size, int) and image_size >= 1):
        raise UserError(f"data.image_size must be a whole number of at least 1, got {image_size!r}")


def _name(source: Source) -> str:
    """The data set's name, which includes the size of the images if that is not the official one."""
    with source.open(source.names[0]) as image:
        if image.size == (_WIDTH, _HEIGHT):
            return "celeba"
        return f"celeba_{image.width}x{image.height}"


# ---------------------------------------------------------------------
# images
# ---------------------------------------------------------------------


def _default_images(base: Path) -> Path:
    for name in ("img_align_celeba", "img_align_celeba.zip"):
        if (base / name).exists():
            return base / name
    counts = {}
    for path in sorted(base.glob("img_align_celeba*")):
        if path.suffix == ".zip" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                counts[path] = len(archive.namelist())
    if not counts:
        raise UserError(
            "data=celeba needs img_align_celeba (a folder or .zip), list_eval_partition.txt and "
            "list_attr_celeba.txt, of mmlab.ie.cuhk.edu.hk/projects/CelebA.html, "
            f"in {base}: place them there, or set data.root"
        )
    return max(counts, key=lambda path: counts[path])


def _crop(image: Image.Image, crop: int, image_size: int) -> Image.Image:
    from PIL import Image

    scale = image.width / _WIDTH
    if abs(image.height - scale * _HEIGHT) > 1:
        raise Refused(
            "are not aligned CelebA images (178x218, or a scaled copy)",
            f" ({image.width}x{image.height})",
        )
    left = int((_CENTRE_X - crop / 2) * scale)
    top = int((_CENTRE_Y - crop / 2) * scale)
    side = round(crop * scale)
    box = (left, top, left + side, top + side)
    square = image.convert("RGB").crop(box)
    return square.resize((image_size, image_size), Image.Resampling.BILINEAR)


# ---------------------------------------------------------------------
# attributes and partition
# ---------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    """The lines of a plain or gzipped file."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable, or is truncated ({error})") from error


def _attribute_table(
    base: Path, attributes: str | Path | None
) -> tuple[tuple[str, ...], dict[str, list[bool]], Path]:
    """Names of the columns, values by image, and their file; empty if there is no file."""
    if attributes is not None:
        path = base / Path(attributes).expanduser()
        if not path.is_file():
            raise UserError(f"data.attributes: there is no file {path}")
    else:
        candidates = sorted(base.glob("list_attr_celeba*.txt*"))
        if not candidates:
            return (), {}, base
        path = candidates[0]
    lines = _lines(path)
    if len(lines) < 3:
        raise UserError(f"{path} must hold a count, the names of the attributes, and a row for each image")
    columns = tuple(lines[1].split())
    table = {}
    for number, line in enumerate(lines[2:], start=3):
        name, *values = line.split() or [""]
        if len(values) != len(columns) or not set(values) <= {"-1", "1"}:
            raise UserError(
                f"{path}, line {number}: expected an image's name and {len(columns)} values, -1 or 1"
            )
        table[name] = [value == "1" for value in values]
    return columns, table, path


def _partition(base: Path, images: int) -> dict[str, str]:
    """The part of each image: 0 training, 1 validation, 2 test."""
    candidates = sorted(base.glob("list_eval_partition.txt*"))
    files = [path for path in candidates if path.is_file()]
    if not files:
        raise UserError(
            f"data=celeba needs the official list_eval_partition.txt in {base}, or "
            f"data.split=[TRAIN,TEST] of the {images} images there are"
        )
    path = files[0]
    partition = {}
    for line in _lines(path):
        if not line.strip():
            continue
        row = line.split()
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise UserError(f"{path} must hold rows of an image's name and 0, 1 or 2")
        name, part = row
        partition[name] = part
    return partition


def _partition_rows(partition: dict[str, str], names: list[str], base: Path) -> tuple[Rows, Rows | None, Rows]:
    """Training, validation (or None) and test rows."""
    missing = [name for name in names if name not in partition]
    if missing:
        raise UserError(
            f"list_eval_partition.txt in {base} has no row for {len(missing)} of {len(names)} images, "
            f"the first: {missing[0]}"
        )
    rows: dict[str, list[int]] = {"0": [], "1": [], "2": []}
    for row, name in enumerate(names):
        rows[partition[name]].append(row)
    train = rows["0"]
    validation = rows["1"]
    test = rows["2"]
    if not train or not test:
        raise UserError(
            f"list_eval_partition.txt in {base} leaves {len(train)} training and {len(test)} test "
            f"images of the {len(names)} there are: set data.split=[TRAIN,TEST]"
        )
    held_out = None
    if validation:
        held_out = _as_slice(validation)
    return _as_slice(train), held_out, _as_slice(test)


def _as_slice(rows: list[int]) -> Rows:
    """Consecutive rows as a slice, since slices of a mapped array remain mapped."""
    first = rows[0]
    last = rows[-1]
    if last - first + 1 == len(rows):
        return slice(first, last + 1)
    return torch.tensor(rows)
