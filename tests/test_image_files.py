"""Folders, CelebA and CIFAR-10: what is read, what is refused, and that it is decoded once."""

import gzip
import importlib
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_lrp import data
from pyro_lrp.core.errors import UserError
from pyro_lrp.data import dataset, decoded

cifar = importlib.import_module("pyro_lrp.data.cifar10")  # the name in the package is the function


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path / "cache"))


def picture(size=(20, 30), mode="RGB", seed=0):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures of 20x30 in two subfolders."""
    folder = tmp_path / "my pictures"
    for index in range(12):
        path = folder / ("cat" if index % 2 else "dog") / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed=index).save(path)
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


def _square(file):
    """The centre square of a picture of 20x30, of 8x8."""
    return Image.open(file).crop((0, 5, 20, 25)).resize((8, 8), Image.Resampling.BILINEAR)


def test_a_folder_with_classes(pictures):
    images = data.folder(pictures, image_size=8)
    assert (images.name, images.image_shape) == ("my pictures", (3, 8, 8))
    assert (len(images.train), len(images.test)) == (11, 1)
    assert images.train.labels.tolist() == [0] * 6 + [1] * 5  # the test image is a dog
    expected = np.asarray(_square(pictures / "cat" / "01.png"))
    assert np.array_equal(images.train.images[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("packed", [False, True])
def test_crop_channels_split_and_a_zip(pictures, tmp_path, packed):
    place = pictures
    if packed:
        place = tmp_path / "pictures.zip"
        with zipfile.ZipFile(place, "w") as archive:
            nameless = zipfile.ZipInfo("x")
            nameless.filename = "\0x"  # of a damaged archive: it ends before it begins
            archive.writestr(nameless, b"")
            for file in sorted(pictures.rglob("*.png")):
                archive.write(file, file.relative_to(pictures))
            archive.writestr("__MACOSX/._x", b"x")
    images = data.folder(place, image_size=10, crop=10, channels=1, split=[8, 2, 2])
    assert images.image_shape == (1, 10, 10)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [8, 2, 2]
    assert images.classes == ("cat", "dog")
    files = [sorted((pictures / name).iterdir()) for name in images.classes]
    exact = [
        np.asarray(Image.open(file).convert("L"))[10:20, 5:15].tobytes() for group in files for file in group
    ]
    rows = []
    for part in (images.train, images.validation, images.test):
        rows += [exact.index(image.numpy().tobytes()) for image in part.images]
        assert [exact.index(image.numpy().tobytes()) // 6 for image in part.images] == part.labels.tolist()
        assert part.labels.sum() * 2 == len(part)  # each class in proportion
    assert sorted(rows) == list(range(12))


def test_images_are_decoded_once_and_again_when_a_file_changes(pictures, tmp_path, monkeypatch):
    decodes = []
    real = decoded._decode_all
    monkeypatch.setattr(decoded, "_decode_all", lambda *a, **k: (decodes.append(1), real(*a, **k)))
    first = data.folder(pictures, image_size=8)
    again = data.folder(pictures, image_size=8)
    assert torch.equal(first.train.images, again.train.images)
    assert len(decodes) == 1
    again.train.images[0] = 0  # a private copy of the mapped pages: the cache is not touched
    assert torch.equal(data.folder(pictures, image_size=8).train.images, first.train.images)
    data.folder(pictures, image_size=9)
    assert len(decodes) == 2
    picture(seed=99).save(pictures / "cat" / "01.png")
    changed = data.folder(pictures, image_size=8)
    assert len(decodes) == 3
    assert not torch.equal(first.train.images[0], changed.train.images[0])
    assert {path.suffix for path in (tmp_path / "cache" / "images").iterdir()} == {".npy", ".json"}


def test_files_that_are_no_images_are_named_or_left_out(pictures, tmp_path):
    (pictures / "cat" / "notes.txt").write_text("no image")
    (pictures / "dog" / "zz.png").write_bytes((pictures / "dog" / "00.png").read_bytes()[:-400])
    message = "data.path: 1 of 13 files are no images that can be read, the first: dog/zz.png .data.skip_unr"
    with pytest.raises(UserError, match=message):
        data.folder(pictures, image_size=8)
    assert list((tmp_path / "cache" / "images").iterdir()) == []
    images = data.folder(pictures, image_size=8, skip_unreadable=True)
    assert len(images.train) + len(images.test) == 12
    assert images.notes == (
        "data.path: 2 files that are no images are passed over, such as .DS_Store",
        "data.path: images that cannot be read are left out (1, the first dog/zz.png)",
    )
    assert images.notes == data.folder(pictures, 8, skip_unreadable=True).notes  # now from the cache
    assert torch.equal(images.train.images, data.folder(pictures, 8, skip_unreadable=True).train.images)


def test_attributes_beside_the_images(pictures):
    names = sorted(f"{file.parent.name}/{file.name}" for file in pictures.rglob("*.png"))
    rows = [f"{name},{i % 2},{-1 if i % 3 else 1}" for i, name in enumerate(names)]
    (pictures / "attributes.csv").write_text("file,odd,third\n" + "\n".join(rows[::-1]))
    images = data.folder(pictures, image_size=8, split=[10, 2])
    assert images.attributes == ("odd", "third")
    assert images.train.attributes.dtype == torch.bool
    tested = {image.numpy().tobytes() for image in images.test.images}
    expected = []
    for i, name in enumerate(names):
        if np.asarray(_square(pictures / name)).transpose(2, 0, 1).tobytes() not in tested:
            expected.append([i % 2 == 1, i % 3 == 0])
    assert images.train.attributes.tolist() == expected
    assert images.train[torch.tensor([1, 0])].attributes.tolist() == expected[1::-1]
    (pictures / "attributes.csv").write_text("file,odd,third\n" + "\n".join(rows[2:]))
    with pytest.raises(UserError, match="do not match the images: 2 of 12 have no row, the first: cat/01.png"):
        data.folder(pictures, image_size=8)
    (pictures / "attributes.csv").write_text("file,odd\ncat/01.png,2")
    with pytest.raises(UserError, match="attributes.csv, row 2: expected a file's name and 1 values, 0 or 1"):
        data.folder(pictures, image_size=8)


def one_image(folder):
    for file in sorted(folder.rglob("*.png"))[1:]:
        file.unlink()


def no_image(folder):
    for file in folder.rglob("*.png"):
        file.unlink()


SPOILED = {  # what is done to the folder, options, what is said
    "one image": (one_image, {}, "has one image; training and testing need at least two"),
    "empty": (no_image, {}, "there are no images in"),
    "smaller than the crop": (
        lambda folder: picture((9, 30)).save(folder / "dog" / "zz.png"),
        {"crop": 16},
        r"1 of 13 images are smaller than data.crop=16; the first: dog/zz.png \(9x30\)",
    ),
    "too many": (
        lambda folder: None,
        {"split": [12, 1]},
        r"data.split must be .*12 images there are, got \[12",
    ),
    "bad channels": (lambda folder: None, {"channels": 2}, "data.channels must be 1, 3 or null, got 2"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_what_a_folder_must_not_be(pictures, kind):
    spoil, options, message = SPOILED[kind]
    spoil(pictures)
    with pytest.raises(UserError, match=message):
        data.folder(pictures, image_size=8, **options)


def test_places_that_are_no_folder(tmp_path):
    with pytest.raises(UserError, match="data=folder needs data.path=DIR"):
        data.folder(None)
    with pytest.raises(UserError, match="data.path: there is no folder or .zip"):
        data.folder(tmp_path / "none")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"a.zip is no readable .zip: it is damaged or truncated"):
        data.folder(tmp_path / "a.zip")
    for name in ("table.csv", "film.mp4", "photo.png", "images.rar"):
        (tmp_path / name).write_bytes(b"1,2")
        with pytest.raises(UserError, match=f"{name} is neither a folder nor a .zip of images"):
            data.folder(tmp_path / name)


COLUMNS = ("Bald", "Smiling", "Young")


@pytest.fixture
def celeba(tmp_path):
    """Eight aligned "faces" of 178x218 whose pixels tell their place, with all three official files."""
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    rows, columns = np.mgrid[:218, :178]
    for index in range(1, 9):
        pixels = np.stack([rows, columns, np.full_like(rows, 10 * index)], -1).astype(np.uint8)
        path = root / "img_align_celeba" / f"{index:06}.jpg"
        Image.fromarray(pixels).save(path, quality=100, subsampling=0)
    values = [" ".join("1" if (i >> bit) & 1 else "-1" for bit in range(3)) for i in range(1, 9)]
    lines = ["8", " ".join(COLUMNS), *(f"{i:06}.jpg {row}" for i, row in enumerate(values, start=1))]
    (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    partition = [f"{i:06}.jpg {0 if i <= 5 else 1 if i == 6 else 2}" for i in range(1, 9)]
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return root


def test_celeba_by_its_official_files(celeba):
    faces = data.celeba(celeba.parent)
    assert (faces.name, faces.image_shape, faces.attributes) == ("celeba", (3, 64, 64), COLUMNS)
    assert [len(part) for part in (faces.train, faces.validation, faces.test)] == [5, 1, 2]
    assert faces.train.attributes[2].tolist() == [True, True, False]  # face number 3
    assert torch.equal(data.celeba(celeba).train.images, faces.train.images)  # the folder itself as root
    kept, held = faces.hold_out(0.0)
    assert (len(kept), len(held)) == (5, 1)
    assert kept.images.untyped_storage().data_ptr() == faces.test.images.untyped_storage().data_ptr()  # mapped


@pytest.mark.parametrize(("crop", "top", "left"), [(128, 45, 25), (140, 39, 19)])
def test_the_crop_is_the_literatures(celeba, crop, top, left):
    """Spec 3: rows 45..172 and columns 25..152; the 140 crop is rows 39..178 and columns 19..158."""
    image = data.celeba(celeba, crop=crop, image_size=crop).train.images[0].float()
    rows, columns = torch.meshgrid(torch.arange(crop), torch.arange(crop), indexing="ij")
    assert (image[0] - (rows + top)).abs().max() <= 3  # JPEG
    assert (image[1] - (columns + left)).abs().max() <= 3


def test_celeba_at_half_size_from_a_zip_with_gzipped_attributes(celeba, tmp_path):
    root = tmp_path / "half" / "celeba"
    root.mkdir(parents=True)
    for name, number in (("img_align_celeba_89x109.zip", 8), ("img_align_celeba_few.zip", 2)):
        with zipfile.ZipFile(root / name, "w") as archive:
            for file in sorted((celeba / "img_align_celeba").iterdir())[:number]:
                buffer = io.BytesIO()
                Image.open(file).resize((89, 109), Image.Resampling.BILINEAR).save(buffer, "PNG")
                archive.writestr(f"img_align_celeba/{file.name}", buffer.getvalue())
    attributes = (celeba / "list_attr_celeba.txt").read_bytes()
    (root / "list_attr_celeba_first.txt.gz").write_bytes(gzip.compress(attributes))
    half = data.celeba(root.parent, split=[0.75, 0.25])  # of the file with the most images
    assert (half.name, half.attributes) == ("celeba_89x109", COLUMNS)
    assert [len(half.train), len(half.test)] == [6, 2]
    (root / PARTITION).write_text((celeba / PARTITION).read_text())
    half = data.celeba(root.parent)
    assert len(data.celeba(root, images="img_align_celeba_few.zip", split=[1, 1]).train) == 1
    difference = (half.train.images[:5].float() - data.celeba(celeba).train.images.float()).abs()
    assert difference.max() <= 4  # the same region of the face: half a row of a slope, JPEG, rounding


def test_celeba_as_kaggle_packs_it(celeba):
    """The images in a folder of a folder, tables with commas, the partition's in a folder of its name."""
    expected = data.celeba(celeba)
    inner = celeba / "img_align_celeba" / "img_align_celeba"
    (celeba / "img_align_celeba").rename(celeba / "faces")
    inner.parent.mkdir()
    (celeba / "faces").rename(inner)
    lines = (celeba / ATTRIBUTES).read_text().splitlines()[1:]
    rows = [",".join(["image_id", *lines[0].split()]), *(",".join(line.split()) for line in lines[1:])]
    (celeba / "list_attr_celeba.csv").write_text("\n".join(rows))
    parts = [",".join(line.split()) for line in (celeba / PARTITION).read_text().splitlines()]
    (celeba / "list_eval_partition.csv").mkdir()
    (celeba / "list_eval_partition.csv" / "list_eval_partition.csv").write_text(
        "\n".join(["image_id,partition", *parts])
    )
    for name in (ATTRIBUTES, PARTITION):
        (celeba / name).unlink()
    (celeba / "list_bbox_celeba.csv").write_text("image_id,x_1\n")
    faces = data.celeba(celeba)
    assert faces.attributes == COLUMNS
    for split, same in zip(faces.splits, expected.splits, strict=True):
        assert split.fingerprint() == same.fingerprint()


