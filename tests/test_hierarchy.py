"""Autoencoders of several latents given a pose: both sites, both levels, densities, what the trainer does."""

import itertools
import math

import pyro
import pytest
import torch
from builders import gradients, jiggle
from pyro import poutine
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_lrp import likelihoods, networks, objectives, priors
from pyro_lrp.data import Batch
from pyro_lrp.models import HierarchicalAutoencoder
from pyro_lrp.networks.vunet.blocks import WeightNormConv
from pyro_lrp.objectives import BilevelELBO
from pyro_lrp.people.poses import JOINTS
from pyro_lrp.schedules import ConstantThenLinear, Linear, Progress

MOST = 2  # channels of the latents: codes of length 160
PRIORS = {
    "flow": lambda: priors.unet_flow(MOST, layers=2, width=4),
    "autoregressive": lambda: priors.unet_autoregressive(MOST),
    "fixed": lambda: priors.Hierarchy([priors.StandardNormal(16 * MOST), priors.StandardNormal(64 * MOST)]),
}


def posed(prior="flow", *, size=32, jiggled=True):
    """In eval mode, where dropout is off."""
    encoder, decoder = networks.vunet((3, size, size), 80 * MOST, first=1, most=MOST)
    ae = HierarchicalAutoencoder(encoder, decoder, PRIORS[prior](), likelihoods.Gaussian(0.1))
    return (jiggle(ae) if jiggled else ae).eval()


def people(n, size=32, **options):
    """Images and poses at random."""
    return torch.rand(n, 3, size, size, **options), torch.rand(n, 2 * len(JOINTS), **options)


@pytest.mark.parametrize("prior", PRIORS)
def test_each_latent_is_a_site_of_model_and_guide(prior):
    ae, (x, pose) = posed(prior), people(3)
    guide = poutine.trace(ae.guide).get_trace(x, pose)
    model = poutine.trace(poutine.replay(ae.model, guide)).get_trace(x, pose)
    sampled = [name for name, site in guide.nodes.items() if site["type"] == "sample" and name != "batch"]
    assert sampled == ["z1", "z2"] == ae.sites
    assert [guide.nodes[name]["value"].shape for name in sampled] == [(3, 16 * MOST), (3, 64 * MOST)]
    assert isinstance(ae, HierarchicalAutoencoder)
    model.compute_log_prob()
    z = torch.cat([guide.nodes[name]["value"] for name in sampled], 1)
    torch.testing.assert_close(
        sum(model.nodes[name]["log_prob_sum"] for name in sampled), ae.prior(pose).log_prob(z).sum()
    )
    guide.compute_log_prob()
    torch.testing.assert_close(
        sum(guide.nodes[name]["log_prob_sum"] for name in sampled), ae.encode(x, pose).log_prob(z).sum()
    )
    torch.testing.assert_close(model.nodes["x"]["fn"].mean, ae.decode(z, pose))


@pytest.mark.parametrize("prior", ["flow", "autoregressive"])
def test_at_beta_1_it_is_the_elbo_of_pyro(prior):
    ae, (x, pose) = posed(prior), people(3)
    found = []
    for elbo in (BilevelELBO(1.0), pyro.infer.Trace_ELBO()):
        torch.manual_seed(0)
        loss = elbo.differentiable_loss(ae.model, ae.guide, x, pose)
        found.append((loss, gradients(loss, ae)))
    (ours, grads), (theirs, expected) = found
    torch.testing.assert_close(ours, theirs)
    assert any(g.abs().max() > 0 for g in expected.values())
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name], grad, msg=name, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("prior", "beta"), [*itertools.product(["flow", "autoregressive"], [0.0, 0.3, 1.0])])
def test_both_levels_have_the_gradients_of_two_passes(prior, beta):
    """Eq. 12-13 written literally, in float64: F for the autoencoder, f for the prior with all else held."""
    ae, (x, pose) = posed(prior).double(), people(3, dtype=torch.float64)
    players = objectives.LatentGame(ae, BilevelELBO(beta)).players()
    torch.manual_seed(0)
    ours = gradients(BilevelELBO(beta).differentiable_loss(ae.model, ae.guide, x, pose), ae)
    torch.manual_seed(0)
    q = ae.encode(x, pose)
    z = ae.guide(x, pose)
    log_likelihood = ae.likelihood(ae.decode(z, pose), 3).log_prob(x).sum()
    upper = log_likelihood + beta * (ae.prior(pose).log_prob(z) - q.log_prob(z)).sum()
    with objectives_held(ae):
        lower = ae.prior(pose).log_prob(z.detach()).sum()
    for player, loss in (("autoencoder", -upper), ("prior", -lower)):
        expected = gradients(loss, ae, retain_graph=True)
        own = {id(p) for p in players[player].parameters()}
        names = [name for name, p in ae.named_parameters() if id(p) in own]
        assert any(expected[name].abs().max() > 1e-6 for name in names)
        for name in names:
            torch.testing.assert_close(ours[name], expected[name], msg=name, rtol=1e-9, atol=1e-9)


