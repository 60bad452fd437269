"""Stick figures and body parts: Pillow as an oracle, symmetry, and what is missing."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pyro_lrp.people.poses import BODY_PARTS, JOINTS, body_parts, complete, from_coco, stick_figures

AT = {name: number for number, name in enumerate(JOINTS)}
PERSON = {  # seen from the front: the right side of a person is on the left of the image
    "rankle": (0.42, 0.95), "rknee": (0.40, 0.75), "rhip": (0.42, 0.55), "rshoulder": (0.38, 0.28),
    "relbow": (0.25, 0.38), "rwrist": (0.20, 0.52), "reye": (0.48, 0.12), "cnose": (0.5, 0.15),
    "lankle": (0.60, 0.93), "lknee": (0.62, 0.74), "lhip": (0.58, 0.55), "lshoulder": (0.62, 0.28),
    "lelbow": (0.72, 0.40), "lwrist": (0.80, 0.30), "leye": (0.52, 0.12),
}  # fmt: skip


def person(n=1, wiggle=0.0, dtype=torch.float32):
    joints = torch.tensor([PERSON[name] for name in JOINTS], dtype=dtype).repeat(n, 1, 1)
    return (joints + wiggle * torch.randn_like(joints)).clamp(0.01, 0.99)


def without(joints, *names):
    joints = joints.clone()
    joints[:, [AT[name] for name in names]] = -1.0
    return joints


def mirrored(joints):
    """Of the image's mirror image: left and right change places."""
    swap = [AT[{"r": "l", "l": "r"}.get(name[0], name[0]) + name[1:]] for name in JOINTS]
    return torch.stack([1 - joints[:, swap, 0], joints[:, swap, 1]], -1)


# ---------------------------------------------------------------------
# stick figures
# ---------------------------------------------------------------------


def by_pillow(joints, size, finer=8):
    """The same drawn by Pillow on a finer canvas, and averaged."""
    at = {
        name: tuple(size * finer * c for c in place)
        for name, place in zip(JOINTS, joints.tolist(), strict=True)
    }
    at["neck"] = tuple((a + b) / 2 for a, b in zip(at["lshoulder"], at["rshoulder"], strict=True))
    width = max(1, int(3 * size / 128)) * finer
    channels = []
    for side in "rl":
        canvas = np.zeros((size * finer, size * finer))
        chain = [side + joint for joint in ("ankle", "knee", "hip", "shoulder", "elbow", "wrist")]
        pairs = [*zip(chain[:-1], chain[1:], strict=True), ("neck", "cnose"), ("cnose", side + "eye")]
        for a, b in pairs:
            layer = Image.new("L", canvas.shape)
            ImageDraw.Draw(layer).line([at[a], at[b]], fill=127 if a == "neck" else 255, width=width)
            canvas = np.maximum(canvas, np.asarray(layer))
        channels.append(canvas)
    layer = Image.new("L", channels[0].shape)
    ImageDraw.Draw(layer).polygon([at[n] for n in ("lhip", "lshoulder", "rshoulder", "rhip")], fill=255)
    channels.append(np.asarray(layer))
    fine = torch.tensor(np.stack(channels), dtype=torch.float32) / 255
    return torch.nn.functional.avg_pool2d(fine, finer)


@pytest.mark.parametrize("size", [64, 128])
def test_sticks_are_those_of_pillow(size):
    joints = person(6, wiggle=0.06)
    ours = stick_figures(joints, size)
    theirs = torch.stack([by_pillow(pose, size) for pose in joints])
    assert (ours - theirs).abs().mean() < 0.006  # rounded against square ends, and antialiasing
    assert (ours - theirs).abs().mean() < 0.15 * theirs.mean()
    assert (ours[:, 2] - theirs[:, 2]).abs().max() <= 1.0
    for shift in (-2, 2):  # it would be seen
        assert (ours - theirs.roll(shift, -1)).abs().mean() > 0.02


