"""The files of a folder or of a zip archive: which are images, and how they are opened."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.limits import LARGEST_TEXT

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Source", "is_hidden", "unreadable_errors"]

_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".avif", ".heic", ".bmp", ".gif", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
)  # fmt: skip
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # of files with other suffixes
_LOOKED_AT = 2000  # files that are no images, after which a folder may be refused
_HAYSTACK = 10  # how many such files there are then for each image
_LITTER = ("thumbs.db", "desktop.ini")
_UTF8 = 0x800  # flags of a file in a zip
_ENCRYPTED = 0x1


class Source:
    """The images of a folder (with its subfolders) or of a zip archive, in the order of their names.

    Links are followed, except to a folder that holds the link. Hidden files and files that are no images are
    passed over; a file with the suffix of an image counts as one, even if it is damaged.

    Args:
        path: A folder or a ``.zip``.
        key: Configuration key of the path, for errors.

    Attributes:
        names: Names of the images, relative to ``path``.
        others: Names of the files that were passed over.

    Raises:
        UserError: If there is no such folder or zip, or it holds no images.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.names: list[str] = []
        self.others: list[str] = []
        self._entries: dict[str, zipfile.ZipInfo] = {}
        self._local = threading.local()
        names = sorted(self._file_names())
        suffixed = sum(name.lower().endswith(_SUFFIXES) for name in names)
        for name in names:
            if is_hidden(name) or not self._is_image(name):
                self.others.append(name)
                self._refuse_haystack(suffixed, len(names))
            else:
                self.names.append(name)
        if not self.names:
            raise UserError(f"{key}: there are no images in {path}{self._example()}")

    def open(self, name: str) -> Image.Image:
        """Open one image, without decoding it."""
        from PIL import Image

        return Image.open(self._file(name))

    def read(self, name: str) -> bytes:
        """The contents of a file."""
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        entry = self._entries[name]
        if entry.file_size > LARGEST_TEXT:
            raise UserError(
                f"{self.key}: {printable(name)} in {self.path} unpacks to {entry.file_size:,} bytes"
            )
        try:
            return self._archive().read(entry)
        except unreadable_errors() as error:
            raise UserError(f"{self.key}: {printable(name)} in {self.path} is damaged") from error

    def stamp(self) -> list[Any]:
        """Paths, sizes and times of the images, to detect changes."""
        files = [self.path]
        if self.path.is_dir():
            files = [self.path / name for name in self.names]
        stamps = [_stamp(file) for file in files]
        return [str(self.path.resolve()), self.names, stamps]

    def notes(self, used: Sequence[str] = ()) -> list[str]:
        """A sentence that counts the files that were passed over.

        Args:
            used: Those that were read as something else.
        """
        others = [name for name in self.others if name not in used]
        if not others:
            return []
        example = printable(others[0])
        if len(others) == 1:
            return [f"{self.key}: a file that is no image is passed over, {example}"]
        return [f"{self.key}: {len(others)} files that are no images are passed over, such as {example}"]

    def _refuse_haystack(self, suffixed: int, count: int) -> None:
        """Refuse a folder such as /usr, in which few files are images, before each file is opened.

        Args:
            suffixed: The number of files with the suffix of an image.
            count: The number of files.
        """
        looked_at = len(self.others)
        few = suffixed < count / _HAYSTACK and len(self.names) < looked_at / _HAYSTACK
        if looked_at > _LOOKED_AT and few:
            raise UserError(
                f"{self.key}: {printable(str(self.path))} is no folder of images: {suffixed:,} of its "
                f"{count:,} files are called like one; name the folder that holds them"
            )

    def _example(self) -> str:
        if not self.others:
            return ""
        return f" (it holds {printable(self.others[0])})"

    def _file(self, name: str) -> Path | IO[bytes]:
        if self.path.is_dir():
            return self.path / name
        return self._archive().open(self._entries[name])

    def _archive(self) -> zipfile.ZipFile:
        # One archive per thread, since reading moves the position in the file.
        if not hasattr(self._local, "archive"):
            self._local.archive = zipfile.ZipFile(self.path)
        return self._local.archive

    def _file_names(self) -> list[str]:
        path = self.path
        if path.is_dir():
            return [file.relative_to(path).as_posix() for file in _walk(path)]
        if path.is_file() and zipfile.is_zipfile(path):
            try:
                with zipfile.ZipFile(path) as archive:
                    entries = archive.infolist()
            except unreadable_errors() as error:
                raise UserError(
                    f"{self.key}: {path} is no readable .zip: it is damaged or truncated"
                ) from error
            self._entries = {_entry_name(entry): entry for entry in entries if _is_file(entry)}
            if any(entry.flag_bits & _ENCRYPTED for entry in entries):
                raise UserError(f"{self.key}: {path} is encrypted: unpack it, and name the folder")
            return list(self._entries)
        if not path.exists():
            raise UserError(f"{self.key}: there is no folder or .zip {path}")
        if path.suffix.lower() == ".zip":
            raise UserError(f"{self.key}: {path} is no readable .zip: it is damaged or truncated")
        raise UserError(f"{self.key}: {path} is neither a folder nor a .zip of images")

    def _is_image(self, name: str) -> bool:
        from PIL import Image

        if name.lower().endswith(_SUFFIXES):
            return True
        Image.init()
        formats = [known for known in _FORMATS if known in Image.OPEN]
        try:
            with Image.open(self._file(name), formats=formats):
                return True
        except unreadable_errors():
            return False


def unreadable_errors() -> tuple[type[Exception], ...]:
    """What Pillow and zipfile raise for a file that is no image, or is damaged."""
    import struct
    import zlib

    from PIL import Image

    return (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
        NotImplementedError,
        Image.DecompressionBombError,
        MemoryError,
        OverflowError,
        RuntimeError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        AssertionError,
    )


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """The files of a folder and its subfolders, also behind links; a hidden folder counts as a file."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    for entry in os.scandir(folder):
        path = folder / entry.name
        if entry.is_dir() and not is_hidden(entry.name):
            yield from _walk(path, (*above, real))
        elif entry.is_dir() or entry.is_file() or _leads_nowhere(entry):
            yield path


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link to a file that does not exist: an image that cannot be read."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:  # a link that leads nowhere
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def is_hidden(name: str) -> bool:
    """Whether a name is of a hidden file, or of one that a system leaves beside images."""
    parts = name.split("/")
    return parts[-1].lower() in _LITTER or any(part.startswith((".", "__MACOSX")) for part in parts)


def _is_file(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a file: a damaged archive may hold one without a name."""
    return entry.filename != "" and not entry.is_dir()


def _entry_name(entry: zipfile.ZipInfo) -> str:
    """The name of a file in a zip: UTF-8, also where the zip does not say so, as those of macOS do not."""
    name = entry.filename.removeprefix("./")
    if entry.flag_bits & _UTF8:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name