class objectives_held:
    """Encoder and decoder without gradients, as the lower level holds them."""

    def __init__(self, ae):
        self.parameters = [*ae.encoder.parameters(), *ae.decoder.parameters()]

    def __enter__(self):
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_):
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def test_no_gradient_of_the_priors_loss_reaches_encoder_decoder_or_pose_encoder():
    """Spec 15.38: at beta = 0 in the joint turn, and in the prior's own."""
    ae, (x, pose) = posed("flow"), people(4)
    game = objectives.LatentGame(ae, BilevelELBO(0.0))
    losses = game("prior", [Batch(x, None, pose)], {})
    for name, grad in gradients(losses.loss, ae).items():
        assert (grad.abs().max() > 0) <= name.startswith("prior."), name
    torch.manual_seed(0)
    joint = gradients(game("joint", [Batch(x, None, pose)], {}).loss, ae)
    torch.manual_seed(0)
    z = ae.guide(x, pose)
    alone = gradients(-ae.likelihood(ae.decode(z, pose), 3).log_prob(x).sum() / 4, ae)
    for name in joint:
        if not name.startswith("prior."):
            assert torch.equal(joint[name], alone[name]), name
    pose_encoder = [g for name, g in joint.items() if name.startswith("decoder.pose.")]
    assert any(g.abs().max() > 0 for g in pose_encoder)


@pytest.mark.parametrize("prior", ["flow", "autoregressive"])
def test_its_density_is_that_of_the_change_of_variables(prior):
    """log p(z | c) = log N(z_0; m, I) + log |det dz_0/dz|, the Jacobian by autograd through decoder and all."""
    ae = posed(prior).double()
    pose = torch.rand(1, 30, dtype=torch.float64)
    z = torch.randn(1, 160, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: ae.prior.to_base(z, pose)[0], z)[:, 0]
    base = ae.prior.to_base(z, pose)
    expected = ae.prior.base(pose).log_prob(base) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(ae.prior(pose).log_prob(z), expected)
    torch.testing.assert_close(ae.prior.to_latent(base, pose), z)


@pytest.mark.parametrize("prior", ["flow", "autoregressive"])
def test_a_finer_latent_knows_the_coarser_and_the_pose_and_not_the_reverse(prior):
    ae = posed(prior)
    z, pose = torch.randn(1, 160), torch.rand(1, 30)
    finer, coarser, moved = z.clone(), z.clone(), pose + 0.1
    finer[:, 16 * MOST :] += 1.0
    coarser[:, : 16 * MOST] += 1.0
    first, second = ae.prior.log_probs(z, pose)
    assert torch.equal(ae.prior.log_probs(finer, pose)[0], first)
    assert not torch.allclose(ae.prior.log_probs(finer, pose)[1], second)
    assert not torch.allclose(ae.prior.log_probs(coarser, pose)[1], second)
    assert not torch.allclose(ae.prior.log_probs(z, moved)[0], first)


# ---------------------------------------------------------------------
# the closed form of the original's KL
# ---------------------------------------------------------------------


def test_the_published_latents_have_the_known_kl():
    """Spec 15.36: equal means 0; means that differ by 1 in all 10,240 entries 5,120."""
    shapes = [(128, 4, 4), (128, 8, 8)]
    prior = priors.unet_autoregressive()
    for module in prior.modules():
        if isinstance(module, WeightNormConv):
            torch.nn.init.zeros_(module.gain)  # all means are then 0
    for shift, expected in ((0.0, 0.0), (1.0, 5120.0)):
        kl = 0.0
        for scale, shape in zip(prior.scales, shapes, strict=True):
            length = math.prod(shape)

            def guide(length=length, shift=shift):
                return pyro.sample(
                    "z", pyro.distributions.Normal(torch.full((length,), shift), 1.0).to_event(1)
                )

            def model(scale=scale, length=length):
                return pyro.sample("z", scale(torch.zeros(length)))

            kl += BilevelELBO(1.0, single_level=True, kl="analytic").losses(model, guide).terms["kl"].item()
        assert kl == pytest.approx(expected, abs=1e-2)