def test_right_is_in_the_first_channel_left_in_the_second_and_the_torso_in_the_third():
    before = stick_figures(person(), 64)
    for name in JOINTS:
        joints = person()
        joints[:, AT[name]] += 0.08
        changed = {int(c) for c in (stick_figures(joints, 64) != before).flatten(2).any(-1)[0].nonzero()}
        own = {"r": {0}, "l": {1}, "c": {0, 1}}[name[0]]
        if "shoulder" in name:
            own = {0, 1, 2}  # the neck's line is in both
        elif "hip" in name:
            own = own | {2}
        assert changed == own, name


def test_the_neck_is_grey_and_lines_are_as_wide_as_published():
    joints = without(person(), "reye", "leye", "lelbow")
    figure = stick_figures(joints, 256)
    neck_to_nose = figure[0, 0, int(0.2 * 256), 128]
    assert neck_to_nose == pytest.approx(127 / 255, abs=1e-6)
    upright = torch.full((1, 15, 2), -1.0)
    upright[0, AT["rhip"]], upright[0, AT["rknee"]] = torch.tensor([0.5, 0.3]), torch.tensor([0.5, 0.7])
    drawn = stick_figures(upright, 256)
    assert drawn[0, 0, 128].sum() == pytest.approx(6.0, abs=1e-3)
    assert drawn[0, 1:].abs().max() == 0


def test_what_lacks_an_end_is_not_drawn_and_all_else_is():
    whole = stick_figures(person(), 64)
    less = stick_figures(without(person(), "rwrist"), 64)
    assert (less <= whole).all()
    gone = (whole - less)[0]
    assert gone[1:].abs().max() == 0
    rows, columns = gone[0].nonzero(as_tuple=True)
    assert columns.max() < 0.27 * 64  # the forearm alone
    assert rows.min() > 0.35 * 64
    assert stick_figures(without(person(), "lhip"), 64)[0, 2].max() == 0


def test_the_eyes_are_drawn_together_or_not_at_all():
    """As by the published network's code: a face in profile has no line to its eye."""
    neither = stick_figures(without(person(), "reye", "leye"), 64)
    for eye in ("reye", "leye"):
        assert torch.equal(stick_figures(without(person(), eye), 64), neither)
    assert (stick_figures(person(), 64) - neither)[0, :2].flatten(1).amax(1).min() > 0.4


def test_a_twisted_torso_is_filled_by_the_even_odd_rule():
    joints = person()
    joints[:, [AT["lhip"], AT["rhip"]]] = joints[:, [AT["rhip"], AT["lhip"]]]
    filled = stick_figures(joints, 64)[0, 2]
    straight = stick_figures(person(), 64)[0, 2]
    assert 0.3 < filled.sum() / straight.sum() < 0.7  # two triangles


def test_a_mirror_image_has_a_mirrored_figure():
    joints = person(3, wiggle=0.05)
    torch.testing.assert_close(
        stick_figures(mirrored(joints), 64)[:, [1, 0]], stick_figures(joints, 64)[:, :2].flip(-1)
    )


# ---------------------------------------------------------------------
# body parts
# ---------------------------------------------------------------------


def part(crops, name):
    return crops.unflatten(1, (8, 3))[:, BODY_PARTS.index(name)]


def perspective(corners, size):
    """Pillow's coefficients: pixels of the crop to pixels of the image."""
    rows, right = [], []
    for (x, y), (u, v) in zip([(0, 0), (0, size), (size, size), (size, 0)], corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.linalg.solve(np.array(rows, float), np.array(right, float)).tolist()


def test_a_torso_is_warped_as_by_pillow():
    torch.manual_seed(1)
    images = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8), 64, mode="bicubic").clamp(0, 1)
    images = (images * 255).round() / 255
    joints = person(4, wiggle=0.03)
    ours = part(body_parts(images, joints, 32), "torso")
    for image, pose, crop in zip(images, joints, ours, strict=True):
        picture = Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy())
        corners = [(64 * pose[AT[n]]).tolist() for n in ("lshoulder", "lhip", "rhip", "rshoulder")]
        how = {"data": perspective(corners, 32), "resample": Image.Resampling.BILINEAR}
        theirs = np.asarray(picture.transform((32, 32), Image.Transform.PERSPECTIVE, **how))
        theirs = torch.tensor(theirs).permute(2, 0, 1) / 255
        torch.testing.assert_close(crop, theirs, atol=2.5 / 255, rtol=0)