def test_a_damaged_face_is_named_without_an_option_that_does_not_exist(celeba):
    (celeba / "img_align_celeba" / "000003.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 8 files are no images that can be read, the first: 000003.jpg$"):
        data.celeba(celeba)


def rewrite(name, change):
    def spoil(root):
        path = root / name
        path.write_text(change(path.read_text()))

    return spoil


ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
SPOILED_CELEBA = {
    "no partition": (
        lambda root: (root / PARTITION).unlink(),
        {},
        r"needs the official list_eval_partition.txt, or Kaggle's .csv, in .*, or data.split=\[TRAIN,TEST\] of",
    ),
    "partition lacks images": (
        rewrite(PARTITION, lambda text: "000001.jpg 0\n000002.jpg 2\n"),
        {},
        "has no row for 6 of 8 images, the first: 000003.jpg",
    ),
    "partition without tests": (
        rewrite(PARTITION, lambda text: text.replace(" 2", " 0")),
        {},
        "leaves 7 training and 0 test images of the 8 there are: set data.split",
    ),
    "partition of something": (rewrite(PARTITION, lambda text: "x\n"), {}, "must hold rows of an image's name"),
    "attributes lack an image": (
        rewrite(ATTRIBUTES, lambda text: "\n".join(text.splitlines()[:-1])),
        {},
        "its rows do not match the images: 1 of 8 have no row, the first: 000008.jpg",
    ),
    "a short row": (
        rewrite(ATTRIBUTES, lambda text: text + "000009.jpg 1 -1\n"),
        {},
        "line 11: expected an image's name and 3 values, -1 or 1",
    ),
    "no attributes": (lambda root: None, {"attributes": "none.txt"}, "data.attributes: there is no file"),
    "no images": (
        lambda root: (root / "img_align_celeba").rename(root / "faces"),
        {},
        "data=celeba needs img_align_celeba",
    ),
    "not aligned": (
        lambda root: picture((60, 60)).save(root / "img_align_celeba" / "000004.jpg"),
        {},
        r"1 of 8 images are not aligned CelebA images .*; the first: 000004.jpg \(60x60\)",
    ),
    "crop": (lambda root: None, {"crop": 200}, "data.crop must be between 1 and 178 pixels"),
}