def test_the_closed_form_is_the_mean_of_the_sampled_one():
    """600 draws each; 6 standard errors of the difference: P < 1e-8."""
    ae, (x, pose) = posed("autoregressive"), people(1)
    x, pose = x.expand(600, -1, -1, -1), pose.expand(600, -1)
    elbos = [BilevelELBO(1.0, single_level=True, kl=kl) for kl in ("auto", "sampled")]
    with torch.no_grad():
        z = ae.guide(x, pose)
        q, p = ae.encode(x, pose), ae.prior(pose)
        sampled = q.log_prob(z) - p.log_prob(z)
        found = []
        for elbo in elbos:
            torch.manual_seed(0)
            found.append(elbo.losses(ae.model, ae.guide, x, pose).terms["kl"].item())
    error = sampled.std().item() / 600**0.5
    assert abs(found[0] - sampled.mean().item()) < 6 * 1.5 * error
    assert found[1] == pytest.approx(sampled.mean().item(), abs=6 * 1.5 * error)
    assert sampled.std() > 0.1, "the sampled one is noisy, else this tells nothing"


def test_the_ramp_and_the_rate_have_their_published_values():
    """Spec 15.37."""
    ramp, rate = Linear(start=0.5, stop=0.75, initial=1e-6), ConstantThenLinear(start=0.01, final=0.0)
    at = [Progress(0, step / 100_000) for step in (0, 50_000, 62_500, 75_000, 100_000)]
    assert [ramp(p) for p in at[:4]] == pytest.approx([1e-6, 1e-6, 0.5000005, 1.0], rel=1e-9)
    steps = [Progress(0, step / 100_000) for step in (0, 1_000, 50_500, 100_000)]
    assert [1e-3 * rate(p) for p in steps] == pytest.approx([1e-3, 1e-3, 5e-4, 0.0], abs=1e-12)


# ---------------------------------------------------------------------
# the autoencoder
# ---------------------------------------------------------------------


def test_a_posterior_is_unit_normals_about_means_that_know_the_coarser_latent():
    ae, (x, pose) = posed(), people(2)
    q = ae.encode(x, pose)
    z = q.rsample((3,))
    assert (z.shape, q.log_prob(z).shape) == ((3, 2, 160), (3, 2))
    assert (q.batch_shape, q.event_shape) == ((2,), (160,))
    at_mean = q.log_prob(q.mean[None])[0]
    torch.testing.assert_close(at_mean, torch.full((2,), -0.5 * 160 * math.log(2 * math.pi)))
    moved = q.mean + torch.cat([torch.ones(32), torch.zeros(128)])  # then the finer one's mean moves too
    assert (q.log_prob(moved[None])[0] < at_mean - 16.0 - 1e-3).all()


def test_initialization_makes_every_convolution_pass_on_units():
    ae, (x, pose) = posed("autoregressive", jiggled=False), people(16)
    deviations = []
    with torch.no_grad():
        ae.initialize(x, pose)
        for module in ae.modules():
            if isinstance(module, WeightNormConv):
                module.register_forward_hook(
                    lambda module, given, y: deviations.append(y.std((0, 2, 3)).mean())
                )
        z = ae.encode(x, pose).sample()
        ae.prior(pose).log_prob(z)
        image = ae.decode(z, pose)
    assert 0.7 < torch.stack(deviations).mean() < 1.3
    assert image.mean().item() == pytest.approx(0.5, abs=0.05)


def test_codes_broadcast_against_poses():
    ae, pose = posed(), torch.rand(3, 30)
    z = torch.randn(5, 1, 160)
    images = ae.decode(z, pose)
    assert images.shape == (5, 3, 3, 32, 32)
    torch.testing.assert_close(images[2, 1], ae.decode(z[2], pose[1:2])[0])
    draw = ae.draw(3, context=pose)
    assert (draw.images.shape, draw.latents.shape) == ((3, 3, 32, 32), (3, 160))
    assert ae.reconstruct(*people(2)).shape == (2, 3, 32, 32)


def test_two_stages_have_a_fixed_prior_of_both_latents_first():
    ae, (x, pose) = posed("flow"), people(2)
    game = objectives.LatentGame(ae, BilevelELBO(1.0))
    game.advance(Progress(0, 0.0, phase="autoencoder_only"))
    fixed = game.in_force()
    z = torch.randn(2, 160)
    torch.testing.assert_close(fixed.prior(pose).log_prob(z), priors.StandardNormal(160)().log_prob(z))
    assert game("autoencoder", [Batch(x, None, pose)], {}).loss.isfinite()
    assert {name.split(".")[0] for name in game.state_dict()} <= {"autoencoder", "beta"}


