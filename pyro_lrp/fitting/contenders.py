"""Priors that compete for codes: each learns for a given time, and goes on from there."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from pyro_lrp.config.build import build_prior
from pyro_lrp.config.compose import compose_train
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import derive_seed, seeded
from pyro_lrp.data import Batches
from pyro_lrp.fitting.codes import CodeSet
from pyro_lrp.models import Codes
from pyro_lrp.objectives import PriorGame
from pyro_lrp.priors import Mixture
from pyro_lrp.schedules import Constant, Progress, Schedule
from pyro_lrp.trainer import Step
from pyro_lrp.trainer.optimizers import make_optimizers

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Contender", "candidates"]

_BATCH = 200  # codes of up to 1,024 dimensions; of longer ones fewer, since networks of maps keep much of each
_LEAST = 20
_RATE = 1e-3
_FULL = 256  # dimensions up to which a mixture has full covariances
_BY_GRADIENTS = 1024  # dimensions up to which a minute of gradient descent is worth trying on a CPU
_CODES_PER_COMPONENT = 50
_EM = 10  # iterations
_NUMBERS = 10_000_000  # of the codes that EM is given: it keeps several copies in float64
_K_MEANS = 600  # operations per code, component and dimension of the start of EM


def candidates(codes: CodeSet) -> list[tuple[str, ...]]:
    """The priors that ``auto`` tries, as they would be typed: kinds, and sizes by the number of codes.

    >>> from pyro_lrp.fitting.codes import checked_codes
    >>> [" ".join(prior[:2]) for prior in candidates(checked_codes(torch.randn(1000, 2)))][:2]
    ['prior=mixture prior.components=1', 'prior=mixture prior.components=10']
    """
    if codes.context_dim:
        return [("prior=conditional_flow", "prior.whiten=standardize")]
    sizes = [k for k in (1, 10, 30, 100, 300) if k == 1 or k * _CODES_PER_COMPONENT <= len(codes.train)]
    further = [f"prior.em_iterations={_EM}"]
    if codes.dim > _FULL:
        further.append("prior.covariance=diag")
    mixtures = [("prior=mixture", f"prior.components={k}", *further) for k in sizes]
    if codes.dim > _BY_GRADIENTS:
        return [*mixtures, *_of_maps(codes)]
    flows = [
        *_of_maps(codes),
        ("prior=flow_matching",),
        ("prior=flow", "prior.whiten=standardize", "prior.width=256"),
        ("prior=spline", "prior.whiten=standardize"),
    ]
    return [*mixtures, *flows]


def _of_maps(codes: CodeSet) -> list[tuple[str, ...]]:
    """The flow of codes that are maps, if its couplings can divide their channels."""
    if len(codes.shape) == 1 or codes.shape[0] % 2:
        return []
    shape = ",".join(map(str, codes.shape))
    return [
        (
            "prior=spatial_flow",
            f"prior.shape=[{shape}]",
            "prior.whiten=standardize",
            "prior.layers=8",
            "prior.width=64",
        )
    ]


@dataclass
class Contender:
    """A prior that learns for some time, and goes on from there.

    Attributes:
        overrides: The prior, as it would be typed.
        codes: What it is fitted to.
        fabric: Device and precision.
        seed: Of its parameters, the order of codes and all noise.
        options: ``config_dir`` and ``allow_targets`` for priors of the user's own.
        distance: The smallest that the judge found.
        error: Its standard error.
        nll: -log p(z) of held-out codes at the end, in nats.
        seconds: Spent on learning.
        steps: Steps of gradient descent.
        rows: Codes that its own method was given.
        fault: Why it left the contest; None if it did not.
    """

    overrides: Sequence[str]
    codes: CodeSet
    fabric: Fabric
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    distance: float = math.inf
    error: float = 0.0
    nll: float = math.inf
    seconds: float = 0.0
    steps: int = 0
    rows: int = 0
    fault: str | None = None
    learned: bool = False  # whether more time would change nothing
    best: dict[str, Tensor] | None = field(default=None, repr=False)  # parameters at the smallest distance
    _step: Step | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        arguments = [*self.overrides, f"latent_dim={self.codes.dim}", f"seed={self.seed}"]
        whole = compose_train(*arguments, config_dir=self.options.get("config_dir")).identity
        self.identity = {key: whole[key] for key in ("prior", "presets", "latent_dim", "seed", "context")}
        allow_targets = self.options.get("allow_targets", ())
        self.prior = build_prior(self.identity, self.codes.context_dim, allow_targets)
        try:
            self.game = PriorGame(self.prior).to(self.fabric.device)
        except (TypeError, ValueError) as error:
            raise UserError(f"prior: {error}") from error

    @property
    def name(self) -> str:
        """The prior with its options, in one line."""
        return " ".join(self.overrides)

    @property
    def parameters(self) -> int:
        """The number of parameters that learn."""
        return sum(p.numel() for p in self.prior.parameters() if p.requires_grad)

    @property
    def by_em(self) -> bool:
        """Whether EM is all of its fit: gradients rarely make the samples of a mixture better."""
        return isinstance(self.prior, Mixture)

    def learn(self, seconds: float, schedule: Schedule | None = None) -> None:
        """Learn for some seconds, on top of what was learned before.

        A prior is first fitted by its own method. For a mixture that is EM, on as many codes as the time seems
        to allow, and it is then complete.

        Args:
            seconds: The time.
            schedule: Factor of the learning rate over this time.

        Raises:
            UserError: If the time is too short for EM, or the loss is no longer finite.
        """
        start = time.perf_counter()
        stop = start + seconds
        if self._step is None and not self.learned:
            self._begin(seconds)
        if not self.learned:
            self._descend(start, stop, schedule or Constant())
        self.seconds += time.perf_counter() - start

    def judged(self, distance: float, error: float = 0.0) -> None:
        """Keep the parameters if they are the best so far."""
        if self.best is None or distance < self.distance:
            self.distance = distance
            self.error = error
            self.best = {name: value.clone() for name, value in self.prior.state_dict().items()}

    def restore(self) -> None:
        """Take the best parameters."""
        if self.best is not None:
            self.prior.load_state_dict(self.best)

    def _begin(self, seconds: float) -> None:
        """The prior's own fit, then the optimizer."""
        device = self.fabric.device
        codes = self.codes.codes(device)
        self.rows = len(codes.loc)
        if self.by_em:
            self.rows = self._affordable(seconds)
        with seeded(self.seed, "fit", "own"), torch.no_grad():
            self.game.eval()
            self.game.check_fit(self.rows)
            self.prior.fit(codes.loc[: self.rows], codes.context[: self.rows])
        self.learned = self.by_em or not self.game.turns("prior_only")
        if self.learned:
            return
        optimizers = make_optimizers(self.game, self.game.players(), lr=_RATE)
        self._step = Step(self.game, self.game.turns("prior_only"), optimizers, self.fabric, seed=self.seed)
        self._batches = Batches(
            codes,
            min(max(_LEAST, min(_BATCH, _BATCH * 1024 // self.codes.dim)), len(codes.loc)),
            seed=derive_seed(self.seed, "fit", "order"),
            fetch=Codes.rows,
            device=device,
            length=len(codes.loc),
        )

    def _affordable(self, seconds: float) -> int:
        """The number of codes on which EM ends in time, by the speed of matrix products here."""
        mixture = self.prior
        assert isinstance(mixture, Mixture), "EM is the mixture's"
        mixture.check_fit(len(self.codes.train))  # which no time would help
        components = len(mixture.logits)
        dim = self.codes.dim
        products = dim**2 if mixture.covariance == "full" else 2 * dim
        operations = components * (4 * mixture.em_iterations * products + _K_MEANS * dim)
        most = min(len(self.codes.train), _NUMBERS // dim)
        rows = min(most, int(seconds * _speed() / operations))
        if rows < min(most, _CODES_PER_COMPONENT * components):
            needed = _CODES_PER_COMPONENT * components * operations / _speed()
            raise UserError(
                f"EM of {components} components takes about {needed:.0f} s, and {max(0, seconds):.0f} were left"
            )
        return rows

    def _descend(self, start: float, stop: float, schedule: Schedule) -> None:
        assert self._step is not None, "learning has begun"
        self._step.schedule = schedule
        self.game.train()
        now = start
        terms = {}
        with pyro.validation_enabled(False):
            while now < stop:
                fraction = (now - start) / (stop - start)
                self._step.prepare(self.steps, Progress(epoch=0, fraction=fraction, phase="prior_only"))
                terms = self._step([self._batches.at(self.steps)])
                self.steps += 1
                now = time.perf_counter()
        self.game.eval()
        if not terms:
            return  # no time was left
        loss = terms["loss"].item()
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} after {self.steps} steps")


@functools.cache
def _speed() -> float:
    """Operations per second that EM seems to reach here: a quarter of those of matrix products in float64."""
    a = torch.rand(512, 512, dtype=torch.float64)
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    return 0.25 * 5 * 2 * 512**3 / (time.perf_counter() - start)
