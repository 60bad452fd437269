"""Sizes that a configuration leaves to the data: of the batch and of the network, and what is said of them."""

import pytest
import torch
from commands import composed

from pyro_lrp import config, data
from pyro_lrp.config import build, sizes


def own(images, shape=(3, 16, 16)):
    split = data.Split(torch.zeros(images, *shape, dtype=torch.uint8))
    return data.ImageData("own", split, split[:1])


def settled(images, *arguments):
    return config.settle(composed("data=folder", *arguments), own(images))


def parameters(identity):
    autoencoder = config.build_autoencoder(identity, (3, 64, 64))
    modules = (autoencoder.encoder, autoencoder.decoder)
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_few_images_get_a_small_batch_and_a_small_network_and_are_told():
    identity, images = settled(243)
    assert identity["batch_size"] == 21  # a tenth of the 219 that are not held out
    assert identity["network"]["channels"] == [8, 16]
    assert identity["network"]["hidden"] == 128
    assert parameters(identity) < 1.2e6
    assert images.notes == (
        "batch_size=21, for 219 training images",
        "network.channels=[8, 16] and network.hidden=128, for 219 training images: the full width is for "
        "50,000 and more",
    )


def test_many_images_get_the_papers_sizes_and_nothing_is_said():
    identity, images = settled(60_000)
    published = composed("data=folder", "network=infogan")["network"]
    assert identity["network"] == published
    assert identity["batch_size"] == 100
    assert images.notes == ()


@pytest.mark.parametrize("images", [3, 20, 160, 1600, 100_000])
def test_sizes_grow_with_the_images(images):
    assert 1 <= sizes.batch_size_for(images) <= min(100, images)
    assert sizes.batch_size_for(images) <= sizes.batch_size_for(2 * images)
    widths = [sizes.network_sizes(count)["hidden"] for count in (images, 4 * images)]
    assert widths[0] <= widths[1] <= 2 * widths[0]


def test_typed_sizes_win():
    identity, images = settled(243, "batch_size=50", "network.hidden=300", "network.channels=[4,4]")
    assert (identity["batch_size"], identity["network"]["hidden"]) == (50, 300)
    assert identity["network"]["channels"] == [4, 4]
    assert images.notes == ()
    identity, _ = settled(243, "network=infogan")
    assert identity["network"]["hidden"] == 1024


def test_arrays_get_a_perceptron_that_fits():
    few, _ = config.settle(composed("data=npz"), own(1000))
    many, _ = config.settle(composed("data=npz"), own(60_000))
    assert few["network"]["hidden_dims"] == [64, 64]
    assert many["network"] == composed("data=npz", "network=mlp")["network"]


def test_the_digits_and_settled_runs_keep_their_sizes():
    identity, images = config.settle(composed(), data.digits())
    assert identity["batch_size"] == 100
    assert identity["network"] == composed()["network"]
    assert images.notes == ()
    again, _ = config.settle(identity | {"context": None}, data.digits())
    assert again == identity


def test_only_null_is_filled_in():
    node = {"hidden": None, "channels": [1, 2], "deep": {"hidden": None}, "other": None}
    filled, values = build._filled(node, "network", {"hidden": 7, "channels": [3, 4]})
    assert filled == {"hidden": 7, "channels": [1, 2], "deep": {"hidden": 7}, "other": None}
    assert values == {"hidden": 7}
