"""Frozen features against torchvision's own network, and a likelihood made of them."""

import numpy as np
import pytest
import torch
import torchvision
from builders import random_vgg19
from safetensors.torch import save_file

from pyro_lrp import features
from pyro_lrp.errors import UserError
from pyro_lrp.features import Features
from pyro_lrp.likelihoods import Perceptual

PAPERS = ("relu_1_1", "relu_2_1", "relu_3_1", "relu_4_1")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_vgg19(tmp_path_factory.mktemp("weights") / "lower.npz")


def reference(path, x, indices):
    """Activations of torchvision's module, of images normalised as its documentation says."""
    trunk = torchvision.models.vgg19(weights=None).features[:12]
    arrays = np.load(path)
    trunk.load_state_dict({name: torch.from_numpy(arrays[f"features.{name}"]) for name in trunk.state_dict()})
    if x.shape[1] == 1:
        x = torch.cat([x, x, x], dim=1)
    x = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(x)
    found = []
    for index, module in enumerate(trunk):
        x = module(x)
        if index in indices:
            found.append(x.clone())
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_activations_are_torchvisions(weights, channels):
    x = torch.rand(2, channels, 16, 16)
    network = Features("vgg19", ["relu_1_1", "relu_2_1", "relu_3_1"], weights)
    for ours, theirs in zip(network(x), reference(weights, x, (1, 6, 11)), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not any(p.requires_grad for p in network.parameters())


def test_layers_that_a_file_lacks_are_left_out(weights, tmp_path):
    network = Features("vgg19", PAPERS, weights)
    assert network.layers == ("relu_1_1", "relu_2_1", "relu_3_1")
    assert len(network(torch.rand(1, 3, 16, 16))) == 3
    arrays = dict(np.load(weights))
    del arrays["features.2.bias"]  # a gap: nothing above it can be computed
    np.savez(tmp_path / "gap.npz", **arrays)
    assert Features("vgg19", PAPERS, tmp_path / "gap.npz").layers == ("relu_1_1",)


def test_safetensors_are_read_too(weights, tmp_path):
    tensors = {name: torch.from_numpy(array) for name, array in np.load(weights).items()}
    save_file(tensors, tmp_path / "lower.safetensors")
    x = torch.rand(1, 3, 8, 8)
    ours = Features("vgg19", PAPERS, tmp_path / "lower.safetensors")(x)
    assert all(torch.equal(a, b) for a, b in zip(ours, Features("vgg19", PAPERS, weights)(x), strict=True))


def damage(kind, weights, folder):
    """A bad file, and what is said of it."""
    if kind == "missing":
        return folder / "none.npz", "weights.vgg19: there is no file"
    if kind == "truncated":
        (folder / "a.npz").write_bytes(weights.read_bytes()[:-2000])
        return folder / "a.npz", "is not readable, or is truncated"
    if kind == "ending":
        (folder / "a.h5").write_bytes(b"x")
        return folder / "a.h5", "expected a file that ends in .pth, .npz or .safetensors"
    if kind == "hash":
        torch.save({}, folder / "vgg19-dcbb9e9d.pth")
        return folder / "vgg19-dcbb9e9d.pth", "has a wrong hash.*that of vgg19-dcbb9e9d.pth with dcbb9e9d"
    arrays = (
        {"features.0.weight": np.zeros((8, 3, 3, 3), np.float32)} if kind == "another" else {"x": np.ones(3)}
    )
    np.savez(folder / "a.npz", **arrays)
    if kind == "another":
        return (
            folder / "a.npz",
            r"is of another network: features.0.weight is torch.float32 of shape \(8, 3, 3, 3\)",
        )
    return folder / "a.npz", "has none of the layers relu_1_1, relu_2_1, relu_3_1, relu_4_1"


@pytest.mark.parametrize("kind", ["missing", "truncated", "ending", "hash", "another", "empty"])
def test_bad_weights_are_one_sentence(kind, weights, tmp_path):
    path, message = damage(kind, weights, tmp_path)
    with pytest.raises(UserError, match=message):
        Features("vgg19", PAPERS, path)


def test_unknown_networks_and_layers_are_named(weights):
    with pytest.raises(UserError, match="expected one of vgg19, got 'vgg7'"):
        Features("vgg7", PAPERS, weights)
    with pytest.raises(UserError, match=r"expected some of relu_1_1, relu_1_2, .*got relu_9_9"):
        Features("vgg19", ["relu_9_9"], weights)
    with pytest.raises(UserError, match="got none"):
        Features("vgg19", [], weights)


def test_without_a_network_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(features, "online", lambda url: False)
    with pytest.raises(
        UserError, match=r"there is no network: set weights.vgg19=FILE, or place vgg19-dcbb9e9d.pth"
    ):
        Features("vgg19", PAPERS)


def test_the_perceptual_likelihood_is_its_formula(weights):
    likelihood = Perceptual(weight=0.5)
    settled = likelihood.prepare({"vgg19": weights})
    assert settled["layers"] == ["relu_1_1", "relu_2_1", "relu_3_1"]
    assert len(settled["sha256"]) == 64
    x, mean = torch.rand(3, 1, 16, 16), torch.rand(3, 1, 16, 16, requires_grad=True)
    p = likelihood(mean)
    pairs = zip(reference(weights, x, (1, 6, 11)), reference(weights, mean.detach(), (1, 6, 11)), strict=True)
    expected = -0.5 * sum((a - b).square().mean((1, 2, 3)) for a, b in pairs)
    torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-4, atol=1e-6)
    p.log_prob(x).sum().backward()
    assert mean.grad.abs().max() > 0
    assert p.log_prob(mean).abs().max() == 0.0
    assert torch.equal(p.expand((2, 3)).sample()[1], mean)
    assert p.expand((2, 3)).log_prob(x).shape == (2, 3)
    assert likelihood.state_dict() == {}  # the weights are neither trained nor saved
    assert list(likelihood.parameters()) == []


def test_other_weights_than_the_recorded_ones_are_refused(weights, tmp_path):
    sha = Perceptual().prepare({"vgg19": weights})["sha256"]
    Perceptual(sha256=sha).prepare({"vgg19": weights})
    other = random_vgg19(tmp_path / "other.npz", seed=1)
    with pytest.raises(UserError, match=f"are others than those this run began with.*expected {sha}"):
        Perceptual(sha256=sha).prepare({"vgg19": other})
    with pytest.raises(ValueError, match="weight to be a positive number"):
        Perceptual(weight=0.0)


def test_the_lower_layers_of_the_real_network(real_data):
    """Oxford's VGG19: its first kernels see edges, so stripes excite them and a flat image does not."""
    path = real_data / "weights" / "vgg19_oxford_conv1_1_to_conv3_4.npz"
    if not path.is_file():
        pytest.skip("needs the lower layers of VGG19 in ../shared/data/weights")
    network = Features("vgg19", PAPERS, path)
    assert network.layers == ("relu_1_1", "relu_2_1", "relu_3_1")
    stripes = (torch.arange(32) // 2 % 2).float().expand(1, 3, 32, 32)
    flat = torch.full((1, 3, 32, 32), 0.5)
    spread = [[a.flatten(2).std(-1).mean() for a in network(x)] for x in (stripes, flat)]
    assert all(striped > 3 * plain for striped, plain in zip(*spread, strict=True))
