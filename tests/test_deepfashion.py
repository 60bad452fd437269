"""DeepFashion: its kinds of index agree, nothing in a pickle is run, and what does not fit is refused."""

import gzip
import itertools
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.deepfashion import deepfashion
from pyro_lrp.people import keypoints, vunet_index
from pyro_lrp.people.poses import JOINTS

COCO = keypoints._COCO
RENAMED = {joint: f"{joint[0]}_{joint[1:]}" for joint in JOINTS} | {"cnose": "nose"}
COLUMNS = [COCO.index(RENAMED[joint]) for joint in JOINTS]  # JOINTS among the 18 keypoints
GARMENTS = [  # of which the Dresses' 24 is tested on
    ("MENShirts", 1), ("WOMENDresses", 2), ("WOMENDresses", 24), ("WOMENSkirts", 24), ("WOMENSkirts", 12),
]  # fmt: skip
NAMES = [
    f"fashion{kind}id{number:08}01_{view}.jpg" for kind, number in GARMENTS for view in ("1front", "3back")
]
TRAIN = [True] * 8 + [False] * 2


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def base(tmp_path):
    """Ten grey pictures of 32x32, each of its own grey, in deepfashion/img."""
    return pictures(tmp_path / "deepfashion")


def pictures(base, size=(32, 32)):
    (base / "img").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.new("RGB", size, (20 * number,) * 3).save(base / "img" / name.replace(".jpg", ".png"))
    return base


def pixels():
    """Keypoints (y, x) of a 256x256 frame; of each person one, though no shoulder or hip, is missing."""
    random = np.random.default_rng(0)
    points = random.integers(40, 200, (len(NAMES), 18, 2)).astype(np.int16)
    points[np.arange(len(NAMES)), random.choice([0, 3, 4, 9, 10, 14], len(NAMES))] = -1
    return points


def vunet(points, **changes):
    shares = np.where(points < 0, -1.0, (points[..., ::-1] + 0.5) / 256)[:, COLUMNS]
    return {"joint_order": list(JOINTS), "imgs": NAMES, "train": TRAIN, "joints": list(shares)} | changes


def write_vunet(base, index, **options):
    (base / "index.p").write_bytes(pickle.dumps(index, **options))


def write_npz(base, points, **changes):
    arrays = {"names": NAMES, "joint_names": COCO, "keypoints_yx": points} | changes
    np.savez(base / "my_keypoints.npz", **arrays)


def write_csv(base, points, packed=False):
    rows = (f"{name}: {p[:, 0].tolist()}: {p[:, 1].tolist()}" for name, p in zip(NAMES, points, strict=True))
    text = "\n".join(["name:keypoints_y:keypoints_x", *rows]).encode()
    (base / f"annotation.csv{'.gz' if packed else ''}").write_bytes(gzip.compress(text) if packed else text)


WRITERS = {
    "index.p": lambda base, points: write_vunet(base, vunet(points)),
    "npz": write_npz,
    "csv": write_csv,
    "csv.gz": lambda base, points: write_csv(base, points, packed=True),
}


def greys(split):
    """Which of the pictures these are, told by their middles."""
    middle = split.images.shape[-1] // 2
    return [round(value / 20) for value in split.images[:, 0, middle, middle].tolist()]


def joints_of(data):
    """Joints of the ten pictures in the order of NAMES, and of nothing else."""
    order = greys(data.train) + greys(data.test)
    joints = torch.cat([data.train.extras["joints"], data.test.extras["joints"]])
    assert sorted(order) == list(range(len(NAMES)))
    return joints[torch.tensor(order).argsort()]


@pytest.mark.parametrize("form", WRITERS)
def test_all_formats_give_the_same_joints(base, form):
    points = pixels()
    WRITERS[form](base, points)
    data = deepfashion(base.parent, image_size=32)
    assert (data.name, data.image_shape, data.validation) == ("deepfashion", (3, 32, 32), None)
    expected = np.where(points < 0, -1, (points[..., ::-1] + 0.5) / 256)[:, COLUMNS]
    assert data.train.extras["joints"].dtype == torch.float32
    assert torch.allclose(joints_of(data), torch.from_numpy(expected).float())
    assert (joints_of(data) == -1).any()


