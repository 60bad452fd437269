"""How far apart images are to a network: samples of one prior, and the steps of a path between two images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import derive_seed, seeded
from pyro_lrp.latents import views as explore
from pyro_lrp.metrics.metric import Metric, labels_or_attributes, result
from pyro_lrp.metrics.path_length import perceptual_path_length
from pyro_lrp.metrics.perceptual_distance import (
    Judge,
    at_once,
    classifier_judge,
    lpips_judge,
    place,
    standard_error,
)
from pyro_lrp.metrics.subject import Results, Subject, as_files

__all__ = ["METRICS", "lpips_diversity", "perceptual_change"]

_STEPS = 16  # images of a path


@torch.no_grad()
def lpips_diversity(subject: Subject, name: str, judge: Callable[[Subject], Judge]) -> Results:
    """Mean LPIPS of pairs of prior samples: 19 pairs for each of 100 contexts, or 1,900 pairs without contexts.

    Both images of a pair have the context of one test image. Of a made data set of poses, ``<name>_truth`` is
    that of pairs of its own images of the same poses: what a model that is right has.

    Args:
        subject: Under judgement; ``n`` counts contexts, ``k`` the pairs of each.
        name: Of the result.
        judge: Makes the distance.

    References:
        Zhu et al. (2017), Toward Multimodal Image-to-Image Translation, arXiv:1711.11586, for the score;
        Huang et al. (2018), Multimodal Unsupervised Image-to-Image Translation, arXiv:1804.04732, for pairs.
    """
    measure, pairs = judge(subject), subject.repeats(19)
    conditional = bool(subject.autoencoder.prior.context_dim)
    test = subject.some(subject.data.test, subject.count(100), "lpips_diversity")
    groups = len(test) if conditional else subject.count(100)
    contexts = test.context if conditional else torch.zeros(groups, 0)
    parts, true = [], []
    rows = torch.arange(groups).repeat_interleave(pairs).split(at_once(subject))
    for number, part in enumerate(subject.steps(rows, groups * pairs)):
        context = contexts[part].to(subject.device)
        with seeded(subject.seed, "evaluate", "lpips_diversity", number):
            x, y = (_samples(subject, context) for _ in range(2))
        parts.append(_apart(subject, measure, x, y))
        if subject.data.truth is not None and conditional:
            seeds = (derive_seed(subject.seed, "evaluate", "diversity", number, end) for end in range(2))
            draws = (subject.data.truth.draw(test.extras["joints"][part].cpu(), seed) for seed in seeds)
            true.append(_apart(subject, measure, *(images.float() / 255 for images in draws)))
    protocol = {
        **measure.record,
        "pairs": f"{pairs} for each context, sharing it" if conditional else "of prior samples",
        "contexts": f"of {groups} test images" if conditional else None,
        "images": "decoder means, clipped to [0, 1], rounded to uint8",
    }
    of_truth = {**protocol, "pairs": "of the data set's own images of these poses", "images": "as made"}
    sets = {name: (parts, protocol)} | ({f"{name}_truth": (true, of_truth)} if true else {})
    size = pairs if conditional else 1  # pairs of one context are not independent
    return {key: _mean(subject, torch.cat(found), size, said) for key, (found, said) in sets.items()}


def _mean(subject: Subject, values: Tensor, size: int, protocol: dict[str, Any]) -> dict[str, Any]:
    """Of distances, in groups of ``size`` that are independent; NaN where there is none."""
    kept, means = values[values.isfinite()], values.reshape(-1, size).nanmean(1)
    return result(
        subject, kept.mean().item(), len(kept), protocol,
        standard_error=standard_error(means[means.isfinite()]), non_finite=len(values) - len(kept),
    )  # fmt: skip


def _apart(subject: Subject, judge: Judge, x: Tensor, y: Tensor) -> Tensor:
    """Distances of pairs, on the CPU; NaN where an image is not finite."""
    finite = (x.isfinite() & y.isfinite()).flatten(1).all(1)
    x, y = (as_files(images).to(place(subject)) for images in (x, y))
    return torch.where(finite.to(x.device), judge.distance(x, y), torch.nan).cpu().double()


def _samples(subject: Subject, context: Tensor) -> Tensor:
    """Mean images of prior samples, those that are not finite among them."""
    autoencoder = subject.autoencoder
    with eval_mode(autoencoder):
        return autoencoder.decode(autoencoder.prior(context).sample(), context)


@torch.no_grad()
def perceptual_change(subject: Subject, name: str, network: str) -> Results:
    """LPIPS from step to step on paths of 16 images between two test images, in z_0 (round) and z_T (straight).

    Both paths end at the posterior means of the two. A path of even speed has the same median at every step.

    Args:
        subject: Under judgement; 5,000 pairs of test images by default.
        name: Of the results, ``<name>_z0`` (if the prior has a base) and ``<name>_zT``.
        network: LPIPS's trunk.

    Returns:
        Results whose value is the coefficient of variation of the 15 medians, and whose ``median``, ``low`` and
        ``high`` are the median and the 5th and 95th percentile of each step.
    """
    judge, n, test = lpips_judge(subject, network), subject.count(5_000, 200), subject.data.test
    with seeded(subject.seed, "evaluate", "perceptual_change"):
        first = torch.randint(len(test), (n,))
        second = (first + torch.randint(1, max(2, len(test)), (n,))) % len(test)
    results = {}
    for space in ("z0", "zT") if subject.autoencoder.prior.has_base else ("zT",):
        pairs = torch.stack([first, second], 1).split(max(1, at_once(subject) // _STEPS))
        parts = []
        for pair in subject.steps(pairs, n):
            images = _sequence(subject, pair, space).to(place(subject))
            parts.append(explore.changes(images, judge.distance, at_once(subject)).cpu().double())
        found = torch.cat(parts)
        kept = found[found.isfinite().all(1)]
        protocol = {**judge.record, **_change_protocol(subject, space)}
        summary = _summary(kept) | {"non_finite": n - len(kept)}
        results[f"{name}_{space}"] = result(subject, summary.pop("value"), len(kept), protocol, **summary)
    return results


def _sequence(subject: Subject, pair: Tensor, space: str) -> Tensor:
    """Images of paths between pairs of test images ``(S, 2)``: ``(S, 16, C, H, W)``."""
    autoencoder = subject.autoencoder
    batch = subject.data.test[pair.T.flatten()].batch(slice(None))
    contexts = batch.context.to(subject.device)
    a, b = explore.means(autoencoder, batch.x.to(subject.device), contexts).chunk(2)
    context = contexts[: len(pair)]  # of the first, on the whole path
    t = torch.linspace(0, 1, _STEPS, dtype=a.dtype, device=a.device)
    where = explore.Space(autoencoder, {"z0": "base", "zT": "latent"}[space], context)
    return explore.decode(autoencoder, where.path(a, b, t), context)


def _summary(changes: Tensor) -> dict[str, Any]:
    """Of steps, ``(S, T - 1)``."""
    if not len(changes):
        empty = [None] * changes.shape[1]
        return {"value": float("nan"), "median": empty, "low": empty, "high": empty}
    low, median, high = changes.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=changes.dtype), dim=0)
    value = (median.std(correction=0) / median.mean()).item()
    return {"value": value, "median": median.tolist(), "low": low.tolist(), "high": high.tolist()}


def _change_protocol(subject: Subject, space: str) -> dict[str, Any]:
    conditional = bool(subject.autoencoder.prior.context_dim)
    return {
        "endpoints": f"posterior means of two random test images of {subject.data.name}",
        "path": "spherical, in z_0" if space == "z0" else "straight, in z_T",
        "context": "of the first image" if conditional else None,
        "steps": _STEPS - 1,
        "value": "standard deviation over mean of the steps' medians",
        "low_high": "5th and 95th percentile",
        "images": "decoder means, neither clipped nor rounded nor cropped",
    }


def _path_length(name: str, network: str, *, hours: bool = False) -> Metric:
    judge = partial(lpips_judge, network=network)
    return Metric(partial(perceptual_path_length, name=name, judge=judge), network=network, hours=hours)


def _diversity(name: str, network: str) -> Metric:
    judge = partial(lpips_judge, network=network)
    return Metric(partial(lpips_diversity, name=name, judge=judge), network=network)


def _change(name: str, network: str) -> Metric:
    return Metric(partial(perceptual_change, name=name, network=network), network=network)


METRICS = {
    "ppl": _path_length("ppl", "vgg16", hours=True),
    "ppl_squeezenet": _path_length("ppl_squeezenet", "squeezenet"),
    "ppl_classifier": Metric(
        partial(perceptual_path_length, name="ppl_classifier", judge=classifier_judge),
        needs=(labels_or_attributes,),
    ),
    "lpips_diversity": _diversity("lpips_diversity", "alexnet"),
    "lpips_diversity_squeezenet": _diversity("lpips_diversity_squeezenet", "squeezenet"),
    "diversity_classifier": Metric(
        partial(lpips_diversity, name="diversity_classifier", judge=classifier_judge),
        needs=(labels_or_attributes,),
    ),
    "perceptual_change": _change("perceptual_change", "vgg16"),
    "perceptual_change_squeezenet": _change("perceptual_change_squeezenet", "squeezenet"),
}
