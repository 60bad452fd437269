"""Folders and zips as people have them: what is read, how it is divided, what is converted, what is said."""

import io
import os
import pathlib
import shutil
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_lrp import data
from pyro_lrp.core.errors import UserError
from pyro_lrp.data import layout, tables


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path / "cache"))


def picture(path, value):
    """A constant image, which is told by its value."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path)


def values(split):
    return sorted(split.images[:, 0, 0, 0].tolist())


def whole(images):
    return [value for split in images.splits for value in values(split)]


def classes_of(images):
    """The names of the classes by the value of the image."""
    named = {}
    for split in images.splits:
        for value, label in zip(split.images[:, 0, 0, 0].tolist(), split.labels.tolist(), strict=True):
            named[value] = images.classes[label]
    return named


# --------------------------------------------------------------------- layouts


def tree(*names):
    """Pictures of these names, whose values count from 1."""
    for value, name in enumerate(names, start=1):
        picture(f"d/{name}", value)


SPLITS = {  # names, and which values are in each part
    "train and test": (
        ["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"],
        [1, 2],
        None,
        [3, 4],
    ),
    "any case, with val": (["Train/1.png", "VAL/2.png", "Test/3.png"], [1], [2], [3]),
    "other words": (["training/1.png", "valid/2.png", "testing/3.png"], [1], [2], [3]),
    "below one folder": (["x/y/train/1.png", "x/y/validation/2.png", "x/y/test/3.png"], [1], [2], [3]),
    "no test": (["train/1.png", "val/2.png"], [1], None, [2]),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_subfolders_called_train_and_test_are_the_parts(kind):
    names, train, validation, test = SPLITS[kind]
    tree(*names)
    images = data.folder("d", image_size=8)
    assert values(images.train) == train
    assert values(images.test) == test
    assert (images.validation and values(images.validation)) == validation
    assert any("no subfolder test" in note for note in images.notes) == (kind == "no test")
    with pytest.raises(UserError, match="data.split has no effect: the subfolders of data.path say"):
        data.folder("d", image_size=8, split=[1, 1])


def test_classes_lie_below_the_parts_and_are_those_of_all_parts():
    tree("train/cat/1.png", "train/dog/2.png", "test/dog/3.png", "test/bird/4.png")
    images = data.folder("d", image_size=8)
    assert images.classes == ("bird", "cat", "dog")
    assert classes_of(images) == {1: "cat", 2: "dog", 3: "dog", 4: "bird"}


def test_a_test_folder_without_classes_has_no_labels():
    tree("train/cat/1.png", "train/dog/2.png", "test/3.png", "test/4.png")
    images = data.folder("d", image_size=8)
    assert images.train.labels.tolist() == [0, 1]
    assert images.test.labels is None
    with pytest.raises(
        UserError, match="context=label needs class labels, and the data set d has none for its test images"
    ):
        data.with_context(images, "label")


MEANT = {  # names, what is said
    "beside": (
        ["train/1.png", "test/2.png", "new/3.png"],
        "new/3.png lies beside the subfolders of training and",
    ),
    "loose": (["train/1.png", "test/2.png", "3.png"], "3.png lies beside the subfolders of training and test"),
    "no train": (["val/1.png", "test/2.png"], "there are subfolders test and val and none of training images"),
}


@pytest.mark.parametrize("kind", MEANT)
def test_parts_that_cannot_be_told_are_refused(kind):
    names, message = MEANT[kind]
    tree(*names)
    with pytest.raises(UserError, match=message):
        data.folder("d", image_size=8)


def test_pictures_of_trains_are_a_class():
    tree("bus/1.png", "train/2.png", "tram/3.png")
    assert data.folder("d", image_size=8).classes == ("bus", "train", "tram")


def test_images_beside_class_folders_are_said_to_prevent_classes():
    tree("cat/1.png", "dog/2.png", "3.png")
    images = data.folder("d", image_size=8)
    assert images.classes == ()
    assert images.notes == (
        "data.path: images lie beside the subfolders (1, such as 3.png), so these are not taken as classes",
    )


def test_classes_are_sorted_as_people_number_them_and_context_names_them():
    tree(*(f"{number}/{copy}.png" for number in range(12) for copy in "ab"))
    images = data.folder("d", image_size=8)
    assert images.classes == tuple(str(number) for number in range(12))
    assert all(classes_of(images)[value] == str((value - 1) // 2) for value in range(1, 25))
    _, condition = data.with_context(images, "label")
    assert condition.parse(2, 1).argmax() == 2
    assert condition.parse("10", 1).argmax() == 10


@pytest.mark.parametrize("packed", [False, True])
def test_names_of_classes_are_typed_as_they_are_read(packed):
    decomposed = unicodedata.normalize("NFD", "café")
    tree(f"{decomposed}/1.png", "007/2.png", "true/3.png", "Dog/4.png", "dog food/5.png")
    place = "d"
    if packed:
        place = shutil.make_archive("p", "zip", ".", "d")
    images = data.folder(place, image_size=8)
    assert images.classes == ("007", "café", "Dog", "dog food", "true")
    _, condition = data.with_context(images, "label")
    for typed, position in ((7, 0), ("café", 1), (decomposed, 1), ("dog", 2), ("dog food", 3), (True, 4)):
        assert condition.parse(typed, 1).argmax() == position
    with pytest.raises(UserError, match="context=cow is no class of this run; there are 007, café, Dog"):
        condition.parse("cow", 1)


def test_natural_order():
    names = ["a10", "a9", "b", "10", "9", "B2", "2 x"]
    assert sorted(names, key=tables.natural) == ["2 x", "9", "10", "a9", "a10", "B2", "b"]
    assert layout.layout_of(["x/a10/1.png", "x/a9/1.png"], "k").classes == ("a9", "a10")


# --------------------------------------------------------------------- zips, links, other files


@pytest.mark.parametrize("root", ["d", "d/.."])
def test_a_zip_is_read_as_its_folder(root):
    tree(*(f"{name}/{copy}.png" for name in ("cat", "dog") for copy in range(10)))
    rows = [f"{name}/{copy}.png,{copy % 2}" for name in ("cat", "dog") for copy in range(10)]
    with open("d/attributes.csv", "w") as file:
        file.write("file,odd\n" + "\n".join(rows))
    folder = data.folder("d", image_size=8)
    archive = shutil.make_archive("p", "zip", root, "." if root == "d" else "d")
    packed = data.folder(archive, image_size=8)
    assert packed.attributes == folder.attributes == ("odd",)
    for split, same in zip(packed.splits, folder.splits, strict=True):
        assert split.fingerprint() == same.fingerprint()


def test_a_zip_whose_names_are_utf_8_without_saying_so():
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    with zipfile.ZipFile("m.zip", "w") as archive:
        for name in ("Köln/1.png", "Würzburg/1.png"):
            archive.writestr(name, buffer.getvalue())
    packed = bytearray(pathlib.Path("m.zip").read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = packed.find(header)
        while place >= 0:
            packed[place + flags + 1] &= ~0x08
            place = packed.find(header, place + 1)
    pathlib.Path("m.zip").write_bytes(packed)
    assert data.folder("m.zip", image_size=8).classes == ("Köln", "Würzburg")


def test_links_are_followed_and_loops_are_harmless():
    tree("b/1.png", "b/2.png")
    picture("elsewhere/a/3.png", 3)
    picture("elsewhere/4.png", 4)
    os.symlink(os.path.abspath("elsewhere/a"), "d/a")
    os.symlink(os.path.abspath("elsewhere/4.png"), "d/b/4.png")
    os.symlink(os.path.abspath("d"), "d/b/all")
    images = data.folder("d", image_size=8)
    assert sorted(whole(images)) == [1, 2, 3, 4]
    assert classes_of(images) == {1: "b", 2: "b", 3: "a", 4: "b"}
    os.remove("elsewhere/4.png")
    with pytest.raises(UserError, match="1 of 4 files are no images that can be read, the first: b/4.png"):
        data.folder("d", image_size=8)


def test_other_files_are_passed_over_and_counted():
    tree("cat/1.png", "dog/2.png", "dog/3.png")
    for name in ("readme.txt", "cat/Thumbs.db", ".DS_Store", "__MACOSX/._1.png", "labels.h5", "no_suffix"):
        os.makedirs(os.path.dirname(f"d/{name}") or ".", exist_ok=True)
        with open(f"d/{name}", "wb") as file:
            file.write(b"\x89HDF\r\n\x1a\n" + bytes(64))
    os.rename("d/dog/3.png", "d/dog/picture")  # an image without a suffix
    images = data.folder("d", image_size=8)
    assert sorted(whole(images)) == [1, 2, 3]
    assert images.classes == ("cat", "dog")
    assert images.notes == ("data.path: 6 files that are no images are passed over, such as .DS_Store",)


# --------------------------------------------------------------------- division


def test_the_division_is_random_balanced_and_fixed():
    tree(*(f"{name}/{copy:02}.png" for name in ("cat", "dog") for copy in range(50)))
    images = data.folder("d", image_size=8, split=[0.6, 0.2, 0.2])
    for split, count in zip(images.splits, (30, 10, 10), strict=True):
        assert split.labels.bincount().tolist() == [count, count]
    assert values(images.test) != list(range(81, 101))
    again = data.folder("d", image_size=8, split=[0.6, 0.2, 0.2])
    assert again.test.fingerprint() == images.test.fingerprint()
    tenth = data.folder("d", image_size=8)
    assert tenth.test.labels.bincount().tolist() == [5, 5]


@pytest.mark.parametrize("count", [1, 7, 40, 199])
def test_a_limit_is_a_random_choice_with_each_class_in_proportion(count):
    labels = torch.tensor([0] * 150 + [1] * 50)
    images = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    own = data.ImageData("own", data.Split(images, labels), data.Split(images, labels))
    limited = own.limited(count).train
    assert len(limited) == count
    assert abs(float((limited.labels == 1).sum()) - count / 4) <= 1
    assert values(limited) != list(range(count))
    assert set(values(own.limited(count - count // 2).train)) <= set(values(limited))


# --------------------------------------------------------------------- modes


def saved(image, name="x.png", **options):
    os.makedirs("d", exist_ok=True)
    image.save(f"d/{name}", **options)


def ramp():
    return np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)


def read(**options):
    """The first image of the folder, which then has two."""
    name = sorted(os.listdir("d"))[0]
    shutil.copy(f"d/{name}", f"d/z{name}")
    images = data.folder("d", image_size=8, **options)
    return images.train.images[0].permute(1, 2, 0).squeeze(-1).numpy(), images.notes


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_scaled_from_their_full_range(name):
    saved(Image.fromarray(ramp()), name)
    pixels, notes = read()
    assert np.array_equal(pixels, np.rint(ramp() / 257))
    assert notes == ("data.path: 2 of 2 images are of more than 8 bits, and are scaled to 8",)


def test_floats_in_the_unit_interval_are_scaled_and_others_are_refused():
    saved(Image.fromarray((ramp() / 65535).astype(np.float32)), "x.tif")
    pixels, _ = read()
    assert np.array_equal(pixels, np.rint(ramp() / 257))
    saved(Image.fromarray(ramp().astype(np.float32)), "y.tif")
    with pytest.raises(UserError, match=r"1 of 3 images are floats outside of \[0, 1\].*; the first: y.tif"):
        data.folder("d", image_size=8)
    saved(Image.fromarray(ramp().astype(np.int32)), "y.tif")
    with pytest.raises(UserError, match="1 of 3 images are of 32 bits, whose range is not known"):
        data.folder("d", image_size=8)


def hidden_colours():
    """Noise under alpha 0 around a red square."""
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 4)).astype(np.uint8)
    pixels[..., 3] = 0
    pixels[2:6, 2:6] = (255, 0, 0, 255)
    return pixels


@pytest.mark.parametrize(
    ("background", "colour"), [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#102030", (16, 32, 48))]
)
def test_transparent_images_are_composed_on_a_background(background, colour):
    saved(Image.fromarray(hidden_colours()))
    pixels, notes = read(background=background)
    expected = np.full((8, 8, 3), colour, np.uint8)
    expected[2:6, 2:6] = (255, 0, 0)
    assert np.array_equal(pixels, expected)
    assert notes == ("data.path: 2 of 2 images are transparent, and are composed on data.background",)
    with pytest.raises(
        UserError, match="data.background must be a colour such as white, black or #808080, got"
    ):
        data.folder("d", background="nothing")


def grey_alpha():
    return Image.merge("LA", (Image.new("L", (8, 8), 9), Image.new("L", (8, 8), 0)))


def palette():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


CONVERTED = {  # an image, how it is saved, the pixel that results, and what is said
    "grey and alpha": (grey_alpha, {}, 255, "are transparent"),
    "a key of grey": (lambda: Image.new("L", (8, 8), 7), {"transparency": 7}, 255, "are transparent"),
    "palette": (palette, {}, (10, 20, 30), "have a palette"),
    "a key of a palette": (palette, {"transparency": 1}, (255, 255, 255), "are transparent"),
    "bits": (lambda: Image.new("1", (8, 8), 1), {}, 255, None),
    "grey": (lambda: Image.new("L", (8, 8), 7), {}, 7, None),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_modes_are_converted_with_a_note(kind):
    make, options, expected, said = CONVERTED[kind]
    saved(make(), **options)
    pixels, notes = read()
    assert pixels[3, 3].tolist() == (list(expected) if isinstance(expected, tuple) else expected)
    assert [said in note for note in notes] == [True] * (said is not None)


def test_cmyk_is_converted_with_a_note():
    saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "x.jpg", quality=100)
    pixels, notes = read()
    assert np.abs(pixels.astype(int) - (0, 255, 255)).max() <= 2
    assert notes == ("data.path: 2 of 2 images are CMYK, and are converted",)


def test_images_are_turned_as_their_exif_says():
    image = Image.new("RGB", (8, 8))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter, clockwise
    saved(image, exif=exif.tobytes())
    pixels, notes = read()
    assert np.argwhere(pixels[..., 0]).tolist() == [[0, 7]]
    assert notes == ("data.path: 2 of 2 images are turned upright, as their EXIF data say",)


def test_grey_among_colour_is_repeated_with_a_note():
    tree("1.png", "2.png")
    Image.new("L", (8, 8), 3).save("d/0.png")  # the first
    images = data.folder("d", image_size=8)
    assert images.image_shape == (3, 8, 8)
    assert images.notes[0].startswith("data.path: 1 of 3 images are grey among colour ones, and are repeated")
    assert data.folder("d", image_size=8, channels=1).notes == ()


def test_the_cache_tells_the_options_apart():
    saved(Image.fromarray(hidden_colours()))
    seen = {read(background=colour)[0][0, 0].tobytes() for colour in ("white", "black", "red")}
    assert len(seen) == 3


# --------------------------------------------------------------------- attributes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_attributes_in_other_encodings_and_with_other_accents(encoding):
    tree(f"{unicodedata.normalize('NFD', 'zoé')}.png", "ü.png")
    text = "file;schön\nzoé.png;1\nü.png;0\n"
    with open("d/attributes.csv", "w", encoding=encoding) as file:
        file.write(text)
    images = data.folder("d", image_size=8)
    assert images.attributes == ("schön",)
    flags = {}
    for split in images.splits:
        flags |= dict(zip(values(split), split.attributes[:, 0].tolist(), strict=True))
    assert flags == {1: True, 2: False}


def test_attributes_name_images_with_or_without_their_folders():
    names = ["pets/cat/1.png", "pets/cat/2.png", "pets/dog/2.png"]
    flags = {"1.png": [True], "cat/2.png": [False], "pets/dog/2.png": [True]}
    assert tables.matched(flags, names, "x").tolist() == [[True], [False], [True]]
    with pytest.raises(UserError, match="1 of 3 have no row, the first: pets/dog/2.png"):
        tables.matched({"1.png": [True], "cat/2.png": [False], "2.png": [True]}, names, "x")


# --------------------------------------------------------------------- commands


def test_a_users_own_image_is_read_as_those_of_the_folder():
    saved(Image.fromarray(hidden_colours()))
    pixels, _ = read(background="black")
    names, images, notes = data.pictures(["d/x.png"], (3, 8, 8), "black")
    assert names == ["x.png"]
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), pixels)
    assert notes == ["x.png is among images that are transparent, and are composed on data.background"]


def test_classes_of_a_folder_are_named_in_every_command(train):
    for value in range(40):
        picture(f"pets/{'cat' if value % 2 else 'dog'}/{value}.png", 6 * value)
    code, _, err = train(
        "data=folder", "data.path=pets", "data.image_size=8", "prior=conditional_flow", "context=label",
        "name=p", "epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "latent_dim=4",
        "data.flow={layers: 2, width: 8}", "trainer.evaluations=1",
    )  # fmt: skip
    assert code == 0, err
    places = ("run=runs/p/seed_0", "data.path=pets")
    code, _, err = train(*places, "n=4", "context=cat", command="sample")
    assert code == 0, err
    code, _, err = train(*places, "mode=edit", "attribute=dog", command="sample")
    assert code == 0, err
    code, _, err = train(*places, "n=4", "context=cow", command="sample")
    assert code == 1
    assert "context=cow is no class of this run; there are cat, dog" in err
