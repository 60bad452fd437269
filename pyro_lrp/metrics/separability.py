"""Linear separability: how well linear functions of a code tell what its image shows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded
from pyro_lrp.metrics.attribute_classifier import attribute_classifier, attribute_names, attribute_record
from pyro_lrp.metrics.classifier import JUDGED, class_classifier, class_record
from pyro_lrp.metrics.metric import Metric, attributes, labels, result
from pyro_lrp.metrics.own_network import OwnNetwork
from pyro_lrp.metrics.subject import Results, Subject, as_files, no_progress

__all__ = ["METRICS", "Separability", "conditional_entropy", "confident_half", "separability"]


class Separability(NamedTuple):
    r"""What :func:`separability` finds.

    Attributes:
        score: :math:`\exp \sum_i H(Y_i|X_i)`: 1 if each attribute is told exactly, at most ``chance``.
        chance: :math:`\exp \sum_i H(Y_i)`: the score of codes that tell nothing.
        entropies: :math:`H(Y_i|X_i)` in nats, float64 of shape ``(A,)``.
        accuracies: Share of labels that the i-th machine predicts, likewise.
        single_class: Attributes with one value only, which count as told exactly.
        not_converged: Attributes whose machine the solver left before it was optimal.
    """

    score: float
    chance: float
    entropies: Tensor
    accuracies: Tensor
    single_class: tuple[int, ...]
    not_converged: tuple[int, ...]


def conditional_entropy(table: Tensor) -> float:
    """H(Y|X) = H(Y) - I(X;Y) in nats, at least 0.

    Args:
        table: Counts or probabilities of X (rows) and Y (columns), shape ``(values of X, values of Y)``.

    >>> round(conditional_entropy(torch.tensor([[0.4, 0.1], [0.1, 0.4]])), 6)
    0.500402
    """
    p = torch.as_tensor(table, dtype=torch.float64)
    if p.dim() != 2 or not (p >= 0).all() or not 0 < p.sum() < math.inf:
        raise ValueError(f"expected a table of counts or probabilities, got {table}")
    p = p / p.sum()
    entropy = torch.special.entr
    return max(0.0, (entropy(p).sum() - entropy(p.sum(1)).sum()).item())


def separability(
    latents: Tensor, labels: Tensor, keep: Tensor | None = None, *, max_iter: int = 1000,
    on_step: Callable[[int, int], None] = no_progress,
) -> Separability:  # fmt: skip
    r"""Linear separability of binary attributes, :math:`\exp \sum_i H(Y_i|X_i)`.

    For each attribute a linear support vector machine (scikit-learn's ``LinearSVC``: C = 1, squared hinge, L2,
    solved in the primal) is fitted to the labels :math:`Y_i` and predicts :math:`X_i` of the same codes.

    Args:
        latents: Codes, shape ``(N, d)``.
        labels: 0 or 1 for each code and attribute, shape ``(N, A)``.
        keep: Which codes count for which attribute, bool of shape ``(N, A)``; all if None.
        max_iter: At most so many iterations of a solver.
        on_step: Called with the attributes done and all.

    Raises:
        ValueError: If shapes do not fit, codes are not finite, labels are others than 0 and 1, or for an
            attribute no code is kept.

    References:
        Karras et al. (2019), A Style-Based Generator Architecture for GANs, section 4.2, arXiv:1812.04948.

    >>> z = torch.linspace(-1, 1, 100)[:, None]
    >>> separability(z, z > 0).score
    1.0
    """
    keep = torch.ones_like(labels, dtype=torch.bool) if keep is None else keep
    _check(latents, labels, keep)
    codes = latents.detach().cpu().double().numpy()
    wanted, kept = labels.detach().cpu().numpy().astype(np.int64), keep.detach().cpu().numpy()
    total = wanted.shape[1]

    def told(a: int) -> tuple[Tensor, bool]:
        return _joint_table(codes[kept[:, a]], wanted[kept[:, a], a], max_iter)

    tables, not_converged = [], []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in the result
        for a, (table, converged) in enumerate(pool.map(told, range(total))):
            tables.append(table)
            not_converged += [] if converged else [a]
            on_step(a + 1, total)
    return _summary(torch.stack(tables), tuple(not_converged))


def confident_half(confidence: Tensor) -> Tensor:
    """The half of the rows with the largest values, column by column: bool, shape ``(N, A)`` like its argument.

    Of an odd number of rows the larger half; of equal values the first.

    >>> confident_half(torch.tensor([[0.1], [3.0], [0.2], [2.0]])).flatten().tolist()
    [False, True, False, True]
    """
    order = confidence.argsort(dim=0, descending=True, stable=True)
    return torch.zeros_like(confidence, dtype=torch.bool).scatter(0, order[: (len(order) + 1) // 2], True)


def _check(latents: Tensor, labels: Tensor, keep: Tensor) -> None:
    if latents.dim() != 2 or labels.dim() != 2 or len(latents) != len(labels) or keep.shape != labels.shape:
        shapes = [tuple(t.shape) for t in (latents, labels, keep)]
        raise ValueError(f"expected latents (N, d), labels (N, A) and keep (N, A), got {shapes}")
    if not torch.isfinite(latents).all():
        raise ValueError("latents are not finite")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("expected labels of 0 and 1")
    if not keep.any(0).all():
        raise ValueError("expected at least one code that is kept for each attribute")


def _joint_table(codes: np.ndarray, wanted: np.ndarray, max_iter: int) -> tuple[Tensor, bool]:
    """How often X (rows) is predicted where Y (columns) is wanted; whether the solver converged."""
    told, converged = wanted, True
    if wanted.min() != wanted.max():  # else there is nothing to fit: the prediction counts as perfect
        machine = LinearSVC(dual=False, max_iter=max_iter, random_state=0).fit(codes, wanted)
        told, converged = machine.predict(codes), machine.n_iter_ < max_iter
    counts = np.bincount(2 * told + wanted, minlength=4).reshape(2, 2)
    return torch.from_numpy(counts).double(), bool(converged)


def _summary(tables: Tensor, not_converged: tuple[int, ...]) -> Separability:
    entropies = torch.tensor([conditional_entropy(table) for table in tables], dtype=torch.float64)
    shares = tables.sum(1) / tables.sum((1, 2))[:, None]
    chance = torch.special.entr(shares).sum().exp().item()
    right = tables.diagonal(dim1=1, dim2=2).sum(1) / tables.sum((1, 2))
    single = tuple((shares == 1).any(1).nonzero().flatten().tolist())
    return Separability(entropies.sum().exp().item(), chance, entropies, right, single, not_converged)


# ------------------------------------------------------------------------- of a trained model


class _Draws(NamedTuple):
    """Prior samples: codes by space, float32 ``(N, d)``, and the logits of their images."""

    codes: dict[str, Tensor]
    logits: Tensor
    non_finite: int


def _attributes(subject: Subject) -> Results:
    """Of the data set's attributes, as an attribute classifier tells them from prior samples.

    The images are the same for each space; z_0 is a draw of the prior's base, z_T what the flow makes of it.
    For each attribute the half of the images counts whose logit has the larger absolute value, which is the
    half with the larger max softmax([l, -l]). Inputs are raw, as in StyleGAN, and standardised too, since the
    machine's penalty depends on the scale of codes.
    """
    network, names = attribute_classifier(subject), attribute_names(subject.data)
    draws = _draw(subject, network, subject.count(200_000, 20_000))
    filter_ = "for each attribute the half with the larger |logit|"
    return _results(
        subject, "separability", draws, draws.logits > 0, confident_half(draws.logits.abs()), names,
        attribute_record(network, subject.data) | {"kept": filter_},
    )  # fmt: skip


def _classes(subject: Subject) -> Results:
    """The same of classes, each against the rest, as the class classifier tells them.

    The labels of an image are 1 for the class with the largest logit and 0 for the others. Of the images of
    each such class the half with the larger max softmax counts, the same images for every label: half of all
    would be of the classes that the network is surer of.
    """
    network = class_classifier(subject)
    draws = _draw(subject, network, subject.count(200_000, 20_000))
    classes = draws.logits.shape[1]
    told = torch.nn.functional.one_hot(draws.logits.argmax(1), classes).bool()
    filter_ = "of the images taken for each class the half with the larger max softmax"
    return _results(
        subject, "class_separability", draws, told, _sure_of_class(draws.logits).expand(-1, classes),
        [str(c) for c in range(classes)],
        class_record(network, subject.data) | {"labels": "each class against the rest", "kept": filter_},
    )  # fmt: skip


def _sure_of_class(logits: Tensor) -> Tensor:
    """The half of each class with the larger max softmax p, bool ``(N, 1)``.

    By the log-odds of p, which are finer: in float32 a confident p is 1 whatever the logits.
    """
    most, taken = logits.max(1, keepdim=True)
    odds = most - logits.scatter(1, taken, -math.inf).logsumexp(1, keepdim=True)
    keep = torch.zeros_like(odds, dtype=torch.bool)
    for label in taken.unique():
        own = taken == label
        keep[own] = confident_half(odds[own])
    return keep


@torch.no_grad()
def _draw(subject: Subject, network: OwnNetwork, n: int) -> _Draws:
    """Only codes and logits are kept of the images, which come in chunks."""
    parts: list[dict[str, Tensor]] = []
    for start in subject.steps(range(0, n, subject.at_once), n, lambda _: subject.at_once):
        with seeded(subject.seed, "evaluate", "separability", start):
            codes, images = _chunk(subject, min(subject.at_once, n - start))
        rows = [*codes.values(), images]
        finite = torch.stack([torch.isfinite(part.flatten(1)).all(1) for part in rows]).all(0)
        if finite.any():
            found = {space: part[finite].flatten(1).cpu() for space, part in codes.items()}
            parts.append(found | {"logits": network(as_files(images[finite])).cpu()})
    if not parts:
        raise UserError(f"none of {n} prior samples is finite: there is nothing to judge")
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    logits = joined.pop("logits")
    return _Draws(joined, logits, n - len(logits))


def _chunk(subject: Subject, size: int) -> tuple[dict[str, Tensor], Tensor]:
    """Codes of prior samples by space, and their images."""
    autoencoder, prior, context = subject.autoencoder, subject.autoencoder.prior, subject.contexts(size)
    with eval_mode(autoencoder):
        if not prior.has_base:
            latent = prior(context).sample()
            return {"zT": latent}, autoencoder.decode(latent, context)
        base = prior.base(context).sample()
        latent = prior.to_latent(base, context)
        return {"z0": base, "zT": latent}, autoencoder.decode(latent, context)


def _results(
    subject: Subject, prefix: str, draws: _Draws, told: Tensor, keep: Tensor, names: Sequence[str],
    protocol: dict[str, Any],
) -> Results:  # fmt: skip
    """A result for each space, and for raw and standardised codes in it."""
    protocol = {
        **protocol,
        "kept_images": int(keep[:, 0].sum()),
        "machine": "LinearSVC (C = 1, squared hinge, primal), judged on the codes it was fitted to",
        "images": JUDGED,
        "non_finite_samples": draws.non_finite,
    }
    results: Results = {}
    for space, codes in draws.codes.items():
        standard = torch.from_numpy(StandardScaler().fit_transform(codes.double().numpy()))
        for suffix, inputs in (("", codes), ("_standardized", standard)):
            found = separability(inputs, told, keep, on_step=subject.on_step)
            said = {**protocol, "input": space, "scale": suffix.lstrip("_") or "raw"}
            results[f"{prefix}_{space}{suffix}"] = result(
                subject, found.score, len(codes), said, **_details(found, names)
            )
    return results


def _details(found: Separability, names: Sequence[str]) -> dict[str, Any]:
    """What a result holds beside the score."""
    lists = {
        "single_class": [names[a] for a in found.single_class],
        "not_converged": [names[a] for a in found.not_converged],
    }
    notes = [f"{len(found.single_class)} of {len(names)} have one value only"] if found.single_class else []
    notes += [f"{len(found.not_converged)} machines did not converge"] if found.not_converged else []
    return {
        "chance": found.chance,
        "entropies": dict(zip(names, found.entropies.tolist(), strict=True)),
        "accuracies": dict(zip(names, found.accuracies.tolist(), strict=True)),
        **lists,
        **({"warning": "; ".join(notes)} if notes else {}),
    }


METRICS = {
    "separability": Metric(_attributes, needs=(attributes,)),
    "class_separability": Metric(_classes, needs=(labels,)),
}
