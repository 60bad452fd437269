"""The law kit: is this a bijection, is this a density? For our own tests, and for anybody's transform or prior.

Each law measures one figure and has a limit. All run in eval mode on the CPU, in float64 but where they say
otherwise, and leave their subject, and the module that it is bound to, as they were.
"""

from pyro_lrp.testing.core import Law
from pyro_lrp.testing.prior import check_prior, prior_laws
from pyro_lrp.testing.transform import check_transform, transform_laws

__all__ = ["Law", "check_prior", "check_transform", "prior_laws", "transform_laws"]
