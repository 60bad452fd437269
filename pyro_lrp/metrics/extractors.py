"""The networks whose features metrics compare, by name."""

from __future__ import annotations

from collections.abc import Callable

from pyro_lrp.features import Inception
from pyro_lrp.metrics.classifier import domain_extractor
from pyro_lrp.metrics.subject import Extractor, Subject

__all__ = ["EXTRACTORS", "inception_extractor"]


def inception_extractor(subject: Subject) -> Extractor:
    """Inception-2015-12-05 as pytorch-fid has it: 2048 features of pool_3, 1008 logits without bias."""

    def make() -> Extractor:
        network = Inception(subject.weights.get("inception")).to(subject.device)
        key = f"inception_{network.sha256[:16]}"
        return Extractor("inception", key, network.features, 2048, network.record, network.logits)

    return subject.memo(("inception",), make)


EXTRACTORS: dict[str, Callable[[Subject], Extractor]] = {
    "inception": inception_extractor,
    "classifier": domain_extractor,
}