@pytest.mark.parametrize("kind", SPOILED_CELEBA)
def test_what_does_not_fit_together_is_said(celeba, kind):
    spoil, options, message = SPOILED_CELEBA[kind]
    spoil(celeba)
    with pytest.raises(UserError, match=message):
        data.celeba(celeba, **options)


def test_the_real_faces(real_data, tmp_path):
    """The first of them: to decode all takes long."""
    pack = real_data / "celeba" / "img_align_celeba_89x109_first10000.zip"
    if not pack.is_file():
        pytest.skip("needs CelebA's sample in ../shared/data/celeba")
    for path in pack.parent.iterdir():
        if path != pack:
            (tmp_path / path.name).symlink_to(path)
    with zipfile.ZipFile(pack) as whole, zipfile.ZipFile(tmp_path / pack.name, "w") as part:
        for name in sorted(whole.namelist())[:2000]:
            part.writestr(name, whole.read(name))
    faces = data.celeba(tmp_path, split=[1800, 200])
    assert (faces.name, len(faces.train), len(faces.test)) == ("celeba_89x109", 1800, 200)
    assert len(faces.attributes) == 40
    share = dict(zip(faces.attributes, faces.train.attributes.float().mean(0).tolist(), strict=True))
    assert share["Male"] == pytest.approx(0.417, abs=0.02)  # of all of CelebA
    assert share["Bald"] == pytest.approx(0.022, abs=0.01)


