"""A learned prior for codes from elsewhere: :func:`fit`, and what it returns."""

from pyro_lrp.fitting.codes import CodeSet, checked_codes
from pyro_lrp.fitting.contest import fit, fit_one
from pyro_lrp.fitting.result import Fitted, Row, load

__all__ = ["CodeSet", "Fitted", "Row", "checked_codes", "fit", "fit_one", "load"]