def test_the_index_decides_who_is_trained_on_unless_told(base):
    write_vunet(base, vunet(pixels()))
    data = deepfashion(base, image_size=32)  # the folder itself is a root too
    assert (sorted(greys(data.train)), sorted(greys(data.test))) == (list(range(8)), [8, 9])
    told = deepfashion(base, split=[5, 2, 3], image_size=32)
    assert [len(part) for part in (told.train, told.validation, told.test)] == [5, 2, 3]
    order = greys(told.train) + greys(told.validation) + greys(told.test)
    assert sorted(order) == list(range(len(NAMES)))
    garments = [NAMES[row].rpartition("01_")[0] for row in order]
    together = [garment for garment, _ in itertools.groupby(garments)]
    assert len(together) == len(set(garments))  # the images of a garment follow one another,
    assert together != sorted(together)  # and the garments are shuffled


def test_a_garment_is_either_trained_or_tested_on(base):
    write_npz(base, pixels())
    data = deepfashion(base, image_size=32)
    assert greys(data.test) == [4, 5]
    assert sorted(greys(data.train)) == [0, 1, 2, 3, 6, 7, 8, 9]
    parts = [greys(part) for part in (data.train, data.test)]
    write_vunet(base, vunet(pixels(), train=None, imgs=[f"img/{name}" for name in NAMES]))
    again = deepfashion(base, image_size=32)
    assert [greys(part) for part in (again.train, again.test)] == parts  # whatever the index


def test_images_without_a_shoulder_or_a_hip_are_counted_and_left_out(base):
    points = pixels()
    points[1, COCO.index("l_shoulder")] = -1
    points[4, COCO.index("r_hip")] = -1
    for write in (WRITERS["index.p"], write_npz):
        write(base, points)
        data = deepfashion(base, split=[6, 2], image_size=32)
        assert "data=deepfashion: 2 of 10 images lack a shoulder or a hip and are left out" in data.notes
        assert sorted(greys(data.train) + greys(data.test)) == [0, 2, 3, 5, 6, 7, 8, 9]


def test_images_that_are_no_squares_are_padded_and_their_joints_moved(tmp_path):
    base = pictures(tmp_path / "wide", size=(64, 32))
    joints = np.full((len(NAMES), 15, 2), [1.0, 0.0])
    joints[:, 0] = -1
    write_vunet(base, vunet(pixels(), joints=joints))
    data = deepfashion(base, image_size=64)
    assert data.train.extras["joints"][0, 1].tolist() == [1.0, 0.25]  # the upper right corner of the image
    assert data.train.extras["joints"][0, 0].tolist() == [-1.0, -1.0]
    column = data.train.images[greys(data.train).index(7), 0, :, 10].tolist()
    assert column == [128] * 16 + [140] * 32 + [128] * 16
    (base / "index.p").unlink()
    write_npz(base, pixels())  # which is of the padded frame, so that nothing is moved
    points = pixels()
    expected = np.where(points < 0, -1, (points[..., ::-1] + 0.5) / 256)[:, COLUMNS]
    assert torch.allclose(joints_of(deepfashion(base, image_size=64)), torch.from_numpy(expected).float())


def test_files_of_the_same_name_are_told_apart_by_their_folders(base):
    names = [f"img/{'ab'[number // 5]}/{number % 5}.png" for number in range(10)]
    for name in ("a", "b"):
        (base / "img" / name).mkdir()
    for number, name in enumerate(names):
        (base / "img" / NAMES[number].replace("jpg", "png")).rename(base / name)
    write_vunet(base, vunet(pixels(), imgs=names))
    data = deepfashion(base, image_size=32)
    assert greys(data.train) + greys(data.test) == list(range(10))
    (base / names[9]).unlink()  # and its row does not get the other 4.png
    assert greys(deepfashion(base, image_size=32).test) == [8]


def test_a_zip_of_images_and_one_of_another_name(base, tmp_path):
    write_npz(base, pixels(), frame=256)
    with zipfile.ZipFile(base / "sample.zip", "w") as archive:
        for file in sorted((base / "img").iterdir())[:-1]:
            archive.write(file, f"img/{file.name.upper()}")
        archive.writestr("img/of_nobody.png", b"no image")
    named = deepfashion(base, images="sample.zip", split=[5, 4], image_size=32)
    assert len(named.train) + len(named.test) == 9  # one has no file, one file is of no one
    (base / "img").rename(tmp_path / "elsewhere")
    assert deepfashion(base, split=[5, 4], image_size=32).train.fingerprint() == named.train.fingerprint()


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(base, protocol):
    index = vunet(pixels())
    write_vunet(base, index, protocol=protocol)
    expected = joints_of(deepfashion(base, image_size=32))
    odd = index | {"joints": np.asfortranarray(index["joints"]).astype(">f4"), "imgs": np.array(NAMES)}
    odd["train"] = [np.bool_(flag) for flag in TRAIN]
    odd["joint_order"] = np.array(JOINTS, dtype=object)
    write_vunet(base, odd, protocol=protocol)
    assert torch.allclose(joints_of(deepfashion(base, image_size=32)), expected)


