"""Bijections of vectors, as Pyro transforms: those of the paper, and some that Pyro lacks.

Direction. A transform maps base to latent, as Pyro samplers expect: z_T = t(z_0). The density of a code needs
the inverse, which every transform here computes in one pass, with its log-determinant, by ``inverse_and_ladj``.
Transforms do not cache.
"""

from pyro_lrp.transforms.affine import (
    ConditionalElementwiseAffine,
    ElementwiseAffine,
    conditional_elementwise_affine,
    elementwise_affine,
)
from pyro_lrp.transforms.core import VectorTransform, inverse_and_ladj, inverse_of
from pyro_lrp.transforms.couplings import (
    ConditionalSigmoidCoupling,
    SigmoidCoupling,
    Swap,
    SwappedCoupling,
    conditional_paper_flow,
    conditional_sigmoid_coupling,
    fused,
    paper_flow,
    sigmoid_coupling,
    swap,
)
from pyro_lrp.transforms.linear import InvertibleLinear, Whitening, invertible_linear
from pyro_lrp.transforms.spatial import (
    ChannelAffine,
    ConditionalPhaseShift,
    PhaseShift,
    conditional_spatial_flow,
    spatial_flow,
)
from pyro_lrp.transforms.splines import SplineCoupling, spline_coupling

__all__ = [
    "ChannelAffine",
    "ConditionalElementwiseAffine",
    "ConditionalPhaseShift",
    "ConditionalSigmoidCoupling",
    "ElementwiseAffine",
    "InvertibleLinear",
    "PhaseShift",
    "SigmoidCoupling",
    "SplineCoupling",
    "Swap",
    "SwappedCoupling",
    "VectorTransform",
    "Whitening",
    "conditional_elementwise_affine",
    "conditional_paper_flow",
    "conditional_sigmoid_coupling",
    "conditional_spatial_flow",
    "elementwise_affine",
    "fused",
    "inverse_and_ladj",
    "inverse_of",
    "invertible_linear",
    "paper_flow",
    "sigmoid_coupling",
    "spatial_flow",
    "spline_coupling",
    "swap",
]
