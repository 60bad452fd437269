"""Priors: modules that return a Pyro distribution over codes z when called, with or without a context.

A flow maps its base, z_0, to the latent space, z_T, by ``to_latent``, and back by ``to_base``.
"""

from typing import Any

from pyro_lrp.priors.core import Prior, StandardNormal
from pyro_lrp.priors.flow import (
    ConditionalFlow,
    ConditionalFlowDistribution,
    Flow,
    FlowDistribution,
    conditional_paper_flow,
    paper_flow,
)
from pyro_lrp.priors.flow_matching import FlowMatching, FlowMatchingDistribution
from pyro_lrp.priors.hierarchy import Hierarchy, HierarchyDistribution
from pyro_lrp.priors.mixture import Mixture, MixtureDistribution, VampPrior
from pyro_lrp.priors.sampler import NeuralSampler, SamplerDistribution
from pyro_lrp.priors.spatial import (
    autoregressive_maps,
    conditional_spatial_flow,
    spatial_flow,
    unet_autoregressive,
    unet_flow,
)
from pyro_lrp.priors.zuko import Zuko

__all__ = [
    "ConditionalFlow",
    "ConditionalFlowDistribution",
    "Flow",
    "FlowDistribution",
    "FlowMatching",
    "FlowMatchingDistribution",
    "Hierarchy",
    "HierarchyDistribution",
    "Mixture",
    "MixtureDistribution",
    "NeuralSampler",
    "Prior",
    "SamplerDistribution",
    "StandardNormal",
    "VampPrior",
    "Zuko",
    "autoregressive_maps",
    "conditional_paper_flow",
    "conditional_spatial_flow",
    "paper_flow",
    "spatial_flow",
    "unet_autoregressive",
    "unet_flow",
]


def __getattr__(name: str) -> Any:
    """``fit``, which lies above the priors: it trains them and judges their samples."""
    if name == "fit":
        import pyro_lrp

        return pyro_lrp.fit
    raise AttributeError(f"module 'pyro_lrp.priors' has no attribute {name!r}")
