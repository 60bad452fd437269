"""Frozen networks against the packages that they are of, and a likelihood made of one."""

import hashlib
import warnings

import lpips
import numpy as np
import pytest
import pytorch_fid.inception
import torch
import torchvision
from benchmarks import fid_against_pytorch_fid as fid
from builders import random_vgg19
from safetensors.torch import save_file

from pyro_lrp.core.errors import UserError
from pyro_lrp.features import LPIPS, Features, Inception, layer_names, obtainable, sha256
from pyro_lrp.features import weights as official
from pyro_lrp.likelihoods import Perceptual

PAPERS = ("relu_1_1", "relu_2_1", "relu_3_1", "relu_4_1")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_vgg19(tmp_path_factory.mktemp("weights") / "lower.npz")


def reference(path, x, indices):
    """Activations of torchvision's module, of images normalised as its documentation says."""
    with torch.device("meta"):
        trunk = torchvision.models.vgg19(weights=None).features[:12]
    arrays = np.load(path)
    state = {name: torch.from_numpy(arrays[f"features.{name}"]) for name in trunk.state_dict()}
    trunk.load_state_dict(state, assign=True)
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


@pytest.mark.parametrize(
    "layers", [("relu_3_1", "relu_1_1", "relu_2_1"), ("relu_2_1", "relu_2_1", "relu_1_1"), ("relu_1_2",)]
)
def test_activations_come_in_the_order_of_the_request(weights, layers):
    x = torch.rand(2, 3, 16, 16)
    network = Features("vgg19", layers, weights)
    assert network.layers == layers
    places = [layer_names("vgg19")[name] for name in layers]
    by_place = dict(zip(sorted(set(places)), reference(weights, x, places), strict=True))
    for ours, place in zip(network(x), places, strict=True):
        torch.testing.assert_close(ours, by_place[place])


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
            r"belongs to another network: features.0.weight is torch.float32 of shape \(8, 3, 3, 3\)",
        )
    return folder / "a.npz", "has none of the layers relu_1_1, relu_2_1, relu_3_1, relu_4_1"


@pytest.mark.parametrize("kind", ["missing", "truncated", "ending", "hash", "another", "empty"])
def test_bad_weights_are_one_sentence(kind, weights, tmp_path):
    path, message = damage(kind, weights, tmp_path)
    with pytest.raises(UserError, match=message):
        Features("vgg19", PAPERS, path)


def test_unknown_networks_and_layers_are_named(weights):
    with pytest.raises(UserError, match="expected one of vgg16, vgg19, got 'vgg7'"):
        Features("vgg7", PAPERS, weights)
    with pytest.raises(UserError, match=r"expected some of relu_1_1, relu_1_2, .*got relu_9_9"):
        Features("vgg19", ["relu_9_9"], weights)
    with pytest.raises(UserError, match="got none"):
        Features("vgg19", [], weights)


def test_without_a_network_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("pyro_lrp.features.weights.online", lambda url: False)
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


