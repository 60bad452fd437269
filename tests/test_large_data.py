"""Images that are too large to be copied or to lie on the device: rows of them, and batches read ahead."""

import dataclasses

import numpy as np
import pytest
import torch
from builders import small_autoencoder

from pyro_lrp import data, objectives
from pyro_lrp.data import Split, rows
from pyro_lrp.data.batches import Batches, Prefetched
from pyro_lrp.data.fingerprint import fingerprint
from pyro_lrp.data.rows import ImageRows
from pyro_lrp.schedules import Phase
from pyro_lrp.trainer import Trainer, loop

CPU = torch.device("cpu")


@pytest.fixture
def large(monkeypatch):
    """Every array counts as a large one."""
    monkeypatch.setattr(rows, "LARGE", 0)


def images_of(split):
    return torch.cat([*split.images.split(7)])


CHOICES = {
    "rows": lambda split: split[torch.tensor([5, 3, 17, 3])],
    "a mask": lambda split: split[torch.arange(len(split)) % 3 == 0],
    "a slice": lambda split: split[4:30],
    "rows of rows": lambda split: split[torch.arange(40).flip(0)][torch.tensor([2, 0])],
    "a mask of rows": lambda split: split[torch.arange(40)][torch.arange(40) > 20],
    "a slice of rows": lambda split: split[torch.arange(40).flip(0)][1:5],
    "none": lambda split: split[torch.arange(0)],
    "joined": lambda split: split[torch.arange(5)].joined(split[torch.arange(3)]),
    "labelled": lambda split: split[torch.arange(30)].labelled(),
    "held out": lambda split: data.ImageData("it", split, split).hold_out(0.2)[1],
    "limited": lambda split: data.ImageData("it", split, split).limited(10).train,
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_rows_of_a_large_array_are_those_of_a_small_one(monkeypatch, choice):
    split = data.fake(50, (3, 4, 5)).train
    expected = choice(split)
    monkeypatch.setattr(rows, "LARGE", 0)
    chosen = choice(split)
    assert torch.equal(images_of(chosen), expected.images)
    assert torch.equal(chosen.labels, expected.labels)
    assert chosen.images.shape == expected.images.shape
    assert chosen.fingerprint() == expected.fingerprint()
    if len(chosen):
        assert torch.equal(chosen.batch(slice(0, 2)).x, expected.batch(slice(0, 2)).x)


def test_nothing_is_copied_until_rows_are_read(large):
    split = data.fake(50, (3, 4, 5)).train
    kept, held = data.ImageData("it", split, split).hold_out(0.2)
    for part in (kept, held):
        assert isinstance(part.images, ImageRows)
        assert part.images.array.data_ptr() == split.images.data_ptr()
    assert isinstance(kept.to(CPU).images, ImageRows)
    assert isinstance(kept.to(torch.device("meta")).images, torch.Tensor)


def test_a_data_set_of_large_arrays_has_the_same_fingerprint(monkeypatch):
    images = data.fake(60, (1, 6, 6))
    expected = fingerprint(images.limited(20))
    monkeypatch.setattr(rows, "LARGE", 0)
    assert fingerprint(images.limited(20)) == expected


def trained(**options):
    torch.manual_seed(0)
    game = objectives.LatentGame(small_autoencoder(), objectives.BilevelELBO(beta=1.0))
    trainer = Trainer(
        game,
        data.fake(64, (1, 8, 8)),
        phases=[Phase("joint", 3), Phase("prior_only", 1)],
        batch_size=10,
        validation=0.1,
        device="cpu",
        progress=False,
        **options,
    )
    trainer.fit()
    return game.state_dict()


def test_training_on_rows_is_that_on_copies(monkeypatch):
    expected = trained()
    monkeypatch.setattr(rows, "LARGE", 0)
    found = trained()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_training_on_batches_that_are_read_ahead_is_the_same(monkeypatch):
    expected = trained()
    streams = []

    def ahead(split, batch_size, *, seed, device):
        streams.append(Prefetched(dataclasses.replace(split, device=device), batch_size, seed=seed))
        return streams[-1]

    monkeypatch.setattr(loop, "image_batches", ahead)
    found = trained()
    assert len(streams) == 1
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_batches_read_ahead_are_those_of_any_step_and_stream():
    split = dataclasses.replace(data.fake(50).train, device=CPU)
    ahead = Prefetched(split, 8, seed=3)
    plain = Batches(split, 8, seed=3, fetch=Split.batch)
    for step, stream in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (40, 0), (41, 0), (0, 0), (6, 1)]:
        assert torch.equal(ahead.at(step, stream).x, plain.at(step, stream).x)


class Recorded(Split):
    """A split that keeps which rows were gathered, and cannot gather after ``most`` times."""

    def gathered(self, index):
        self.extras["gathered"].append(index.tolist())
        if len(self.extras["gathered"]) > self.extras["most"]:
            raise OSError("the disk is gone")
        return Split(self.images[index], device=self.device)


def recorded(most):
    gathered = []
    split = Recorded(data.fake(50).train.images, device=CPU, extras={"gathered": gathered, "most": most})
    return Prefetched(split, 8), gathered


def test_the_next_batch_is_read_before_it_is_asked_for():
    ahead, gathered = recorded(most=10)
    ahead.at(0)
    ahead.at(1)
    _, coming = ahead._coming[0]
    coming.result()
    assert gathered == [ahead.rows(step).tolist() for step in range(3)]


def test_an_error_of_the_reader_is_that_of_the_batch():
    ahead, _ = recorded(most=1)
    ahead.at(0)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.at(1)


def test_a_split_of_a_mapped_file_holds_out_without_reading_it(tmp_path, large):
    np.save(tmp_path / "images.npy", np.arange(40 * 3 * 4 * 4, dtype=np.uint8).reshape(40, 3, 4, 4))
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
    kept, held = data.ImageData("it", Split(mapped), Split(mapped[:5])).hold_out(0.25)
    both = torch.cat([images_of(kept), images_of(held)])
    assert torch.equal(both.flatten(1).sum(1).sort().values, mapped.flatten(1).sum(1).sort().values)
