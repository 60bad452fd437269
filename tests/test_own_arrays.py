"""Arrays and torch data sets as people have them: layouts, ranges, labels, and what is said of them."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from pyro_lrp import data
from pyro_lrp.core.errors import UserError


def byte_images(count=20, channels=1):
    """Bytes from 0 to 255, (N, C, 6, 5)."""
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 6, 5)).astype(np.uint8)
    images[0, 0, 0, :2] = (0, 255)
    return images


RANGES = {  # how bytes are scaled, and the range that is said
    "unit": (lambda x: (x / 255).astype(np.float32), "[0, 1]"),
    "signed": (lambda x: x / 127.5 - 1, "[-1, 1]"),
    "bytes as floats": (lambda x: x.astype(np.float64), "[0, 255]"),
    "bytes as integers": (lambda x: x.astype(np.int64), "[0, 255]"),
    "sixteen bits": (lambda x: x.astype(np.uint16) * 257, "[0, 65535]"),
    "bytes": (lambda x: x, None),
}


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_every_usual_range_gives_the_same_bytes_and_is_said(kind, as_tensor):
    change, said = RANGES[kind]
    array = change(byte_images())
    copy = array.copy()
    given = torch.from_numpy(array) if as_tensor else array
    images = data.from_arrays(given, given[:3])
    assert np.array_equal(images.train.images.numpy(), byte_images())
    assert np.array_equal(array, copy)  # not changed
    images.train.batch(slice(0, 5)).x.zero_()
    assert np.array_equal(array, copy)
    assert [f"taken as {said}" in note for note in images.notes] == [True] * (said is not None)


def test_floats_of_a_split_are_rounded_and_the_callers_tensor_stays():
    x = torch.rand(20, 1, 8, 8)
    before = x.clone()
    split = data.Split(x)
    for _ in range(3):
        batch = split.batch(slice(0, 20)).x
    assert torch.equal(x, before)
    assert (batch - before).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("images", [torch.randn(4, 1, 8, 8), torch.full((4, 1, 8, 8), torch.nan)])
def test_other_floats_are_no_split(images):
    with pytest.raises(UserError, match=r"images that are floats must lie in \[0, 1\].* data.from_arrays"):
        data.Split(images)


LAYOUTS = {  # shape, and its axes as (N, C, H, W)
    "no channel": ((9, 6, 5), lambda x: x[:, None]),
    "channels first": ((9, 3, 6, 5), lambda x: x),
    "channels last": ((9, 6, 5, 3), lambda x: x.transpose(0, 3, 1, 2)),
    "grey last": ((9, 6, 5, 1), lambda x: x.transpose(0, 3, 1, 2)),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layouts_are_told_by_their_channels(kind):
    shape, expected = LAYOUTS[kind]
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    images = data.from_arrays(array, array)
    assert np.array_equal(images.train.images.numpy(), expected(array))


NO_IMAGES = {
    "a table": (np.zeros((9, 784)), "train is a table of shape (9, 784), and not images"),
    "video": (np.zeros((9, 4, 3, 8, 8)), "videos and volumes are no images"),
    "one image": (np.zeros((8, 8, 3), np.uint8), "must have the shape (N, H, W), (N, H, W, C) or (N, C, H, W)"),
    "two readings": (np.zeros((9, 3, 6, 3), np.uint8), "which may be (N, C, H, W) or (N, H, W, C)"),
    "channels": (np.zeros((9, 6, 5, 4), np.uint8), "must have 1 or 3 channels"),
    "nothing": (np.zeros((0, 8, 8), np.uint8), "holds no images"),
    "text": (np.full((9, 8, 8), "x"), "must be numbers"),
    "ragged": ([np.zeros((8, 8)), np.zeros((9, 9))], "must be one array, of images of the same size"),
    "NaN": (np.full((9, 8, 8), np.nan), "train has values that are NaN or infinite, the first in image 0"),
    "infinite": (np.full((9, 8, 8), np.inf), "NaN or infinite"),
    "standardized": (
        np.linspace(-3, 3, 576).reshape(9, 8, 8),
        "which fills neither [0, 1] nor [-1, 1] nor [0, 255]",
    ),
    "levels of 16": (np.linspace(0, 16, 576).reshape(9, 8, 8), "such as data.value_range=[0,16]"),
    "one only": (np.zeros((1, 8, 8), np.uint8), "there is one image; training and testing need at least two"),
}


def refusal(read, argument):
    """The sentence with which something is refused."""
    with pytest.raises(UserError) as caught:
        read(argument)
    return str(caught.value)


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_array_of_images_is_named(kind):
    array, message = NO_IMAGES[kind]
    assert message in refusal(data.from_arrays, array)


def test_read_only_arrays_are_copied():
    array = byte_images()
    array.flags.writeable = False
    assert np.array_equal(data.from_arrays(array, array[:2]).train.images.numpy(), array)


def test_a_range_can_be_given():
    levels = np.arange(17, dtype=np.float32).repeat(16).reshape(17, 4, 4)
    images = data.from_arrays(levels, levels, value_range=[0, 16])
    assert images.train.images[:, 0, 0, 0].tolist() == np.rint(np.arange(17) * 255 / 16).tolist()
    for wrong in ([0, 8], [1, 0], [0], 3):
        with pytest.raises(UserError, match="data.value_range"):
            data.from_arrays(levels, levels, value_range=wrong)


def test_bytes_that_are_zero_or_one_are_questioned():
    images = data.from_arrays(np.eye(8, dtype=np.uint8)[None].repeat(4, 0))
    assert "data.value_range=[0,1] takes 1 as white" in images.notes[0]


# --------------------------------------------------------------------- labels

LABELS = {  # six labels, the names of their classes, and the labels that result
    "numbers from 1": ([1, 2, 3, 1, 2, 3], ("1", "2", "3"), [0, 1, 2, 0, 1, 2]),
    "gaps": ([10, 2, 10, 2, 2, 2], ("2", "10"), [1, 0, 1, 0, 0, 0]),
    "words": (["b", "a", "b", "a", "b", "a"], ("a", "b"), [1, 0, 1, 0, 1, 0]),
    "bytes": (np.array([b"b", b"a"] * 3), ("a", "b"), [1, 0, 1, 0, 1, 0]),
    "whole floats": ([1.0, 0.0] * 3, ("0", "1"), [1, 0] * 3),
    "a column": ([[1], [0]] * 3, ("0", "1"), [1, 0] * 3),
    "one-hot": ([[0, 1, 0], [0, 0, 1]] * 3, ("1", "2"), [0, 1] * 3),
    "unlabelled": ([-1, 0, 1, -1, 0, 1], ("0", "1"), [-1, 0, 1, -1, 0, 1]),
    "true and false": ([True, False] * 3, ("0", "1"), [1, 0] * 3),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_number_the_classes_that_occur(kind):
    labels, classes, expected = LABELS[kind]
    images = data.from_arrays(byte_images(6), byte_images(6), labels=labels, test_labels=labels)
    assert images.classes == classes
    assert images.train.labels.tolist() == images.test.labels.tolist() == expected
    assert images.train.labels.dtype == torch.int64


WRONG_LABELS = {
    "fractions": (np.linspace(0.1, 2.9, 6), "labels must be whole numbers, and label 0 is 0.1"),
    "NaN": ([0, 1, np.nan, 0, 1, 0], "labels must be whole numbers, and label 2 is nan"),
    "below": ([0, 1, -2, 0, 1, 0], "labels: label 2 is -2; only -1, for no label, may be below 0"),
    "two-hot": ([[1, 1], [0, 1]] * 3, "labels: row 0 has 2 classes, and images have one: not one-hot"),
    "scores": ([[0.5, 0.5]] * 6, "its rows are not one-hot"),
    "too few": ([0, 1], "labels must hold a label for each of the 6 images, got the shape (2,)"),
    "one class": (
        ["cat"] * 6,
        "labels: every image has the class cat, and classes are two or more: leave them out",
    ),
    "objects": ([None] * 6, "labels must be whole numbers or text"),
}


@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_labels_that_are_no_classes_are_named(kind):
    labels, message = WRONG_LABELS[kind]
    with pytest.raises(UserError) as caught:
        data.from_arrays(byte_images(6), labels=labels)
    assert message in str(caught.value)


def test_unlabelled_images_belong_to_no_class():
    labels = torch.tensor([-1, 0, 1] * 4)
    images = data.from_arrays(byte_images(12), byte_images(12), labels=labels, test_labels=labels)
    assert "labels: 4 of 12 images have the label -1, that is, no class" in images.notes
    given, condition = data.with_context(images, "label")
    assert condition.names == ("0", "1")
    expected = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]] * 4
    assert given.train.context.tolist() == expected
    assert images.train.labelled().labels.tolist() == [0, 1] * 4


def test_all_unlabelled_is_without_labels():
    images = data.from_arrays(byte_images(6), labels=[-1] * 6)
    assert images.train.labels is None
    assert images.classes == ()


def test_labels_of_one_part_only_train_without_context():
    images = data.from_arrays(byte_images(6), byte_images(4), labels=[0, 1] * 3)
    assert images.test.labels is None
    with pytest.raises(
        UserError, match="context=label needs class labels, and the data set arrays has none for its test"
    ):
        data.with_context(images, "label")


def test_a_class_of_test_images_alone_is_said():
    images = data.from_arrays(byte_images(6), byte_images(6), labels=[0, 1] * 3, test_labels=[0, 1, 2] * 2)
    assert "no training image belongs to the classes 2" in images.notes


def test_a_runs_classes_keep_their_places_by_name():
    images = data.from_arrays(byte_images(6), byte_images(6), labels=["b", "c"] * 3, test_labels=["b"] * 6)
    condition = data.condition_of({"kind": "label", "names": ["a", "b", "c"]}, images)
    assert condition.of(images.train)[:2].tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    with pytest.raises(UserError, match="context: c is no class of this run, and the data set arrays has it"):
        data.condition_of({"kind": "label", "names": ["a", "b"]}, images)


def test_labels_beyond_the_names_of_the_classes_are_refused():
    split = data.Split(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    assert data.ImageData("own", split, split).classes == ("0", "1", "2")
    with pytest.raises(UserError, match="labels must number the 2 classes from 0, and one is 2"):
        data.ImageData("own", split, split, classes=("a", "b"))
    with pytest.raises(UserError, match=r"labels must be whole numbers of shape \(3,\), got torch.float32"):
        data.Split(split.images, torch.rand(3))


# --------------------------------------------------------------------- files


FILES = {  # arrays of a file, and the number of images in each part
    "images alone": ({"images": byte_images()}, (18, 2)),
    "images and labels": ({"images": byte_images(), "labels": np.arange(20) % 2}, (18, 2)),
    "one array": ({"arr_0": byte_images()}, (18, 2)),
    "both parts": ({"train_images": byte_images(), "test_images": byte_images(4)}, (20, 4)),
    "all parts": (
        {"train_images": byte_images(), "test_images": byte_images(4), "val_images": byte_images(3)},
        (20, 4, 3),
    ),
    "Keras": ({"x_train": byte_images(), "y_train": np.arange(20), "x_test": byte_images(4)}, (20, 4)),
}


@pytest.mark.parametrize("kind", FILES)
def test_npz_files_of_every_usual_form(tmp_path, kind):
    arrays, counts = FILES[kind]
    np.savez(tmp_path / "x.npz", **arrays)
    images = data.npz(tmp_path / "x.npz")
    assert tuple(len(split) for split in images.splits) == counts
    assert (images.train.labels is not None) == any(key in arrays for key in ("labels", "y_train"))


def test_npy_is_divided_as_the_same_array(tmp_path):
    np.save(tmp_path / "x.npy", byte_images())
    images = data.npz(tmp_path / "x.npy", split=[0.5, 0.5])
    same = data.from_arrays(byte_images(), split=[0.5, 0.5])
    assert images.test.fingerprint() == same.test.fingerprint()
    assert len(images.test) == 10


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_python_objects_are_named_and_not_unpickled(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    objects = np.array([np.zeros((8, 8)), np.zeros((9, 9))], dtype=object)
    (np.save if suffix == ".npy" else np.savez)(path, objects)
    with pytest.raises(UserError, match="holds Python objects, which are not unpickled"):
        data.npz(path)


HEADERS = {  # of a damaged .npy file
    "keys of two kinds": "{'descr': '|u1', 1: False, 'shape': (20, 1, 8, 8)}",
    "no end": "{'descr': '|u1', 'fortran_order': False, 'shape': (20, 1",
    "no mapping": "20",
    "nested": f"{'-' * 4000}1",
    "a long sum": "+".join("1" * 3000),
    "too many numbers": "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,)}",
    "a key alone": "{'descr': '|u1'}",
    "a negative shape": "{'descr': '|u1', 'fortran_order': False, 'shape': (-20, 8, 8)}",
}


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("kind", HEADERS)
def test_a_damaged_header_is_one_sentence(tmp_path, kind, suffix):
    header = HEADERS[kind].encode().ljust(8000) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(1280)
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
    with pytest.raises(UserError, match=r"x\.np[yz] is not a readable \.npz or \.npy file"):
        data.npz(path)


# --------------------------------------------------------------------- torch data sets


class Photos(Dataset):
    """Items as data sets of vision give them, without an end for a plain loop."""

    classes = ("cat", "dog", "cow")

    def __init__(self, form):
        self.form = form

    def __len__(self):
        return 20

    def __getitem__(self, number):
        pixels = byte_images()[number % 20, 0]
        label = number % 2
        if self.form == "pillow":
            return Image.fromarray(pixels), label
        if self.form == "dict":
            return {"image": torch.from_numpy(pixels)[None] / 255, "label": torch.tensor(label)}
        return torch.from_numpy(pixels)[None] / 255, label


@pytest.mark.parametrize("form", ["pillow", "tensor", "dict"])
def test_torch_data_sets_are_read_item_by_item(form):
    images = data.from_dataset(Photos(form), Photos(form))
    assert np.array_equal(images.train.images.numpy(), byte_images())
    assert images.train.labels.tolist() == [0, 1] * 10
    assert images.classes == ("cat", "dog")  # those that occur
    assert images.name == "Photos"


def test_subsets_and_tensors_are_torch_data_sets_too():
    images = data.from_dataset(Subset(Photos("tensor"), range(10)), split=[6, 4])
    assert images.classes == ("cat", "dog")
    assert (len(images.train), len(images.test)) == (6, 4)
    alike = data.from_dataset(Subset(Photos("tensor"), range(0, 20, 2)))
    assert (alike.train.labels, alike.classes) == (None, ())
    bare = data.from_dataset(TensorDataset(torch.from_numpy(byte_images())))
    assert bare.train.labels is None


WRONG_ITEMS = {
    "sizes": ([torch.rand(1, 8, 8), torch.rand(1, 9, 9)], "the images differ in shape, such as (1, 8, 8) and"),
    "no image": ([("a.png", 1)], "train: item 0 has a str for an image"),
    "boxes": ([(torch.rand(1, 8, 8), {"boxes": []})], "train: item 0 has a dict for a label, expected a class"),
    "keys": ([{"photo": 1}], "train: item 0 is a dict without an image; its keys are photo"),
    "normalized": ([torch.linspace(-2, 2, 64).reshape(1, 8, 8)] * 3, "data.value_range"),
    "nothing": ([], "train holds no images"),
}


@pytest.mark.parametrize("kind", WRONG_ITEMS)
def test_items_of_another_form_are_named(kind):
    items, message = WRONG_ITEMS[kind]
    assert message in refusal(data.from_dataset, items)