def test_the_whole_image_as_a_torso_is_the_image():
    images = torch.rand(1, 3, 16, 16)
    joints = person()
    for name, place in {"lshoulder": (0, 0), "lhip": (0, 1), "rhip": (1, 1), "rshoulder": (1, 0)}.items():
        joints[:, AT[name]] = torch.tensor(place, dtype=torch.float32)
    torch.testing.assert_close(part(body_parts(images, joints, 16), "torso"), images, atol=1e-5, rtol=0)


LIMBS = {
    "left upper arm": ("lshoulder", "lelbow"),
    "left forearm": ("lelbow", "lwrist"),
    "right upper arm": ("rshoulder", "relbow"),
    "right forearm": ("relbow", "rwrist"),
    "left thigh": ("lhip", "lknee"),
    "right thigh": ("rhip", "rknee"),
}


def quarter_turn(way):
    """To the left of a way that goes down the image."""
    return torch.stack([-way[1], way[0]])


def expected_corners(name, joints):
    """Top left, bottom left and top right of a part, by the lines of the published network's code."""
    at = {joint: joints[number] for joint, number in AT.items()}
    if name == "head":
        neck = (at["lshoulder"] + at["rshoulder"]) / 2
        top = 2 * at["cnose"] - neck
        aside = quarter_turn(neck - top) / 2
        return top - aside, neck - aside, top + aside  # the left of the crop is the right of the image
    start, stop = (at[joint] for joint in LIMBS[name])
    aside = quarter_turn(stop - start) / 4
    return start + aside, start - aside, stop + aside  # the limb runs from left to right


@pytest.mark.parametrize("name", ["head", *LIMBS])
def test_a_part_lies_as_the_published_network_sees_it(name):
    """The image holds the coordinates of its pixels, so a crop holds the places that it shows."""
    joints = 0.25 + 0.5 * person(dtype=torch.float64)  # no part leaves the image
    centres = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    x = centres.expand(64, 64)
    crops = body_parts(torch.stack([x, x.T, x])[None], joints, 8)
    corner, below, beside = expected_corners(name, joints[0])
    u = ((torch.arange(8) + 0.5) / 8)[None, :, None]
    v = u.transpose(0, 1)
    places = corner + u * (beside - corner) + v * (below - corner)
    torch.testing.assert_close(part(crops, name)[0, :2], places.permute(2, 0, 1), atol=1e-6, rtol=0)


def test_a_mirror_image_has_mirrored_parts():
    images, joints = torch.rand(2, 3, 64, 64), person(2, wiggle=0.02)
    crops, mirror = body_parts(images, joints, 16), body_parts(images.flip(-1), mirrored(joints), 16)
    for name in BODY_PARTS:
        other = name.replace("left", "x").replace("right", "left").replace("x", "right")
        across = -2 if name in LIMBS else -1
        torch.testing.assert_close(part(mirror, other), part(crops, name).flip(across), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        (("lwrist",), {"left forearm"}),
        (("relbow",), {"right upper arm", "right forearm"}),
        (("rknee",), set()),
        (("cnose",), set()),
        (("lhip",), {"torso", "left thigh"}),
        (("lshoulder",), {"torso", "head", "left upper arm"}),
        (JOINTS, set(BODY_PARTS)),
    ],
)
def test_a_part_without_its_joints_is_zero(missing, gone):
    crops = body_parts(0.5 + torch.rand(1, 3, 32, 32), without(person(), *missing), 8)
    assert {name for name in BODY_PARTS if part(crops, name).abs().max() == 0} == gone


