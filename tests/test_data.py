import gzip
import re
import time

import numpy as np
import pytest
import torch

from pyro_lrp import data
from pyro_lrp.core import downloads
from pyro_lrp.core.errors import UserError


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def tiny_mnist(tmp_path):
    """The layout of torchvision, unpacked, with 30 + 10 images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, n in (("train", 30), ("t10k", 10)):
        arrays[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28))
        arrays[f"{prefix}-labels-idx1-ubyte"] = rng.integers(0, 10, n)
    for name, array in arrays.items():
        (raw / name).write_bytes(idx(array))
    return tmp_path, arrays


def test_mnist_reads_unpacked_files(tiny_mnist):
    root, arrays = tiny_mnist
    mnist = data.mnist(root)
    assert mnist.image_shape == (1, 28, 28)
    assert np.array_equal(mnist.train.images[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert np.array_equal(mnist.test.labels.numpy(), arrays["t10k-labels-idx1-ubyte"])


@pytest.mark.parametrize("damage", ["truncated", "not idx", "empty"])
def test_damaged_idx_is_named(tiny_mnist, damage):
    root, _ = tiny_mnist
    path = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes({"truncated": path.read_bytes()[:-5], "not idx": b"<html>" * 9, "empty": b""}[damage])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is truncated or is not an idx file"):
        data.mnist(root)


def test_a_gz_with_a_wrong_checksum_is_named(tiny_mnist):
    root, arrays = tiny_mnist
    path = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(arrays["t10k-labels-idx1-ubyte"])))
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte.gz is truncated or changed \(wrong MD5\)"):
        data.mnist(root)


def test_missing_data_say_what_to_place_where_and_give_up_in_time(tmp_path, monkeypatch):
    def slow(*arguments, **options):
        time.sleep(1)
        raise OSError("no answer")

    monkeypatch.setattr(downloads, "OFFLINE_AFTER", 0.2)
    monkeypatch.setattr(downloads.urllib.request, "urlopen", slow)
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"data=fashion_mnist needs train-images-idx3-ubyte.gz.*FashionMNIST/raw"
    ):
        data.fashion_mnist(tmp_path)
    assert time.monotonic() - start < 0.9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_official_files_from_a_read_only_root(real_data, name):
    images = getattr(data, name)(real_data)
    assert (len(images.train), len(images.test)) == (60_000, 10_000)
    assert images.train.labels.bincount().min() > 5000
    if name == "mnist":
        assert images.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
        assert images.train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.parametrize("shape", [(6, 5, 7), (6, 5, 7, 3), (6, 3, 5, 7), (6, 5, 7, 1)])
def test_npz_accepts_the_usual_layouts(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.savez(tmp_path / "a b=c.npz", train_images=array, test_images=array[:2], train_labels=np.arange(6))
    images = data.npz(tmp_path / "a b=c.npz")
    channels = 3 if 3 in shape else 1
    assert images.image_shape == (channels, 5, 7)
    expected = (
        array.reshape(6, 3, 5, 7) if shape[1] == 3 else array.reshape(6, 5, 7, channels).transpose(0, 3, 1, 2)
    )
    assert np.array_equal(images.train.images.numpy(), expected)
    assert images.test.labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": np.zeros((2, 5, 5), np.uint8)}, "must hold train_images and test_images, or images"),
        ({"images": np.zeros((2, 5, 5), complex)}, "images must be numbers, got complex128"),
        ({"images": np.zeros((2, 5, 5, 5), np.uint8)}, "1 or 3 channels"),
        (
            {"images": np.zeros((2, 5, 5), np.uint8), "labels": np.zeros(3)},
            "labels must hold a label for each of the 2 images",
        ),
    ],
)
def test_npz_mistakes_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        data.npz(tmp_path / "x.npz")


def test_npz_with_test_images_of_another_shape(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        train_images=np.zeros((2, 8, 8), np.uint8),
        test_images=np.zeros((2, 9, 9), np.uint8),
    )
    with pytest.raises(UserError, match=r"x.npz: the images must have one shape .*\(1, 9, 9\) of test_images"):
        data.npz(tmp_path / "x.npz")


def test_npz_that_is_missing_truncated_or_not_given(tmp_path):
    with pytest.raises(UserError, match="data.path=FILE"):
        data.npz(None)
    with pytest.raises(UserError, match="there is no file"):
        data.npz(tmp_path / "none.npz")
    np.savez(tmp_path / "x.npz", train_images=np.zeros((200, 9, 9), np.uint8))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:500])
    with pytest.raises(UserError, match="not a readable .npz or .npy file, or is truncated"):
        data.npz(tmp_path / "x.npz")


def test_batches_depend_on_seed_and_step_alone():
    source = torch.arange(23)
    forward = [data.Batches(source, 5, seed=3).at(step) for step in range(9)]
    backward = data.Batches(source, 5, seed=3)
    for step in reversed(range(9)):
        assert torch.equal(backward.at(step), forward[step])
    epoch = torch.cat(forward[:4])
    assert len(epoch.unique()) == 20
    assert not torch.equal(epoch, torch.cat(forward[4:8]))
    assert not torch.equal(data.Batches(source, 5, seed=4).at(0), forward[0])
    assert not torch.equal(backward.at(0, stream=1), forward[0])


@pytest.mark.parametrize("size", [0, 24])
def test_bad_batch_sizes_are_named(size):
    with pytest.raises(
        UserError, match=rf"batch_size must be between 1 and the 23 images there are, got {size}"
    ):
        data.Batches(torch.arange(23), size)


def test_images_become_floats_in_the_unit_interval():
    batch = data.digits().train.batch(torch.tensor([3, 5]))
    assert batch.x.dtype == torch.float32
    assert batch.x.max() == 1.0
    assert batch.label.shape == (2,)


def test_validation_images_are_held_out_whatever_the_seed():
    digits = data.digits()
    train, held_out = digits.hold_out(0.1)
    assert len(train) + len(held_out) == len(digits.train)
    assert len(held_out) == 144
    both = torch.cat([train.images, held_out.images]).flatten(1).unique(dim=0)
    assert len(both) == len(digits.train.images.flatten(1).unique(dim=0))
    assert len(digits.hold_out(0.0)[1]) == 0


def test_limit():
    assert len(data.digits().limited(7).train) == 7
    with pytest.raises(UserError, match="data.limit must be between 1 and 1437, got 2000"):
        data.digits().limited(2000)


def test_labels_become_one_hot_contexts_in_every_split():
    given, meaning = data.with_context(data.digits(), "label")
    assert (meaning.kind, len(meaning.names)) == ("label", 10)
    for split in (given.train, given.test, *given.hold_out(0.1)):
        assert torch.equal(split.context.argmax(1), split.labels)
        assert torch.equal(split.context.sum(1), torch.ones(len(split)))
    batch = given.train.batch(torch.tensor([3, 1]))
    assert torch.equal(batch.context, given.train.context[[3, 1]])
    limited = given.limited(5).train
    assert torch.equal(limited.context.argmax(1), limited.labels)


def attributed():
    flags = torch.tensor([[True, False, True], [False, False, True]])
    split = data.Split(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), attributes=flags)
    return data.ImageData("faces", split, split, attributes=("Male", "Bald", "Smiling"))


def test_attributes_become_signs_by_name():
    given, meaning = data.with_context(attributed(), ["Smiling", "Male"])
    assert given.train.context.tolist() == [[1.0, 1.0], [1.0, -1.0]]
    assert meaning == data.Attributes(("Smiling", "Male"))
    assert meaning.parse(["Male"], 2).tolist() == [[-1.0, 1.0]] * 2
    assert meaning.parse([], 1).tolist() == [[-1.0, -1.0]]
    everything, _ = data.with_context(attributed(), "attributes")
    assert everything.train.context.shape == (2, 3)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("label", "context=label needs class labels, and the data set faces has none"),
        (["Hat"], "Hat is no attribute of the data set faces; there are Male, Bald, Smiling"),
        ([], "names no attribute"),
        (
            "colour",
            "context must be one of label, attributes, pose, a list of attributes, or null, got 'colour'",
        ),
        (3, "context must be one of label, attributes, pose"),
    ],
)
def test_contexts_that_cannot_be_are_named(wanted, message):
    with pytest.raises(UserError, match=re.escape(message)):
        data.with_context(attributed(), wanted)


def test_contexts_asked_for_in_samples_are_checked():
    labels = data.Labels(("0", "1"))
    assert labels.parse(1, 3).argmax(1).tolist() == [1, 1, 1]
    assert labels.parse(None, 3).argmax(1).tolist() == [0, 1, 0]
    for wanted, message in (
        (2, "context=2 is no class of this run; there are 0, 1"),
        ([], "must name a class"),
    ):
        with pytest.raises(UserError, match=message):
            labels.parse(wanted, 3)
    with pytest.raises(UserError, match="must say which attributes"):
        data.Attributes(("Male",)).parse(None, 1)


@pytest.mark.parametrize(
    ("condition", "typed"),
    [
        (data.Labels(("cat", "owl 2")), "context=cat"),
        (data.Labels(("owl 2", "cat")), "context='owl 2'"),
        (data.Labels(("0", "1")), "context=0"),
        (data.Attributes(("Smiling", "Male")), "context=[Smiling]"),
    ],
)
def test_the_example_of_a_condition_is_understood_by_it(condition, typed):
    """What a message or the closing words of a run tell the user to type."""
    (wanted,) = condition.example().values()
    context = condition.parse(wanted, 2)
    assert context.argmax(1).tolist() == [0, 0]
    with pytest.raises(UserError, match=re.escape(f"such as {typed}: this prior is conditional")):
        condition.of_files(["a.png"], None, 1)


OWN = {  # share, whether the data set has validation images; how many are trained on, and held out
    "a share": (0.2, False, 80, 20),
    "a share beside its own": (0.2, True, 80, 20),
    "none": (0, False, 100, 0),
    "its own": (0, True, 100, 30),
    "null": (None, False, 90, 10),
    "null, with its own": (None, True, 100, 30),
}


@pytest.mark.parametrize("kind", OWN)
def test_a_data_sets_own_validation_images_come_first(kind):
    share, has_own, trained_on, held_out = OWN[kind]
    train = data.Split(torch.zeros(100, 1, 2, 2, dtype=torch.uint8))
    own = None
    if has_own:
        own = data.Split(torch.ones(30, 1, 2, 2, dtype=torch.uint8))
    images = data.ImageData("x", train, train[:5], own)
    assert tuple(map(len, images.hold_out(share))) == (trained_on, held_out)
    assert images.trained_on(share) == trained_on