def test_the_u_nets_activations_are_as_large_as_those_of_a_network_that_sees_0_to_255(weights, tmp_path):
    """Of either kind of weights: for torchvision's input, and Caffe's with first kernels made to fit it."""
    layers = ("relu_1_2", "relu_2_2")
    x, mean = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)

    def loss(path, **options):
        likelihood = Perceptual(layers=layers, power=1, **options)
        likelihood.prepare({"vgg19": path})
        return -likelihood(mean).log_prob(x)

    plain = loss(weights)
    scale = 255 * (0.229 + 0.224 + 0.225) / 3
    torch.testing.assert_close(loss(weights, caffe=True), scale * plain)
    arrays = dict(np.load(weights))
    arrays["features.0.weight"] *= scale  # what a converted file holds
    for name in [name for name in arrays if name.endswith("bias")]:
        arrays[name] *= scale
    np.savez(tmp_path / "caffe.npz", **arrays)
    torch.testing.assert_close(loss(tmp_path / "caffe.npz"), scale * plain, rtol=1e-4, atol=0)
    torch.testing.assert_close(loss(tmp_path / "caffe.npz", caffe=True), scale * plain, rtol=1e-4, atol=0)
    pixels = loss(weights, caffe=True, pixels=255.0) - scale * plain
    torch.testing.assert_close(pixels, 255 * (x - mean).abs().mean((1, 2, 3)), rtol=1e-3, atol=1e-2)


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
    assert network.caffe_scale == 1.0
    stripes = (torch.arange(32) // 2 % 2).float().expand(1, 3, 32, 32)
    flat = torch.full((1, 3, 32, 32), 0.5)
    spread = [[a.flatten(2).std(-1).mean() for a in network(x)] for x in (stripes, flat)]
    assert all(striped > 3 * plain for striped, plain in zip(*spread, strict=True))


# --------------------------------------------------------------------- whose weights


def test_the_official_file_is_told_by_its_hash_and_all_others_are_surrogates(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("pyro_lrp.features.weights.online", lambda url: False)
    assert obtainable("vgg19", {"vgg19": weights})
    assert not obtainable("vgg19", {"vgg19": None})
    state = {name: torch.from_numpy(array) for name, array in np.load(weights).items()}
    torch.save(state, tmp_path / "own.pth")
    digest = hashlib.sha256((tmp_path / "own.pth").read_bytes()).hexdigest()
    assert sha256("vgg19", tmp_path / "own.pth") == digest
    place = tmp_path / "checkpoints" / f"vgg19-{digest[:8]}.pth"
    place.parent.mkdir()
    (tmp_path / "own.pth").rename(place)
    published = official._Official("torchvision", f"https://example.org/{place.name}")
    monkeypatch.setitem(official._OFFICIAL, "vgg19", published)
    assert obtainable("vgg19", {})
    network = Features("vgg19", PAPERS[:3])  # from the cache
    assert network.record == {"network": "vgg19", "weights": place.name, "weights_sha256": digest}
    place.write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"is damaged \(its hash is not the one in its name\)"):
        Features("vgg19", PAPERS[:3])
    record = Features("vgg19", PAPERS[:3], weights).record
    assert record["surrogate"] == "weights of lower.npz, not torchvision's official ones"
    assert record["weights_sha256"] == sha256("vgg19", weights)


def test_the_addresses_are_those_of_the_packages():
    enums = {
        "vgg16": torchvision.models.VGG16_Weights,
        "vgg19": torchvision.models.VGG19_Weights,
        "alexnet": torchvision.models.AlexNet_Weights,
        "squeezenet": torchvision.models.SqueezeNet1_1_Weights,
    }
    urls = {name: enum.IMAGENET1K_V1.url for name, enum in enums.items()}
    urls["inception"] = pytorch_fid.inception.FID_WEIGHTS_URL
    assert {name: file.url for name, file in official._OFFICIAL.items()} == urls


@pytest.mark.parametrize("network", ["vgg16", "vgg19", "alexnet", "squeezenet", "inception"])
def test_every_network_has_an_official_file_with_its_hash_in_the_name(network):
    file = official._OFFICIAL[network]
    assert file.url.startswith("https://")
    assert len(file.hash) == 8
    assert int(file.hash, 16) > 0
    with pytest.raises(UserError, match=f"weights.{network}: there is no file none.npz"):
        sha256(network, "none.npz")


# --------------------------------------------------------------------- LPIPS

PACKAGES = {"vgg16": "vgg", "alexnet": "alex", "squeezenet": "squeeze"}
BUILDERS = {
    "vgg16": torchvision.models.vgg16,
    "alexnet": torchvision.models.alexnet,
    "squeezenet": torchvision.models.squeezenet1_1,
}


def random_trunk(network, path):
    """A file of random weights of a trunk, in torchvision's names."""
    with torch.device("meta"):
        shapes = BUILDERS[network](weights=None).features.state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, meta in shapes.items():
        scale = (2.0 / meta[0].numel()) ** 0.5 if name.endswith("weight") else 0.1
        state[f"features.{name}"] = scale * torch.randn(meta.shape, generator=generator)
    save_file(state, path)
    return state


def packages_own(network, state):
    """The package's distance, its trunk filled by hand, layer by layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision on an argument that lpips passes
        reference = lpips.LPIPS(net=PACKAGES[network], pnet_rand=True, verbose=False)
    for part in reference.net.children():
        for number, module in part.named_children():
            if any(True for _ in module.parameters()):
                prefix = f"features.{number}."
                own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
                module.load_state_dict(own)
    return reference


@pytest.mark.parametrize("network", PACKAGES)
def test_lpips_is_the_packages(network, tmp_path, capsys):
    path = tmp_path / "trunk.safetensors"
    state = random_trunk(network, path)
    before = torch.get_rng_state()
    distance = LPIPS(network, path)
    assert torch.equal(torch.get_rng_state(), before)  # no random weights were drawn first
    assert capsys.readouterr().out == ""
    assert not any(p.requires_grad for p in distance.parameters())
    reference = packages_own(network, state)
    x, y = torch.rand(2, 2, 3, 40, 32)
    with torch.no_grad():
        found = distance(x, y)
        torch.testing.assert_close(found, reference(2 * x - 1, 2 * y - 1).flatten())  # spec 15.33
        assert found.shape == (2,)
        assert found.min() > 0
        assert distance(x, x).abs().max() == 0  # spec 15.32
        torch.testing.assert_close(distance(y, x), found)
        grey = distance(x[:, :1], y[:, :1])
        repeated = (2 * v[:, :1].expand(-1, 3, -1, -1) - 1 for v in (x, y))
        torch.testing.assert_close(grey, reference(*repeated).flatten())
        exact = distance(x.double(), y.double())
        torch.testing.assert_close(
            exact, reference.double()(2 * x.double() - 1, 2 * y.double() - 1).flatten(), rtol=1e-10, atol=0
        )
        assert exact.dtype == torch.float64
        assert torch.equal(distance(x, y), found)  # back in float32
        assert distance(x.bfloat16(), y.bfloat16()).dtype == torch.bfloat16
    assert distance.record["network"] == f"LPIPS v0.1, {network} trunk"
    assert distance.record["surrogate"] == "weights of trunk.safetensors, not torchvision's official ones"


def test_lpips_enlarges_small_images(tmp_path):
    state = random_trunk("alexnet", tmp_path / "a.safetensors")
    distance = LPIPS("alexnet", tmp_path / "a.safetensors")
    x, y = torch.rand(2, 2, 1, 8, 16)
    with torch.no_grad():
        found = distance(x, y)
        large = [torch.nn.functional.interpolate(v, size=(64, 128), mode="bilinear") for v in (x, y)]
        torch.testing.assert_close(found, distance(*large))
        reference = packages_own("alexnet", state)
        repeated = (2 * v.expand(-1, 3, -1, -1) - 1 for v in large)
        torch.testing.assert_close(found, reference(*repeated).flatten())
    assert "fewer than 32 pixels on a side: enlarged to 64, bilinear" in distance.record["small_images"]


def test_weights_of_another_trunk_are_one_sentence(tmp_path, weights):
    state = random_trunk("alexnet", tmp_path / "a.safetensors")
    with pytest.raises(
        UserError, match="weights.vgg16: .*a.safetensors belongs to another network: features.0.weight"
    ):
        LPIPS("vgg16", tmp_path / "a.safetensors")
    del state["features.10.bias"]
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"weights.alexnet: .*b.safetensors lacks features.10.bias$"):
        LPIPS("alexnet", tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="expected one of vgg16, alexnet, squeezenet, got 'vgg19'"):
        LPIPS("vgg19", weights)


def test_lpips_with_real_weights_orders_distortions(real_data):
    """As people do: more noise and more blur are worse, and pixels moved or brightened alike matter little."""
    path = real_data / "weights" / "squeezenet1_1_caffe_features.npz"
    images = real_data / "cifar10" / "cifar10_lossless_subset.npz"
    if not (path.is_file() and images.is_file()):
        pytest.skip("needs SqueezeNet's trunk and CIFAR-10 in ../shared/data")
    x = torch.from_numpy(np.load(images)["test_images"][:30]).permute(0, 3, 1, 2) / 255
    noise = torch.randn_like(x)
    blur = torchvision.transforms.functional.gaussian_blur
    network = LPIPS("squeezenet", path)

    def distance(changed):
        with torch.no_grad():
            return network(x, changed).mean().item()

    noisy = [distance(x + scale * noise) for scale in (0.03, 0.1, 0.3)]
    blurred = [distance(blur(x, 9, sigma)) for sigma in (0.5, 1.0, 2.0)]
    for worse_and_worse in (noisy, blurred):
        assert worse_and_worse[0] < 0.5 * worse_and_worse[1] < 0.5 * worse_and_worse[2]
    for mild in (0.8 * x + 0.2, x.roll(1, dims=-1)):
        assert (x - mild).square().mean() > (0.1 * noise).square().mean()  # farther than the noise in pixels
        assert distance(mild) < 0.5 * noisy[1]
    assert distance(x.roll(1, dims=0)) > max(blurred)  # other images
    assert "surrogate" in network.record


# --------------------------------------------------------------------- Inception


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A torch home whose file is of random weights, and a file of ours with the same."""
    home = tmp_path_factory.mktemp("inception")
    (home / "hub/checkpoints").mkdir(parents=True)
    torch.save(fid.random_inception(home / "ours.safetensors"), home / "hub/checkpoints" / fid.FILE)
    return home


@pytest.mark.skipif(
    not fid.RUNS, reason="pytorch-fid's command needs a SciPy before 1.18, whose sqrtm has disp"
)
def test_the_distance_of_png_files_is_that_of_pytorch_fids_command(inception, tmp_path):
    """Colour against grey, in its 64 lowest features, which take a tenth of the time of all 2,048."""
    folders = [tmp_path / "colour", tmp_path / "grey"]
    sets = [fid.write_images(folder, 6, channels) for folder, channels in zip(folders, (3, 1), strict=True)]
    value = fid.ours(inception / "ours.safetensors", sets, 64)
    assert value > 0.1
    assert value == pytest.approx(fid.theirs(inception, folders, 64), rel=1e-4)


def test_inceptions_features_and_its_logits_without_bias(inception):
    network = Inception(inception / "ours.safetensors")
    state = torch.load(inception / "hub/checkpoints" / fid.FILE, weights_only=True)
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        features = network.features(x)
        exact = network.features(x.double().expand(-1, 3, -1, -1))
    assert features.shape == (2, 2048)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(features.double(), exact, rtol=1e-3, atol=1e-4)
    logits = network.logits(features)
    torch.testing.assert_close(logits, features @ state["fc.weight"].T)
    assert logits.shape == (2, 1008)
    assert state["fc.bias"].abs().max() > 0  # which is left out
    assert network.record["surrogate"] == "weights of ours.safetensors, not pytorch-fid's official ones"
    assert network.sha256 == sha256("inception", inception / "ours.safetensors")
    assert not any(p.requires_grad for p in network.parameters())


def test_inception_refuses_what_it_is_not(inception, tmp_path):
    random_trunk("alexnet", tmp_path / "a.safetensors")
    with pytest.raises(
        UserError, match="weights.inception: .*a.safetensors belongs to another network: .*Missing key"
    ):
        Inception(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="has a wrong hash.*with 6726825d"):
        Inception(inception / "hub/checkpoints" / fid.FILE)
    with pytest.raises(ValueError, match="dims to be one of .64, 192, 768, 2048., got 10"):
        Inception(inception / "ours.safetensors", dims=10)
    with pytest.raises(ValueError, match="expected features of pool_3"):
        Inception(inception / "ours.safetensors", dims=64).logits(torch.zeros(1, 64))
