"""Models as Python's tools hand them about: pickled, saved whole, copied, sent to other processes."""

import copy
import io
import pickle

import pyro.distributions.transforms as T
import pytest
import torch
from builders import GAMES, small_autoencoder
from commands import SERVER
from test_hierarchy import PRIORS as HIERARCHIES
from test_hierarchy import people, posed
from test_laws import CORRECT
from test_networks import NETWORKS
from test_priors import PRIORS as FLOWS
from torch.distributions import AffineTransform, Distribution

from pyro_lrp import likelihoods, models, networks, priors, transforms
from pyro_lrp.data import Batch, Batches, digits
from pyro_lrp.priors import ConditionalFlow, Flow
from pyro_lrp.schedules import Progress
from pyro_lrp.trainer import Step
from pyro_lrp.trainer.devices import make_fabric
from pyro_lrp.trainer.optimizers import make_optimizers


def stock_conditional():
    """Conditional transforms of Pyro, a context network and a whitening."""
    stack = [
        T.conditional_affine_coupling(4, 3, [8]),
        T.permute(4),
        T.conditional_spline(4, 3, [8], count_bins=4),
        T.conditional_householder(4, 3, [8]),
    ]
    return ConditionalFlow(4, stack, 3, context_network=networks.perceptron(3, [8], 3), whiten="pca")


def conditional_autoregressive():
    stack = [T.conditional_affine_autoregressive(4, 3, [8]), T.conditional_matrix_exponential(4, 3, [8])]
    return ConditionalFlow(4, stack, 3)


def zuko_flow(**options):
    validates = Distribution._validate_args
    zuko = pytest.importorskip("zuko")
    Distribution.set_default_validate_args(validates)  # importing zuko switches it off for all tests
    flow = zuko.flows.NSF(features=4, transforms=2, hidden_features=[8], context=options.get("context_dim", 0))
    return priors.Zuko(4, flow, **options)


PRIORS = {
    **FLOWS,
    **CORRECT,
    "spline autoregressive": lambda: Flow(4, [T.spline_autoregressive(4, [8])]),
    "iterated": lambda: Flow(4, [T.iterated(2, T.affine_coupling, 4, [8])]),
    "fixed inverse": lambda: Flow(2, [AffineTransform(torch.zeros(2), 2 * torch.ones(2)).inv]),
    "glow": lambda: Flow(
        4, [transforms.invertible_linear(4), transforms.spline_coupling(4, [8])], whiten="pca"
    ),
    "stock conditional": stock_conditional,
    "conditional autoregressive": conditional_autoregressive,
    "flow matching": lambda: priors.FlowMatching(3, width=8, layers=1),
    "conditional maps": lambda: priors.conditional_spatial_flow((2, 2, 2), 2, 4),
    "autoregressive maps": lambda: priors.autoregressive_maps((2, 4, 4)),
    "zuko": zuko_flow,
    "conditional zuko": lambda: zuko_flow(context_dim=3),
}
LARGE = ("normal 64", "flow 16", "torch's mixture 2", "torch's mixture 5", "torch's mixture 16")
NAMES = [name for name in PRIORS if name not in LARGE]


def saved(module):
    """``torch.save`` of a whole module, and back."""
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved,
    "deepcopy": copy.deepcopy,
}


def used(prior, contexts):
    """The prior after a sample, a score and a step of an optimizer: what may be remembered, is."""
    distribution = prior(contexts)
    z = distribution.sample()
    parameters = [p for p in prior.parameters() if p.requires_grad]
    if parameters:
        adam = torch.optim.Adam(parameters, 0.01)
        loss = -distribution.log_prob(z) if prior.has_log_prob else distribution.rsample()
        loss.sum().backward()
        adam.step()
    if prior.has_base:
        prior.to_latent(prior.to_base(z, contexts), contexts)
    return prior


@torch.no_grad()
def answer(prior, contexts):
    """Densities and samples under one seed."""
    torch.manual_seed(5)
    distribution = prior(contexts)
    z = distribution.sample()
    if prior.has_log_prob:
        return torch.cat([z, distribution.log_prob(z)[:, None]], 1)
    return z


@pytest.mark.parametrize("name", NAMES)
def test_a_prior_is_copied_in_every_way(name):
    """Before and after use; the copy has the same density, and parameters of its own."""
    prior = PRIORS[name]()
    contexts = torch.randn(5, prior.context_dim)
    for subject in (prior, used(prior, contexts)):
        subject.eval()
        expected = answer(subject, contexts)
        for way, make in WAYS.items():
            twin = make(subject)
            assert torch.equal(answer(twin, contexts), expected), way
            shift(twin)
            assert torch.equal(answer(subject, contexts), expected), f"{way} shares parameters"
            learns = any(True for _ in twin.parameters())
            assert learns != torch.equal(answer(twin, contexts), expected), f"{way} lost its parameters"