def test_a_pickle_of_python_2(base):
    shares = np.array(vunet(pixels())["joints"])
    body = pickle.dumps(vunet(pixels(), joints=shares), protocol=2).replace(b"numpy._core", b"numpy.core")
    (base / "index.p").write_bytes(body)
    expected = joints_of(deepfashion(base, image_size=32))
    text = {"joint_order": [j.encode() for j in JOINTS], "imgs": [n.encode() for n in NAMES], "train": TRAIN}
    write_vunet(base, {key.encode(): value for key, value in (text | {"joints": shares}).items()}, protocol=4)
    assert torch.equal(joints_of(deepfashion(base, image_size=32)), expected)
    raw = shares[0].astype("<f8").tobytes()  # as Python 2 wrote an array: its bytes are its text
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(I15\nI2\ntcnumpy\ndtype\n(U\x02f8"
        b"I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\nT" + len(raw).to_bytes(4, "little") + raw + b"tb."
    )
    (base / "old.p").write_bytes(b"\x80\x02" + array)
    assert np.array_equal(vunet_index.unpickle_arrays(base / "old.p"), shares[0])


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_in_a_pickle_is_run(base):
    mark = base / "run"
    for call in (
        Hostile(os.mkdir, str(mark)),
        Hostile(eval, f"open({str(mark)!r}, 'w')"),
        Hostile(getattr, 1, "real"),
    ):
        write_vunet(base, vunet(pixels(), train=call))
        with pytest.raises(
            UserError, match=r"index.p is not unpickled: it asks for \w+.\w+, and may hold only"
        ):
            deepfashion(base, image_size=32)
        assert not mark.exists()
    for call in (Hostile(np.ndarray, (1,), np.dtype(object), b"8 bytes."), Hostile(np.dtype, "f8,O")):
        write_vunet(base, vunet(pixels(), joints=call))  # an address that NumPy itself would follow
        with pytest.raises(UserError, match="index.p is not unpickled"):
            deepfashion(base, image_size=32)
    (base / "index.p").write_bytes(pickle.dumps(vunet(pixels()))[:-100])
    with pytest.raises(UserError, match="index.p is not unpickled"):
        deepfashion(base, image_size=32)


def test_joints_in_another_order_and_more_of_them(base):
    index = vunet(pixels())
    write_vunet(base, index)
    expected = joints_of(deepfashion(base, image_size=32))
    backwards = [np.concatenate([joints[::-1], [[0.5, 0.5]]]) for joints in index["joints"]]
    write_vunet(base, index | {"joint_order": [*JOINTS[::-1], "cneck"], "joints": backwards})
    assert torch.equal(joints_of(deepfashion(base, image_size=32)), expected)
    write_vunet(base, index | {"joint_order": ["neck", *JOINTS[1:]]})
    with pytest.raises(UserError, match=r"index.p: joint_order lacks rankle; it has neck, rknee"):
        deepfashion(base, image_size=32)


def refused(base, message, **options):
    with pytest.raises(UserError, match=message):
        deepfashion(base, **{"image_size": 32, **options})


def test_the_wrong_number_of_joints_is_refused(base):
    points = pixels()
    write_vunet(base, vunet(points, joints=[np.zeros((14, 2))] * 10))
    refused(base, r"index.p: joints must have the shape \(10, 15, 2\), found \(10, 14, 2\)")
    write_vunet(base, vunet(points, joints=[np.zeros((15, 2))] * 9 + [np.zeros((14, 2))]))
    refused(base, "index.p: joints must be numbers")
    write_vunet(base, vunet(points, train=TRAIN[1:]))
    refused(base, r"index.p: train must have the shape \(10,\)")
    write_vunet(base, {"imgs": NAMES})
    refused(base, "index.p must hold a dict of joint_order, imgs and joints")
    (base / "index.p").unlink()
    write_npz(base, points[:, :17])
    refused(base, r"keypoints_yx must have the shape \(10, 18, 2\), found \(10, 17, 2\)")
    write_npz(base, points, joint_names=["head", *COCO[1:]])
    refused(base, "my_keypoints.npz: joint_names lacks nose")
    write_npz(base, points, frame=0)
    refused(base, "frame must be one whole number")
    write_npz(base, points, names=np.array(NAMES, dtype=object))
    refused(base, "my_keypoints.npz is not readable")
    np.savez(base / "my_keypoints.npz", names=NAMES)
    refused(base, "my_keypoints.npz must hold the arrays")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:b", "must begin with the header name:keypoints_y:keypoints_x"),
        ("name:keypoints_y:keypoints_x\nx.jpg: [1, 2]: [3, 4]", "line 2: expected 18 y and 18 x"),
        ("name:keypoints_y:keypoints_x\nx.jpg: [1]: [3, 4]", "line 2: expected NAME"),
        ("name:keypoints_y:keypoints_x\nx.jpg: exit(): [3]", "line 2: expected NAME"),
        ("name:keypoints_y:keypoints_x\n", "has no images"),
        (f"name:keypoints_y:keypoints_x\n{2 * f'x.jpg: {[1] * 18}: {[1] * 18}{chr(10)}'}", "has x.jpg 2 times"),
    ],
)
def test_a_broken_csv_is_refused(base, text, message):
    (base / "annotation.csv").write_text(text)
    refused(base, message)