def test_without_knee_or_nose_there_are_other_places():
    across = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    down = across.transpose(-1, -2)
    joints = without(person(), "lknee", "cnose")
    thigh = part(body_parts(down, joints, 32), "left thigh")[0, 0].mean(0)
    assert thigh[0] == pytest.approx(0.55, abs=0.03)
    assert thigh[-1] == pytest.approx(1.0, abs=0.03)  # the bottom of the image
    head = part(body_parts(down, joints, 32), "head")[0, 0].mean(1)
    assert head[-1] == pytest.approx(0.28, abs=0.03)  # the shoulders
    assert head[0] == pytest.approx(0.28 - 0.24, abs=0.03)  # as high as they are wide
    from_behind = joints.clone()
    from_behind[:, [AT["lshoulder"], AT["rshoulder"]]] = joints[:, [AT["rshoulder"], AT["lshoulder"]]]
    for pose, left, right in ((joints, 0.62, 0.38), (from_behind, 0.38, 0.62)):
        columns = part(body_parts(across, pose, 32), "head")[0, 0].mean(0)
        assert columns[[0, -1]].tolist() == pytest.approx([left, right], abs=0.03)


def test_beyond_its_border_an_image_goes_on():
    image = torch.zeros(1, 3, 32, 32)
    image[..., -1] = 1.0
    joints = person()
    joints[:, AT["lelbow"]], joints[:, AT["lwrist"]] = torch.tensor([1.2, 0.3]), torch.tensor([1.2, 0.6])
    assert part(body_parts(image, joints, 8), "left forearm").min() == 1.0


def test_people_who_are_a_point_give_finite_numbers_and_gradients():
    joints = torch.full((2, 15, 2), 0.5, requires_grad=True)
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    crops = body_parts(images, joints, 8)
    crops.sum().backward()
    assert all(
        t.isfinite().all() for t in (crops, images.grad, joints.grad, stick_figures(joints.detach(), 16))
    )


def test_gradients_of_crops():
    images = torch.rand(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    joints = person(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: body_parts(x, joints, 3), images)


# ---------------------------------------------------------------------
# joints
# ---------------------------------------------------------------------

COCO = {
    "openpose": "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist RHip RKnee RAnkle LHip LKnee LAnkle "
    "REye",
    "short": "nose neck Rsho Relb Rwri Lsho Lelb Lwri Rhip Rkne Rank Lhip Lkne Lank Reye",
    "long": "nose neck right_shoulder right_elbow right_wrist left-shoulder left_elbow left_wrist right_hip "
    "right_knee right_ankle left_hip left_knee left_ankle right_eye",
}
REST = {"openpose": "LEye REar LEar", "short": "Leye Rear Lear", "long": "left_eye right_ear left_ear"}


@pytest.mark.parametrize("spelling", COCO)
def test_keypoints_of_coco_are_known_by_any_name(spelling):
    names = f"{COCO[spelling]} {REST[spelling]}".split()
    keypoints = torch.arange(18.0)[None, :, None].expand(2, 18, 2) / 18
    keypoints = keypoints.clone()
    keypoints[1, 4, 1] = -1.0  # the right wrist
    joints = from_coco(keypoints, names)
    expected = [10, 9, 8, 2, 3, 4, 14, 13, 12, 11, 5, 6, 7, 15, 0]
    torch.testing.assert_close(joints[0, :, 0], torch.tensor(expected) / 18)
    assert joints[1, AT["rwrist"]].tolist() == [-1.0, -1.0]
    assert (joints[1] < 0).any(-1).sum() == 1


def test_a_missing_name_is_told():
    with pytest.raises(ValueError, match="expected a keypoint for leye"):
        from_coco(torch.rand(1, 15, 2), COCO["short"].split())


def test_a_person_is_complete_with_shoulders_and_hips():
    joints = torch.cat([person(), *(without(person(), n) for n in ("lhip", "rshoulder", "rwrist", "cnose"))])
    assert complete(joints).tolist() == [True, False, False, True, True]