class NoNumbers(TorchDispatchMode):
    """Tensors refuse to become numbers, or to say where they are not zero: on a GPU the host would wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal"), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("prior", ["flow", "autoregressive"])
def test_a_step_does_not_wait_for_the_device_and_runs_in_half_precision(prior):
    ae, (x, pose) = posed(prior).train(), people(2)
    single = prior == "autoregressive"
    elbo = BilevelELBO(torch.tensor(0.5), single_level=single, kl="auto")
    game = objectives.LatentGame(ae, elbo, latent_reconstruction=0.1)
    for half in (False, True):
        with NoNumbers(), pyro.validation_enabled(False), torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = game("joint", [Batch(x, None, pose)], {})
        losses.loss.backward()
        assert losses.loss.dtype == torch.float32
        assert all(term.isfinite() for term in losses.terms.values())
        assert all(p.grad.isfinite().all() for p in ae.parameters() if p.grad is not None)
        assert all(z.dtype == torch.float32 for z in losses.latents.values())


def test_latent_reconstruction_moves_encoder_and_decoder_and_not_the_prior():
    ae, (x, pose) = posed("flow"), people(2)
    plain, remedied = (
        objectives.LatentGame(ae, BilevelELBO(0.0), latent_reconstruction=weight) for weight in (0.0, 2.0)
    )
    grads = []
    for game in (plain, remedied):
        torch.manual_seed(0)
        losses = game("joint", [Batch(x, None, pose)], {})
        grads.append(gradients(losses.loss, ae))
    error = losses.terms["latent_error"]
    assert error > 0.5 * 160 * math.log(2 * math.pi), "-log of a unit normal is more than at its mean"
    differ = {name.split(".")[0] for name in grads[0] if not torch.equal(grads[0][name], grads[1][name])}
    assert differ == {"encoder", "decoder"}
    with pytest.raises(ValueError, match="latent_reconstruction"):
        objectives.LatentGame(ae, BilevelELBO(0.0), latent_reconstruction=-1.0)


WRONG = {
    "no pose": (lambda ae: ae.encode(people(2)[0]), "call it with a context"),
    "no pose to decode": (lambda ae: ae.decode(torch.zeros(2, 160)), "call it with a context"),
    "more images than poses": (lambda ae: ae.encode(people(3)[0], people(2)[1]), "3 images and 2 contexts"),
    "another size": (lambda ae: ae.encode(*people(2, 64)).mean, "expected images of 32x32, got 64x64"),
    "a pose too short": (lambda ae: ae.prior(torch.zeros(2, 4)), "a context of length 30, got"),
    "unbound": (
        lambda ae: PRIORS["flow"]().walk(torch.zeros(2, 30), lambda number, h: h), "make an autoencoder of",
    ),
    "of one latent": (
        lambda ae: HierarchicalAutoencoder(*networks.mlp((1, 8, 8), 160), PRIORS["flow"](), ae.likelihood),
        "use network=vunet",
    ),
    "of other latents": (
        lambda ae: HierarchicalAutoencoder(ae.encoder, ae.decoder, priors.unet_flow(4, 1, 4), ae.likelihood),
        r"lengths \[64, 256\], and those of the decoder \[32, 128\]",
    ),
    "of a wrong context": (
        lambda ae: HierarchicalAutoencoder(
            ae.encoder, ae.decoder,
            priors.Hierarchy([priors.conditional_paper_flow(32, 3, 1, 4), priors.StandardNormal(128)]),
            ae.likelihood,
        ),
        "latent 1 has features of length 32, and its prior a context_dim of 3",
    ),
    "latents of another length": (
        lambda ae: networks.vunet((3, 32, 32), 64), "have length 10240 at most=128, and latent_dim=64"
    ),
    "grey images": (lambda ae: networks.vunet((1, 32, 32), 10240), "square images in colour"),
    "odd channels": (lambda ae: networks.vunet((3, 32, 32), 240, first=1, most=3), "even `most`"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_told_in_a_sentence(mistake):
    attempt, sentence = WRONG[mistake]
    with pytest.raises(ValueError, match=sentence):
        attempt(posed())


def test_total_correlation_is_of_one_latent():
    with pytest.raises(TypeError, match="has several"):
        objectives.TotalCorrelation(posed(), BilevelELBO(1.0), torch.nn.Linear(1, 2))


def test_whitening_of_a_latent_is_set_from_its_codes():
    """Each latent's prior estimates itself from its own codes, given the decoder's features."""
    ae = posed().double()
    whitened = priors.ConditionalFlow(32, [], context_dim=32, whiten="standardize")
    prior = priors.Hierarchy([whitened, priors.StandardNormal(128)])
    assert prior.estimates
    prior.bind(ae)
    codes = torch.randn(200, 160, dtype=torch.float64) * 3.0 + 1.0
    contexts = torch.rand(200, 2 * len(JOINTS), dtype=torch.float64)
    done = prior.double().fit(codes, contexts)
    assert done == {"latent 1, whitening": "standardize"}
    base = whitened.to_base(codes[:, :32], torch.zeros(200, 32, dtype=torch.float64))
    torch.testing.assert_close(base.mean(0), torch.zeros(32, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        base.std(0, correction=0), torch.ones(32, dtype=torch.float64), atol=1e-4, rtol=0
    )