def test_what_does_not_fit_is_refused(base, tmp_path):
    refused(tmp_path, "data=deepfashion needs data.root=DIR .* and finds no index in")
    refused(tmp_path / "nowhere", "data=deepfashion needs data.root=DIR .* and finds no images in")
    write_npz(base, pixels())
    for size in (100, 8, 2048, 64.0, True):
        refused(base, "data.image_size must be a power of two from 32 to 1024", image_size=size)
    refused(base, "data.index: there is no .*other.p", index="other.p")
    refused(base, "data.images: there is no .*other.zip", images="other.zip")
    refused(base, "data.index: .*img is no .p or .pkl", index="img")
    refused(base, r"data.split must be \[TRAIN,TEST\]", split=[11, 1])
    write_npz(base, pixels(), names=[f"other{number}" for number in range(10)])
    refused(base, "data.images: none of the 10 images")
    (base / "index.p").write_bytes(pickle.dumps(vunet(pixels(), train=[True] * 10)))
    refused(base, "index.p leaves 10 training and 0 test images of the 10")
    Image.new("RGB", (32, 32)).save(base / "img" / NAMES[0].replace("jpg", "bmp"))
    refused(base, "data.images: .*1front.jpg of .*index.p may be .*bmp or .*png")
    (base / "index.p").unlink()
    np.savez(base / "more_keypoints.npz")
    refused(base, "data.index must say which of more_keypoints.npz, my_keypoints.npz in")


def test_joints_far_outside_are_refused(base):
    index = vunet(pixels())
    for value, fits in ((1.09, True), (1.11, False), (float("nan"), False)):
        index["joints"][3][JOINTS.index("lwrist")] = [0.5, value]
        write_vunet(base, index)
        if fits:
            assert joints_of(deepfashion(base, image_size=32)).max() == np.float32(value)
        else:
            refused(base, rf"index.p: lwrist of {NAMES[3]} is outside the image, at \(0.5, {value}\)")


def test_the_real_sample(real_data):
    data = deepfashion(real_data, image_size=64)
    rows = deepfashion(real_data, index="fasion-annotation-test.csv.gz", image_size=64)
    assert data.image_shape == (3, 64, 64)
    left_out = sum(int(note.split()[1]) for note in data.notes if "lack a shoulder" in note)
    assert len(data.train) + len(data.test) + left_out == 376
    assert min(len(data.train), 5 * len(data.test)) > 100
    for split, same in ((data.train, rows.train), (data.test, rows.test)):
        assert split.extras["joints"].shape == (len(split), 15, 2)
        assert torch.equal(split.extras["joints"], same.extras["joints"])
        assert torch.equal(split.images, same.images)
        seen = split.extras["joints"][(split.extras["joints"] >= 0).all(-1)]
        assert 0.1 < float(seen[:, 0].min()) < float(seen[:, 0].max()) < 0.9  # within the middle 176 of 256
