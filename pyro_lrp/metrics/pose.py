"""``pose_recovery``: whether images made for a pose are of that pose, by markers that a detector finds."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import chunks
from pyro_lrp.metrics.metric import Metric, result
from pyro_lrp.metrics.subject import Results, Subject, as_files
from pyro_lrp.people import GroundTruth

__all__ = ["METRICS", "pose_recovery"]

_NEAR = 4 / 64  # of the image's side: how far a marker may lie from where the pose has it


def truth(subject: Subject) -> str | None:
    """The data set is one whose detector knows where joints are, and the model is given poses."""
    if subject.data.truth is None or not subject.autoencoder.prior.context_dim:
        return "needs a run that is given poses, of a data set that marks joints, such as data=posed_figures"
    return None


@torch.no_grad()
def pose_recovery(subject: Subject) -> Results:
    """Share of markers that are found within 4 pixels (of 64) of their place, of those found in real images.

    Each test image's pose is given to the model, and one sample drawn (2,000 by default). Results are of
    ``pose_recovery`` (samples), ``_reconstructions``, ``_real`` (the test images themselves: the best there is)
    and ``_of_another_pose`` (samples held against the next image's pose: what chance gives).
    """
    truth = subject.data.truth
    assert truth is not None, "asked for above"
    test = subject.some(subject.data.test, subject.count(2_000), "pose_recovery")
    found: dict[str, list[Tensor]] = {"": [], "_reconstructions": [], "_real": []}
    for number, batch in enumerate(subject.steps(chunks(test), len(test), lambda batch: len(batch.x))):
        x, context = batch.x.to(subject.device), batch.context
        context = context.to(subject.device)
        with seeded(subject.seed, "evaluate", "pose_recovery", number), eval_mode(subject.autoencoder):
            samples = subject.autoencoder.decode(subject.autoencoder.prior(context).sample(), context)
            made = {"": samples, "_reconstructions": subject.autoencoder.reconstruct(x, context), "_real": x}
        for name, images in made.items():
            found[name].append(truth.find(as_files(images.nan_to_num()).cpu()))
    assert "joints" in test.extras, "the data set marks them"
    expected = truth.expected(test.extras["joints"].cpu())
    side = subject.data.image_shape[-1]
    where = {name: torch.cat(parts) for name, parts in found.items()}
    seen = _hits(where["_real"], expected, side)
    results = {}
    for name, places in {**where, "_of_another_pose": where[""].roll(1, 0)}.items():
        hits = _hits(places, expected, side)
        per_marker = [
            (hits[:, m] & seen[:, m]).sum().item() / max(1, seen[:, m].sum().item())
            for m in range(hits.shape[1])
        ]
        share = (hits & seen).sum().item() / max(1, seen.sum().item())
        results[f"pose_recovery{name}"] = result(
            subject, share, int(seen.sum()), _protocol(truth, side),
            standard_error=(share * (1 - share) / max(1, int(seen.sum()))) ** 0.5,
            by_marker=dict(zip(truth.markers, per_marker, strict=True)),
        )  # fmt: skip
    return results


def _hits(places: Tensor, expected: Tensor, side: int) -> Tensor:
    """Which markers, ``(N, M)``, are found and near enough."""
    return ((places - expected).norm(dim=-1) <= _NEAR * side).nan_to_num().bool()


def _protocol(truth: GroundTruth, side: int) -> dict[str, object]:
    return {
        "markers": list(truth.markers),
        "within_pixels": _NEAR * side,
        "of": "markers that the same detector finds there in the real image",
        "images": "decoder means, clipped to [0, 1], rounded to uint8",
    }


METRICS = {"pose_recovery": Metric(pose_recovery, needs=(truth,))}