@torch.no_grad()
def shift(module):
    for parameter in module.parameters():
        parameter.add_(0.1)


@pytest.mark.parametrize("name", GAMES)
def test_a_game_and_its_autoencoder_are_copied_after_a_step(name):
    """Each turn was taken once; a copied prior is bound to the copied networks."""
    torch.manual_seed(0)
    game = GAMES[name]()
    batch = digits().train.batch(slice(0, 10))
    game.initialize(batch)
    optimizers = make_optimizers(game, game.players(), lr=0.01)
    step = Step(game, game.turns("joint"), optimizers, make_fabric("cpu", "32"))
    step.prepare(0, Progress(0, 0.0, "joint"))
    step([batch] * step.streams)
    for make in WAYS.values():
        twin = make(game.eval())
        ae = twin.autoencoder
        assert ae.prior.bound in (None, ae.encoder)
        assert torch.equal(scored(twin, batch), scored(game, batch))
        shift(ae)
        assert not torch.equal(scored(twin, batch), scored(game, batch))


@torch.no_grad()
def scored(game, batch):
    torch.manual_seed(1)
    terms = game.score(batch)
    if not terms:
        ae = game.autoencoder
        terms = {"mean": ae.decode(ae.encode(batch.x).mean)}
    return torch.cat([term.flatten() for term in terms.values()])


@pytest.mark.parametrize("name", HIERARCHIES)
def test_an_autoencoder_of_several_latents_is_copied(name):
    ae = posed(name)
    x, context = people(2)
    for make in WAYS.values():
        twin = make(ae)
        assert twin.prior.bound is twin.decoder
        z = ae.encode(x, context).mean
        assert torch.equal(twin.prior(context).log_prob(z), ae.prior(context).log_prob(z))
        assert torch.equal(twin.decode(z, context), ae.decode(z, context))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_copied_and_goes_on_to_learn(name):
    """In float64 too, and with the same names of tensors."""
    build, shape = NETWORKS[name]
    encoder, decoder = (network.double() for network in build())
    ae = models.Autoencoder(encoder, decoder, priors.StandardNormal(6), likelihoods.Gaussian())
    x = torch.rand(4, *shape, dtype=torch.float64)
    ae.encode(x)  # a training step changes what spectral and batch normalization remember
    state = torch.get_rng_state()
    for make in WAYS.values():
        twin = make(ae.eval())
        assert torch.equal(twin.encode(x).mean, ae.encode(x).mean)
        assert twin.state_dict().keys() == ae.state_dict().keys()
        again = make(twin.train())
        again.encode(x).mean.sum().backward()
        assert all(p.grad is not None for p in again.encoder.trunk.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_data_and_batches_are_pickled():
    data = digits()
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again.test.images, data.test.images)
    for fetch in (None, type(data.train).batch):
        batches = Batches(data.train, 20, seed=3, fetch=fetch)
        batches.at(0)
        part = pickle.loads(pickle.dumps(batches)).at(5)
        expected = batches.at(5)
        assert type(part) is type(expected)
        first = part.x if isinstance(part, Batch) else part.images
        assert torch.equal(first, expected.x if isinstance(expected, Batch) else expected.images)


def log_density(prior, z):
    """What another process computes; at the top of a module, so that it can be found there."""
    torch.set_num_threads(1)
    with torch.no_grad():
        return prior().log_prob(z)


@pytest.fixture
def trained():
    prior = used(small_autoencoder().prior, torch.zeros(5, 0))
    z = torch.randn(3, 4)
    return prior, z, log_density(prior, z)


def test_a_prior_is_sent_to_another_process(trained):
    """As ``torch.multiprocessing.spawn`` and data-parallel training do."""
    prior, z, expected = trained
    with SERVER.Pool(1) as pool:
        found = pool.apply(log_density, (prior, z))
    torch.testing.assert_close(found, expected)


def test_a_prior_is_sent_by_joblib(trained):
    joblib = pytest.importorskip("joblib")
    prior, z, expected = trained
    (found,) = joblib.Parallel(n_jobs=2, backend="loky")([joblib.delayed(log_density)(prior, z)])
    torch.testing.assert_close(found, expected)