def test_cifar10s_variants(real_data, tmp_path):
    """Of the compressed images the first ones: to decode all takes long."""
    folder = real_data / "cifar10"
    if not folder.is_dir():
        pytest.skip("needs CIFAR-10 in ../shared/data/cifar10")
    (tmp_path / "cifar10").mkdir()
    with np.load(folder / "cifar10_jpeg_full.npz") as whole:
        assert (len(whole["train_labels"]), len(whole["test_labels"])) == (50_000, 10_000)
        few = {}
        for part, n in (("train", 500), ("test", 1017)):
            offsets = whole[f"{part}_offsets"][: n + 1]
            few[f"{part}_jpeg"] = whole[f"{part}_jpeg"][: offsets[-1]]
            few[f"{part}_offsets"] = offsets
            few[f"{part}_labels"] = whole[f"{part}_labels"][:n]
    np.savez(tmp_path / "cifar10" / "cifar10_jpeg_full.npz", **few)
    exact = data.cifar10(real_data, "lossless_subset")
    jpeg = data.cifar10(tmp_path, "jpeg")
    assert (exact.name, len(exact.train), len(exact.test)) == ("cifar10_lossless_subset", 8068, 1017)
    assert (jpeg.name, len(jpeg.train), len(jpeg.test)) == ("cifar10_jpeg", 500, 1017)
    assert torch.equal(exact.test.labels, jpeg.test.labels)
    error = (exact.test.images.double() - jpeg.test.images.double()).square().mean().sqrt()
    assert 7.0 < error < 9.0  # quality 75, 4:2:0


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            "official",
            r"needs cifar-10-python.tar.gz, unpacked as cifar-10-batches-py, in .*there is no network",
        ),
        ("jpeg", "data=cifar10 needs cifar-10-python.tar.gz"),
        ("lossless_subset", "data.variant=lossless_subset needs cifar10_lossless_subset.npz in"),
        ("raw", "data.variant must be one of official, lossless_subset, jpeg, got 'raw'"),
    ],
)
def test_missing_cifar10_is_named(tmp_path, monkeypatch, variant, message):
    monkeypatch.setattr(cifar, "online", lambda url: False)
    with pytest.raises(UserError, match=message):
        data.cifar10(tmp_path, variant)


def test_a_damaged_cifar10_is_named(tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar10_lossless_subset.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="cifar10_lossless_subset.npz is not readable, or is truncated"):
        data.cifar10(tmp_path, "lossless_subset")


def test_jpeg_can_be_made_of_the_official_images(tmp_path, monkeypatch):
    smooth = (np.mgrid[:32, :32].sum(0) * 4).astype(np.uint8)[None, :, :, None].repeat(3, 3)
    monkeypatch.setattr(cifar, "_official", lambda base, train: cifar._split(smooth, [3]))
    images = data.cifar10(tmp_path, "jpeg")
    difference = (images.train.images[0].float() - torch.from_numpy(smooth[0]).permute(2, 0, 1)).abs()
    assert 0 < difference.max() < 12


def test_a_large_split_stays_where_it_is_and_sends_its_batches(monkeypatch):
    split = data.fake(8).train
    monkeypatch.setattr(dataset, "_RESIDENT", 100)
    sent = split.to(torch.device("meta"))
    assert sent.images.device.type == "cpu"
    assert sent[:4].batch(slice(0, 2)).x.device.type == "meta"
    assert split.to(torch.device("cpu")).batch(torch.tensor([1])).x.shape == (1, 1, 28, 28)
