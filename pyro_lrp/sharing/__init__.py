"""Sharing: a run as a folder to pass on, with its weights, programs and a model card."""

from pyro_lrp.sharing.folder import export
from pyro_lrp.sharing.programs import FORMATS, Program, write_programs

__all__ = ["FORMATS", "Program", "export", "write_programs"]
