"""CelebA: aligned faces with 40 binary attributes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.limits import gunzip, refuse_special
from pyro_lrp.data.dataset import ImageData, Split
from pyro_lrp.data.decoded import Refused, Source, decode
from pyro_lrp.data.modes import eight_bit
from pyro_lrp.data.parts import Parts, as_slice, divide
from pyro_lrp.data.tables import Flags, composed, csv_rows, decoded_text, flags_of_csv, matched

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
        attributes: ``list_attr_celeba.txt``, plain or gzipped, or Kaggle's ``.csv``; by default the one in that
            folder, if any.
        split: As for :func:`pyro_lrp.data.divide`: at random, and the same in every run. If None the official
            ``list_eval_partition.txt``, or Kaggle's ``.csv``, decides.
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
    columns, flags, origin = _attribute_table(base, attributes)
    partition = {}
    if split is None:
        partition = _partition(base, len(source.names))

    names, pixels, converted = decode(
        source,
        partial(_crop, crop=crop, image_size=image_size),
        lambda: (3, image_size, image_size),
        {"celeba": crop, "image_size": image_size},
    )
    files = [composed(name).rsplit("/", 1)[-1] for name in names]
    table = None
    if columns:
        table = matched(flags, files, origin)
    everything = Split(pixels, attributes=table)
    if split is None:
        train, validation, test = _partition_rows(partition, files, base)
    else:
        train, validation, test = divide(split, len(files))
    held_out = None
    if validation is not None:
        held_out = everything[as_slice(validation)]
    return ImageData(
        _name(source),
        everything[as_slice(train)],
        everything[as_slice(test)],
        held_out,
        columns,
        notes=(*source.notes(), *converted),
    )


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
            "list_attr_celeba.txt (or Kaggle's .csv of both), of mmlab.ie.cuhk.edu.hk/projects/CelebA.html, "
            f"in {base}: place them there, or set data.root"
        )
    return max(counts, key=lambda path: counts[path])


def _crop(image: Image.Image, crop: int, image_size: int) -> tuple[Image.Image, list[str]]:
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
    converted, changes = eight_bit(image, "RGB", turn=False)
    square = converted.crop(box)
    return square.resize((image_size, image_size), Image.Resampling.BILINEAR), changes


# ---------------------------------------------------------------------
# attributes and partition
# ---------------------------------------------------------------------


def _text(path: Path) -> str:
    """The text of a plain or gzipped file."""
    refuse_special(path)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gunzip(content)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path} is not readable, or is truncated ({error})") from error
    return decoded_text(content)


def _is_csv(path: Path) -> bool:
    return ".csv" in path.suffixes


def _tables(base: Path, name: str) -> list[Path]:
    """The files of a table: official ones before Kaggle's, which may lie in a folder of the same name."""
    found = []
    for pattern in (f"{name}*.txt*", f"{name}*.csv*"):
        for path in sorted(base.glob(pattern)):
            if path.is_dir():
                path = path / path.name
            if path.is_file():
                found.append(path)
    return found


def _attribute_table(base: Path, attributes: str | Path | None) -> tuple[tuple[str, ...], Flags, Path]:
    """Names of the columns, values by image, and their file; empty if there is no file."""
    if attributes is not None:
        path = base / Path(attributes).expanduser()
        if not path.is_file():
            raise UserError(f"data.attributes: there is no file {path}")
    else:
        candidates = _tables(base, "list_attr_celeba")
        if not candidates:
            return (), {}, base
        path = candidates[0]
    text = _text(path)
    if _is_csv(path):
        columns, flags = flags_of_csv(text, path)
        return columns, flags, path
    lines = text.splitlines()
    if len(lines) < 3:
        raise UserError(f"{path} must hold a count, the names of the attributes, and a row for each image")
    columns = tuple(lines[1].split())
    flags = {}
    for number, line in enumerate(lines[2:], start=3):
        name, *values = line.split() or [""]
        if len(values) != len(columns) or not set(values) <= {"-1", "1"}:
            raise UserError(
                f"{path}, line {number}: expected an image's name and {len(columns)} values, -1 or 1"
            )
        flags[composed(name)] = [value == "1" for value in values]
    return columns, flags, path


def _partition(base: Path, images: int) -> dict[str, str]:
    """The part of each image: 0 training, 1 validation, 2 test."""
    files = _tables(base, "list_eval_partition")
    if not files:
        raise UserError(
            f"data=celeba needs the official list_eval_partition.txt, or Kaggle's .csv, in {base}, or "
            f"data.split=[TRAIN,TEST] of the {images} images there are"
        )
    path = files[0]
    text = _text(path)
    if _is_csv(path):
        rows = csv_rows(text)[1:]
    else:
        rows = [line.split() for line in text.splitlines() if line.strip()]
    partition = {}
    for row in rows:
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise UserError(f"{path} must hold rows of an image's name and 0, 1 or 2")
        name, part = row
        partition[composed(name)] = part
    return partition


def _partition_rows(partition: dict[str, str], names: list[str], base: Path) -> Parts:
    """Training, validation (or None) and test rows."""
    missing = [name for name in names if name not in partition]
    if missing:
        raise UserError(
            f"list_eval_partition in {base} has no row for {len(missing)} of {len(names)} images, "
            f"the first: {printable(missing[0])}"
        )
    rows: dict[str, list[int]] = {"0": [], "1": [], "2": []}
    for row, name in enumerate(names):
        rows[partition[name]].append(row)
    train, validation, test = (torch.tensor(numbers, dtype=torch.long) for numbers in rows.values())
    if not len(train) or not len(test):
        raise UserError(
            f"list_eval_partition in {base} leaves {len(train)} training and {len(test)} test "
            f"images of the {len(names)} there are: set data.split=[TRAIN,TEST]"
        )
    if not len(validation):
        return train, None, test
    return train, validation, test
