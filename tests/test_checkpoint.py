import pytest
import torch
from torch import nn

from pyro_lrp.core import checkpoint, files
from pyro_lrp.core.errors import UserError

STATE = {
    "step": 3,
    "name": "x",
    "game": {"w": torch.ones(2, 3), "n": torch.tensor(5), "half": torch.ones(2, dtype=torch.bfloat16)},
    "list": [torch.zeros(1), None, 2.5],
    "empty": {},
}  # fmt: skip


def test_round_trip_is_exact_and_bytes_are_reproducible(tmp_path):
    for name in ("a", "b"):
        checkpoint.save(tmp_path / name, STATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = checkpoint.load(tmp_path / "a")
    assert back["step"] == 3
    assert back["list"][1:] == [None, 2.5]
    assert back["empty"] == {}
    for name, tensor in STATE["game"].items():
        assert back["game"][name].dtype == tensor.dtype
        assert torch.equal(back["game"][name], tensor)


@pytest.mark.parametrize("damage", ["truncate", "flip", "header", "empty", "foreign"])
def test_damage_is_found(tmp_path, damage):
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, STATE)
    content = path.read_bytes()
    header = content.replace(b'\\"step\\": 3', b'\\"step\\": 4')
    assert header != content
    damaged = {
        "truncate": content[:-7],
        "flip": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        "header": header,
        "empty": b"",
        "foreign": b"hello" * 20,
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match="last.safetensors is (truncated|damaged)"):
        checkpoint.load(path)


def test_a_missing_checkpoint_is_said(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "none")


def test_another_architecture_is_said_and_nothing_is_loaded():
    module, other = nn.Linear(2, 2), nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(
        UserError, match="another architecture: 0 tensors are missing, 0 unknown, 2 of another shape"
    ):
        checkpoint.load_into(module, other.state_dict(), "FILE")
    assert torch.equal(module.weight, before)


def test_last_and_previous(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in range(3):
        checkpoint.rotate_and_save(folder, {"step": step})
    assert sorted(p.name for p in folder.iterdir()) == ["last.safetensors", "previous.safetensors"]
    assert checkpoint.load(checkpoint.latest(folder))["step"] == 2
    assert checkpoint.load(folder / "previous.safetensors")["step"] == 1


def test_a_kill_between_the_renames_leaves_the_newest(tmp_path):
    checkpoint.rotate_and_save(tmp_path, {"step": 0})
    checkpoint.save(tmp_path / "fresh.safetensors", {"step": 1})
    (tmp_path / "last.safetensors").rename(tmp_path / "previous.safetensors")
    assert checkpoint.load(checkpoint.latest(tmp_path))["step"] == 1
    checkpoint.finish_rotation(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.safetensors", "previous.safetensors"]
    assert checkpoint.load(tmp_path / "last.safetensors")["step"] == 1
    checkpoint.finish_rotation(tmp_path)
    assert checkpoint.load(tmp_path / "last.safetensors")["step"] == 1


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(target):
        target.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, fail)
    assert path.read_text() == "old"
