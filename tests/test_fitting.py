"""A prior for codes from elsewhere: what is accepted, what is fitted, what is chosen, what is kept."""

import json

import numpy as np
import pytest
import torch
from commands import in_process

import pyro_lrp
from pyro_lrp import fitting
from pyro_lrp.core.errors import UserError
from pyro_lrp.fitting.codes import checked_codes
from pyro_lrp.fitting.contenders import Contender, candidates
from pyro_lrp.fitting.contest import chosen
from pyro_lrp.fitting.judge import Judge
from pyro_lrp.trainer.devices import make_fabric

GAUSSIAN = ["prior=mixture", "prior.components=1"]


def draws(n, d, seed=0):
    """Correlated normal codes."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mix + 3.0


def with_nan(z, *rows):
    z = z.clone()
    z[list(rows), 0] = float("nan")
    return z


Z = draws(200, 4)
MISTAKES = [
    ((torch.randn(30, 2),), {}, "codes: expected 40 at least, got 30"),
    ((torch.randn(50, 60),), {}, "50 codes of 60 dimensions are fewer than their dimensions; transpose them"),
    (
        (torch.randn(50, 3, 4),),
        {},
        r"expected a code in each row, (N, d) or (N, C, H, W), got an array (50, 3, 4)",
    ),
    ((torch.ones(50, 2, dtype=torch.long),), {}, "expected floats, got torch.int64"),
    ((np.array([[None, 1.0]] * 50),), {}, "expected an array of floats, got one of object"),
    ((with_nan(Z, 3, 17),), {}, "codes: 2 of 200 are not finite: rows 3, 17"),
    ((torch.cat([Z, torch.ones(200, 1)], 1),), {}, "codes: 1 of 5 dimensions never change: 4"),
    ((Z, torch.zeros(100, 2)), {}, "context: expected one for each of 200 codes, got 100"),
    ((Z, torch.zeros(200, dtype=torch.long) - 1), {}, "expected class labels (whole numbers from 0)"),
    ((Z, torch.zeros(200, 2, 2)), {}, "expected numbers (N, context_dim) or class labels (N,)"),
    ((Z,), {"held_out": torch.zeros(50, 3)}, "held_out: expected codes of shape (4,), got (3,)"),
    ((Z,), {"held_out": Z[:5]}, "held_out: expected 20 codes at least, got 5"),
    ((Z, Z), {"held_out": Z}, "context and held_out_context: give both or neither"),
    ((Z,), {"seconds": 0}, "seconds: expected a number above 0, got 0"),
    ((Z,), {"prior": "mixtur"}, "mixtur"),
    ((Z,), {"prior": "vamp"}, "computes with an encoder: it cannot be fitted to codes alone"),
    ((Z,), {"prior": "conditional_flow"}, "prior=conditional_flow is conditional, and there is no context"),
    ((Z, torch.rand(200, 2)), {"prior": "flow"}, "context has no effect: prior=flow takes none"),
    ((draws(200, 3),), {"prior": "flow"}, "expected an even latent_dim, got 3"),
    (
        (Z,),
        {"prior": ["prior=mixture", "prior.components=500"]},
        "a mixture of 500 components needs as many codes",
    ),
]


@pytest.mark.parametrize(("arguments", "options", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_sentence(arguments, options, message):
    with pytest.raises(UserError) as caught:
        pyro_lrp.fit(*arguments, **{"seconds": 1, "threads": 1, **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.asarray, torch.Tensor.double, torch.Tensor.half])
def test_arrays_of_any_float_are_codes(kind):
    checked = checked_codes(kind(Z))
    assert (checked.train.dtype, len(checked.train), len(checked.held_out)) == (torch.float32, 180, 20)
    both = torch.cat([checked.train, checked.held_out])
    assert torch.equal(
        both.sort(0).values, kind(Z).float().sort(0).values if kind is not np.asarray else Z.sort(0).values
    )


def test_one_normal_is_the_normal_of_the_codes():
    z = draws(2000, 3)
    fitted = pyro_lrp.fit(z, prior=GAUSSIAN, held_out=draws(100, 3, seed=1), seconds=5, threads=1)
    normal = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov(correction=0))
    torch.testing.assert_close(fitted.log_prob(z[:50]), normal.log_prob(z[:50]), rtol=1e-3, atol=1e-2)
    # the standard error of each mean of 20,000 samples is 0.007 deviations: 6 of them fail with p < 1e-8
    error = (fitted.sample(20_000).mean(0) - z.mean(0)) / z.std(0)
    assert error.abs().max() < 6 * 20_000**-0.5


def test_auto_chooses_the_nearest_of_all_it_tried():
    z = torch.cat([draws(1000, 2), 40 + draws(1000, 2, seed=1)])  # two normals
    lines = []
    fitted = pyro_lrp.fit(z, seconds=3, threads=1, log=lines.append)
    tried = {row.prior: row for row in fitted.table}
    assert {"prior=flow_matching", "prior=spline prior.whiten=standardize"} <= set(tried)
    assert len(tried) == 6 == len({line.partition(":")[0] for line in lines})
    chosen = tried[" ".join(fitted.overrides)]
    nearest = min(fitted.table, key=lambda row: row.distance)
    assert chosen.distance - nearest.distance <= 2 * np.hypot(chosen.error, nearest.error)
    one = tried["prior=mixture prior.components=1 prior.em_iterations=10"]
    assert one.distance > 0.1  # of samples that lie between the two
    assert chosen.distance < 0.1 * one.distance
    assert str(fitted).splitlines()[-1] == f"chosen: {' '.join(fitted.overrides)}"


def test_priors_lead_to_it():
    assert pyro_lrp.priors.fit is pyro_lrp.fit
    assert not hasattr(pyro_lrp.priors, "fitted")


def test_large_codes_are_left_to_mixtures():
    tried = candidates(checked_codes(torch.randn(1200, 1100)))
    assert {name[0] for name in tried} == {"prior=mixture"}
    assert all("prior.covariance=diag" in name for name in tried)


def priors_of(codes):
    """The priors that are tried for codes, without their mixtures."""
    return [name[:2] for name in candidates(checked_codes(codes)) if name[0] != "prior=mixture"]


def test_maps_have_a_flow_of_maps_whatever_their_size():
    assert ("prior=spatial_flow", "prior.shape=[4,2,2]") in priors_of(torch.randn(100, 4, 2, 2))
    assert priors_of(torch.randn(40, 4, 32, 32)) == [("prior=spatial_flow", "prior.shape=[4,32,32]")]
    assert priors_of(torch.randn(40, 3, 32, 32)) == []  # its couplings divide channels by two
    assert not any("prior=spatial_flow" in name for name in priors_of(torch.randn(100, 16)))


def contender(distance, error, nll):
    made = Contender(GAUSSIAN, checked_codes(Z), make_fabric("cpu", "32"), 0)
    made.distance = distance
    made.error = error
    made.nll = nll
    return made


@pytest.mark.parametrize(
    ("measured", "winner"),
    [
        ([(0.01, 0.001, 9.0), (0.02, 0.001, 1.0)], 0),  # farther than noise explains
        ([(0.010, 0.001, 9.0), (0.012, 0.001, 1.0)], 1),  # as near, and likelier
        ([(0.010, 0.001, 1.0), (0.012, 0.001, 9.0)], 0),
    ],
)
def test_of_several_that_are_as_near_the_likeliest_is_chosen(measured, winner):
    contenders = [contender(*values) for values in measured]
    assert chosen(contenders) is contenders[winner]


def test_the_judge_sees_a_context_that_is_ignored():
    labels = torch.arange(2000) % 2
    z = torch.randn(2000, 2) + 6.0 * labels[:, None]
    codes = checked_codes(z, labels)
    judge = Judge(codes, torch.device("cpu"), 0)

    class Known(torch.nn.Module):
        shift = 6.0

        def forward(self, context):
            return torch.distributions.Normal(self.shift * context[:, 1:].expand(-1, 2), 1.0)

    known = Known()
    right, error = judge.distance(known)
    known.shift = 0.0
    wrong, _ = judge.distance(known)
    assert right < 0.02 < 0.5 < wrong
    assert 0 < error < 0.01


def test_gradient_descent_goes_on_from_round_to_round_and_the_best_is_kept():
    codes = checked_codes(draws(400, 2))
    contender = Contender(["prior=realnvp", "prior.layers=1"], codes, make_fabric("cpu", "32"), 0)
    contender.learn(0.2)
    steps = contender.steps
    contender.judged(1.0)
    kept = {name: value.clone() for name, value in contender.prior.state_dict().items()}
    contender.learn(0.2)
    assert contender.steps > steps > 0
    assert any(not torch.equal(kept[name], value) for name, value in contender.prior.state_dict().items())
    contender.judged(2.0)
    contender.restore()
    assert contender.distance == 1.0
    assert all(torch.equal(kept[name], value) for name, value in contender.prior.state_dict().items())


@pytest.mark.parametrize(("prior", "seconds"), [(GAUSSIAN, 10), ("spline", 0.5)])
def test_what_is_saved_is_what_was_fitted(tmp_path, prior, seconds):
    fitted = pyro_lrp.fit(Z, prior=prior, seconds=seconds, threads=1)
    fitted.save(tmp_path)
    again = fitting.load(tmp_path)
    assert torch.equal(again.log_prob(Z[:3]), fitted.log_prob(Z[:3]))
    assert str(again) == str(fitted)
    assert (again.overrides, again.shape, again.seed) == (fitted.overrides, fitted.shape, fitted.seed)


def test_maps_come_back_as_maps(tmp_path):
    fitted = pyro_lrp.fit(torch.randn(60, 2, 3, 3), prior=GAUSSIAN, seconds=5, threads=1)
    assert fitted.sample(5).shape == (5, 2, 3, 3)
    assert fitted.log_prob(torch.randn(4, 2, 3, 3)).shape == (4,)
    with pytest.raises(ValueError, match=r"expected codes of shape \(2, 3, 3\), got \(18,\)"):
        fitted.log_prob(torch.randn(4, 18))


def test_classes_are_drawn_as_asked_for():
    labels = torch.arange(1000) % 2
    z = 0.1 * torch.randn(1000, 2) + 4.0 * labels[:, None]
    fitted = pyro_lrp.fit(z, labels, seconds=2, threads=1)
    assert fitted.overrides[0] == "prior=conditional_flow"
    means = [fitted.sample(200, context=torch.eye(2)[label]).mean().item() for label in (0, 1)]
    assert means[0] < 1.5 < 2.5 < means[1]
    with pytest.raises(UserError, match="expected one of 2 numbers for each code"):
        fitted.sample(3)


def test_a_strangers_prior_builds_nothing_else(tmp_path):
    fitted = pyro_lrp.fit(Z, prior=GAUSSIAN, seconds=5, threads=1)
    identity = json.loads(json.dumps(fitted.identity))
    identity["prior"]["_target_"] = "os.system"
    path = pyro_lrp.fitting.Fitted(**{**vars(fitted), "identity": identity}).save(tmp_path)
    with pytest.raises(UserError, match="os.system"):
        fitting.load(path)


def save_npy(path):
    np.save(path.with_suffix(".npy"), Z.numpy())
    return path.with_suffix(".npy")


def save_npz(path):
    np.savez(path.with_suffix(".npz"), codes=Z.numpy(), names=np.arange(3))
    return path.with_suffix(".npz")


def save_pt(path):
    torch.save({"codes": Z}, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def save_safetensors(path):
    from safetensors.torch import save_file

    save_file({"z": Z}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


@pytest.fixture
def fit(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return in_process("fit", *arguments, "device=cpu", "threads=1", capsys=capsys, monkeypatch=monkeypatch)

    return run


@pytest.mark.parametrize("save", [save_npy, save_npz, save_pt, save_safetensors])
def test_the_command_reads_files_of_codes(save, fit, tmp_path):
    code, out, err = fit(f"codes={save(tmp_path / 'mine').name}", *GAUSSIAN, "seconds=5", "n=7")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["runs/fit/mine/prior.safetensors", "runs/fit/mine/samples.npy"]
    assert np.load("runs/fit/mine/samples.npy").shape == (7, 4)
    assert fitting.load("runs/fit/mine").sample(2).shape == (2, 4)


def test_the_command_takes_labels_beside_the_codes(fit):
    np.savez("c.npz", codes=Z.numpy(), labels=np.arange(200) % 3)
    code, out, _ = fit("codes=c.npz", "seconds=0.2", "out=here")
    assert code == 0
    assert fitting.load("here").context_dim == 3


@pytest.mark.parametrize("key", ["labels", "context"])
def test_the_command_takes_labels_from_a_file(fit, key):
    np.save("z.npy", Z.numpy())
    np.save("l.npy", np.arange(200) % 3)
    code, _, _ = fit("codes=z.npy", f"{key}=l.npy", "prior=conditional_flow", "seconds=0.2", "out=here")
    assert code == 0
    assert fitting.load("here").classes == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which codes? say codes=FILE"),
        (("codes=none.npy",), "none.npy: there is no such file"),
        (("codes=c.csv",), "c.csv: expected a file that ends in .npy, .npz, .pt, .safetensors"),
        (("codes=pickle.npy",), "pickle.npy cannot be read, or holds objects that are no arrays"),
        (("codes=object.pt",), "object.pt cannot be read, or holds objects that are no arrays"),
        (("codes=two.npz",), "two.npz holds a, b: expected one of them to be called codes or z or latents"),
        (("codes=z.npy", "second=3"), "unknown key second; the known ones are codes, context"),
        (("codes=z.npy", "seconds=soon"), "seconds: expected a number, got soon"),
        (("codes=z.npy", "labels=l.npy", "context=l.npy"), "labels and context: give one of them"),
        (("codes=z.npy", "n=-1"), "n: expected a whole number of at least 0, got -1"),
        (
            ("codes=z.npy", "prior=auto", "prior.components=3"),
            "prior.components=3 needs a prior: say prior=NAME",
        ),
        (("codes=z.npy", "out=z.npy/here"), "out=z.npy/here cannot be made (Not a directory)"),
        (("codes=z.npy", "--fast"), "--fast is no argument: expected key=value"),
    ],
)
def test_a_mistake_of_the_command_is_one_line(fit, arguments, message):
    np.save("z.npy", Z.numpy())
    np.save("pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    torch.save(pytest.approx, "object.pt")
    np.savez("two.npz", a=Z.numpy(), b=Z.numpy())
    code, _, err = fit(*arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert message in err
