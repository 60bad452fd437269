"""The law kit: checks that a transform is a bijection and that a prior is a density.

Each law measures one figure and has a limit. Laws run in eval mode on the CPU, in float64 unless they say
otherwise. They restore the checked prior or transform, and the module that a prior is bound to. Their random
numbers are seeded and the numbers of draws are fixed, so a check is reproducible.
"""

from pyro_lrp.testing.core import Law
from pyro_lrp.testing.prior import check_prior, prior_laws
from pyro_lrp.testing.transform import check_transform, transform_laws

__all__ = ["Law", "check_prior", "check_transform", "prior_laws", "transform_laws"]
