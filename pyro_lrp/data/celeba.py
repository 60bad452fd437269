"""CelebA: aligned faces with 40 binary attributes."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.dataset import ImageData, Split, divide
from pyro_lrp.data.decoded import Refused, Source, decode
from pyro_lrp.data.folder import matched

__all__ = ["celeba"]

_SIZE = (178, 218)  # width and height of the aligned images
_CENTRE = (89, 109)  # of the 128 and the 140 crop of the literature: rows 45..172 and columns 25..152 for 128


def celeba(
    root: str | Path,
    images: str | Path | None = None,
    attributes: str | Path | None = None,
    split: Sequence[float] | None = None,
    crop: int = 128,
    image_size: int = 64,
) -> ImageData:
    """CelebA (Liu et al., 2015), with its official 162,770 training, 19,867 validation and 19,962 test images.

    Of each aligned image a square is cut out (128 pixels: rows 45 to 172, columns 25 to 152, as Dai and Wipf
    do) and resized, bilinearly and antialiased. Copies of the images at another scale have the crop scaled
    likewise. All is decoded once and then mapped into memory.

    Args:
        root: A folder with ``celeba/`` in it, or that folder.
        images: ``img_align_celeba``, a folder or a ``.zip``; relative to that folder. Without it: the one that
            has this name, or begins with it and has the most images.
        attributes: ``list_attr_celeba.txt``, plain or gzipped; without it, one that is found there.
        split: As for :func:`pyro_lrp.data.divide`, in the order of names; if None the official
            ``list_eval_partition.txt`` decides.
        crop: Side of the square, in pixels of the official 178x218 images.
        image_size: Side of the resulting images.

    Raises:
        UserError: If something is missing (what, and where to place it), or does not fit together.
    """
    base = Path(root).expanduser()
    base = base / "celeba" if (base / "celeba").is_dir() else base
    if not (isinstance(crop, int) and 1 <= crop <= _SIZE[0]):
        raise UserError(f"data.crop must be between 1 and {_SIZE[0]} pixels of the 178x218 images, got {crop}")
    if not (isinstance(image_size, int) and image_size >= 1):
        raise UserError(f"data.image_size must be a whole number of at least 1, got {image_size!r}")
    place = _images(base) if images is None else base / Path(images).expanduser()
    source = Source(place, "data.images")
    columns, rows, origin = _attribute_table(base, attributes)
    partition = _partition(base, len(source.names)) if split is None else {}
    names, pixels = decode(
        source, lambda image: _crop(image, crop, image_size), (3, image_size, image_size), {"celeba": crop},
        key="data.images",
    )  # fmt: skip
    plain = [name.rsplit("/", 1)[-1] for name in names]
    everything = Split(pixels, attributes=matched(rows, plain, origin) if columns else None)
    parts = _rows_of_partition(partition, plain, base) if split is None else divide(split, len(plain))
    train, validation, test = (None if part is None else everything[part] for part in parts)
    assert train is not None, "always there"
    assert test is not None, "always there"
    with source.open(source.names[0]) as image:
        suffix = "" if image.size == _SIZE else f"_{image.width}x{image.height}"
    return ImageData(f"celeba{suffix}", train, test, validation, columns)


def _images(base: Path) -> Path:
    for name in ("img_align_celeba", "img_align_celeba.zip"):
        if (base / name).exists():
            return base / name
    candidates = {}
    for path in sorted(base.glob("img_align_celeba*")):
        if path.suffix == ".zip" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                candidates[path] = len(archive.namelist())
    if not candidates:
        raise UserError(
            f"data=celeba needs img_align_celeba (a folder or .zip), list_eval_partition.txt and "
            f"list_attr_celeba.txt, of mmlab.ie.cuhk.edu.hk/projects/CelebA.html, in {base}: place them "
            f"there, or "
            "set data.root"
        )
    return max(candidates, key=lambda path: candidates[path])


def _crop(image: Image.Image, crop: int, image_size: int) -> Image.Image:
    scale = image.width / _SIZE[0]
    if abs(image.height - scale * _SIZE[1]) > 1:
        detail = f" ({image.width}x{image.height})"
        raise Refused("are not aligned CelebA images (178x218, or a scaled copy)", detail)
    left, top = (int((centre - crop / 2) * scale) for centre in _CENTRE)
    side = round(crop * scale)
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    return square.resize((image_size, image_size), Image.Resampling.BILINEAR)


def _lines(path: Path) -> list[str]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return content.decode().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable, or is truncated ({error})") from error


def _attribute_table(
    base: Path, attributes: str | Path | None
) -> tuple[tuple[str, ...], dict[str, list[bool]], Path]:
    """Names of the columns, and values by image; nothing if there is no file."""
    if attributes is not None:
        path = base / Path(attributes).expanduser()
        if not path.is_file():
            raise UserError(f"data.attributes: there is no file {path}")
    else:
        found = sorted(base.glob("list_attr_celeba*.txt*"))
        if not found:
            return (), {}, base
        path = found[0]
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
    path = next((p for p in sorted(base.glob("list_eval_partition.txt*")) if p.is_file()), None)
    if path is None:
        raise UserError(
            f"data=celeba needs the official list_eval_partition.txt in {base}, or "
            f"data.split=[TRAIN,TEST] of the "
            f"{images} images there are"
        )
    rows = [line.split() for line in _lines(path) if line.strip()]
    if any(len(row) != 2 or row[1] not in ("0", "1", "2") for row in rows):
        raise UserError(f"{path} must hold rows of an image's name and 0, 1 or 2")
    return {name: part for name, part in rows}


def _rows_of_partition(
    partition: dict[str, str], names: list[str], base: Path
) -> tuple[torch.Tensor | slice, torch.Tensor | slice | None, torch.Tensor | slice]:
    missing = [name for name in names if name not in partition]
    if missing:
        raise UserError(
            f"list_eval_partition.txt in {base} has no row for {len(missing)} of {len(names)} images, the "
            f"first: "
            f"{missing[0]}"
        )
    rows = [torch.tensor([i for i, name in enumerate(names) if partition[name] == part]) for part in "012"]
    if not (len(rows[0]) and len(rows[2])):
        raise UserError(
            f"list_eval_partition.txt in {base} leaves {len(rows[0])} training and {len(rows[2])} test "
            f"images of "
            f"the {len(names)} there are: set data.split=[TRAIN,TEST]"
        )
    train, validation, test = (_as_slice(part) for part in rows)
    return train, validation if len(rows[1]) else None, test


def _as_slice(rows: torch.Tensor) -> torch.Tensor | slice:
    """Consecutive rows as a slice, which keeps a mapped array mapped."""
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
