"""A learned prior for codes from elsewhere: :func:`fit`, and what it returns."""

from pyro_lrp.fitting.codes import CodeSet, checked_codes
from pyro_lrp.fitting.contest import fit, fit_one
from pyro_lrp.fitting.files import read_codes
from pyro_lrp.fitting.metrics import evaluate
from pyro_lrp.fitting.result import Fitted, Row, load

__all__ = [
    "CodeSet", "Fitted", "Row", "checked_codes", "evaluate", "fit", "fit_one", "load", "read_codes"
]  # fmt: skip
