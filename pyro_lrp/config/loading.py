"""``pyro_lrp.load``: trained autoencoders, of runs of the command and of trainings in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyro_lrp.config.hub import located
from pyro_lrp.config.run import Run
from pyro_lrp.config.rundir import autoencoder_state
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.models import Autoencoder

__all__ = ["load"]


def load(run: str | Path, *, into: Autoencoder | None = None, allow_targets: Sequence[str] = ()) -> Autoencoder:
    """The trained autoencoder of a run directory, wherever it lies, in eval mode.

    A directory of the command ``train`` says how its model is built. That of a
    :class:`~pyro_lrp.trainer.Trainer` in Python does not: build the model with the same code, and give it as
    ``into``.

    Args:
        run: A run directory; or ``hf:OWNER/NAME``, perhaps with ``@REVISION``, of the Hugging Face hub (extra
            ``hub``).
        into: The autoencoder to fill with the newest checkpoint, where it is; None to build one on the CPU.
        allow_targets: See :class:`Run`.

    Returns:
        ``into``, or the autoencoder that was built.

    Raises:
        UserError: If there is no such run, its checkpoint is damaged or is that of another model, or its
            configuration names a target that is not allowed.

    >>> import tempfile, torch
    >>> from pyro_lrp import data, likelihoods, models, networks, objectives, priors, trainer
    >>> def build():
    ...     parts = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    ...     return models.Autoencoder(*parts, priors.StandardNormal(2), likelihoods.Gaussian())
    >>> directory = tempfile.mkdtemp()
    >>> ae = build()
    >>> game = objectives.LatentGame(ae, objectives.BilevelELBO(beta=1.0))
    >>> phases = [trainer.Phase("joint", 1)]
    >>> training = trainer.Trainer(game, data.digits(), phases=phases, directory=directory, progress=False)
    >>> rows = training.fit()
    >>> again = load(directory, into=build())
    >>> z = torch.zeros(1, 2)
    >>> bool(torch.equal(again.decode(z), ae.decode(z)))
    True
    """
    if into is None:
        return Run(run, allow_targets=allow_targets).autoencoder
    return _fill(into, located(run))


def _fill(autoencoder: Autoencoder, directory: Path) -> Autoencoder:
    """Load the newest checkpoint of a run directory into an autoencoder."""
    newest = checkpoint.load_latest(directory / "checkpoints")
    if newest is None:
        raise UserError(f"{directory} has no checkpoint: is it the directory of a Trainer?")
    path, whole = newest
    state = autoencoder_state(whole)
    checkpoint.load_into(autoencoder, state, path)
    return autoencoder.eval()
