"""A prior that owns transforms: it registers, saves and moves their tensors and switches caches off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions.conditional import ConditionalTransform
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import lazy_property

from pyro_lrp.priors.core import NormalBase
from pyro_lrp.transforms import Whitening, inverse_and_ladj

__all__ = ["Stack", "uncached"]

_REMEMBERED = "_cache"  # how Pyro begins the names of attributes that hold values of the last call


class Stack(NormalBase):
    """A prior that owns a list of transforms; subclasses restrict their types.

    Args:
        dim: Length of a code.
        transforms: From base to latent; nested lists are flattened, factories called.
        layers: Number of repetitions of the list.
        whiten: ``"standardize"``, ``"pca"`` or None: a fixed whitening nearest the data.
        kinds: Accepted types of transforms.
    """

    def __init__(
        self,
        dim: int,
        transforms: Sequence[Any],
        *,
        layers: int,
        whiten: str | None,
        kinds: tuple[type, ...],
    ) -> None:
        super().__init__(dim)
        self.transforms: list[Any] = list(_unrolled(transforms, layers, kinds))
        if whiten is not None:
            self.transforms.append(Whitening(dim, whiten))
        self.parts = nn.ModuleList()
        # object, name of its attribute, name of the parameter or buffer of this module
        self._held: list[tuple[object, str, str]] = []
        leaves: dict[int, Any] = {}
        for transform in self.transforms:
            for leaf in _leaves(transform):
                leaves[id(leaf)] = leaf
        for leaf in leaves.values():
            self._own(leaf)
        self.register_load_state_dict_post_hook(_after_loading)

    @property
    def _whitening(self) -> Whitening | None:
        if not self.transforms:
            return None
        last = self.transforms[-1]
        if not isinstance(last, Whitening):
            return None
        return last

    @property
    def estimates(self) -> bool:
        return self._whitening is not None

    def whiten(self, codes: Tensor) -> dict[str, Any]:
        """Set the whitening from all codes; returns an entry for the log."""
        whitening = self._whitening
        if whitening is None:
            return {}
        whitening.fit(codes)
        return {"whitening": whitening.kind}

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``z_T -> z_0``, shape ``(*, dim)``."""
        return self._backward(self.transforms, z)

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Base to latent, ``z_0 -> z_T``, shape ``(*, dim)``."""
        return self._forward(self.transforms, z)

    @staticmethod
    def _backward(transforms: Sequence[Transform], z: Tensor) -> Tensor:
        for transform in reversed(transforms):
            z, _ = inverse_and_ladj(transform, z)
        return z

    @staticmethod
    def _forward(transforms: Sequence[Transform], z: Tensor) -> Tensor:
        for transform in transforms:
            z = transform(z)
        return z

    def _own(self, leaf: Any) -> None:
        """Register the module or the tensors of a transform, and switch its cache off."""
        if isinstance(leaf, Transform):
            leaf._cache_size = 0
        holders: list[object] = [leaf]
        if isinstance(leaf, nn.Module):
            if leaf not in set(self.parts.modules()):
                self.parts.append(leaf)
            holders = list(leaf.modules())
        for holder in holders:
            for name, value in list(vars(holder).items()):
                if self._should_hold(holder, name, value):
                    self._hold(holder, name, value)

    def _should_hold(self, holder: object, name: str, value: object) -> bool:
        if not isinstance(value, Tensor):
            return False
        if name.startswith(_REMEMBERED) or _is_lazy(holder, name):
            return False
        for known_holder, known_name, _ in self._held:
            if holder is known_holder and name == known_name:
                return False
        return True

    def _hold(self, holder: object, name: str, value: Tensor) -> None:
        """Register a tensor attribute of an object that is not registered as a module."""
        key = f"held_{len(self._held)}_{name}"
        if isinstance(value, nn.Parameter):
            self.register_parameter(key, value)
        else:
            self.register_buffer(key, value)
        self._held.append((holder, name, key))

    def _hand_back(self) -> None:
        """Assign moved or loaded tensors to the transforms again, and drop values derived from the old ones."""
        for holder, name, key in self._held:
            for attribute in list(vars(holder)):
                if _is_lazy(holder, attribute):
                    delattr(holder, attribute)
            setattr(holder, name, getattr(self, key))

    def __getstate__(self) -> dict[str, Any]:
        """The state of a pickle or a copy: stock transforms remember tensors of a graph, which have none."""
        for transform in self.transforms:
            for leaf in _leaves(transform):
                _forget(leaf)
        return vars(self).copy()

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, FBT002
        super()._apply(fn, recurse)
        self._hand_back()
        return self

    @torch.no_grad()
    def refuse_unless_invertible(
        self,
        transforms: Sequence[Any],
        context: Tensor | None = None,
    ) -> None:
        """Raise a ``ValueError`` that names the first transform without an inverse, at ``context``."""
        with _without_dropout(self):
            conditioned = []
            for index, transform in enumerate(transforms):
                conditioned.append(_condition(transform, context, index))
            dim = self.event_shape[0]
            points = torch.linspace(-1.0, 1.0, 2 * dim).reshape(2, dim)
            x = points
            for index, transform in enumerate(conditioned):
                name = f"transform {index} ({_name(transforms[index])})"
                x = _round_trip(transform, x, name)
            far = 3.0 * points
            base = self._backward(conditioned, far)
            back = self._forward(conditioned, base)
            finite = torch.isfinite(base).all()
            if not finite or not torch.allclose(back, far, atol=1e-2):
                last = _name(transforms[-1])
                raise ValueError(
                    f"the transforms do not reach all codes (the last is {last}), so some have no density"
                )


def _after_loading(stack: Stack, incompatible_keys: Any) -> None:
    """A function of the module, and no lambda, so that a stack can be pickled."""
    stack._hand_back()


def _forget(leaf: object) -> None:
    """Drop the tensors that a transform remembers of its last call: it computes them anew."""
    holders = [leaf]
    if isinstance(leaf, nn.Module):
        holders = list(leaf.modules())
    for holder in holders:
        for name, value in list(vars(holder).items()):
            if not isinstance(value, Tensor):
                continue
            if _is_lazy(holder, name):
                delattr(holder, name)
            elif name.startswith(_REMEMBERED):
                setattr(holder, name, None)


def uncached(transform: Transform) -> Transform:
    """Switch the caches of a transform and of its parts off; returns the transform."""
    for leaf in _leaves(transform):
        if isinstance(leaf, Transform):
            leaf._cache_size = 0
    return transform


def _condition(transform: Any, context: Tensor | None, index: int) -> Transform:
    if not isinstance(transform, ConditionalTransform):
        return transform
    try:
        return uncached(transform.condition(context))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        length = None
        if context is not None:
            length = context.shape[-1]
        name = f"transform {index} ({_name(transform)})"
        line = _line(error)
        raise ValueError(f"{name} does not accept contexts of length {length}: {line}") from error


def _round_trip(transform: Transform, x: Tensor, name: str) -> Tensor:
    """The output of a transform at ``x``, after a check that its inverse returns ``x``."""
    dim = x.shape[-1]
    event_dim = max(transform.domain.event_dim, transform.codomain.event_dim)
    if event_dim > 1:
        raise ValueError(f"{name} maps events of {event_dim} dimensions; expected vectors of length {dim}")
    try:
        y = transform(x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        line = _line(error)
        raise ValueError(f"{name} does not accept vectors of length {dim}: {line}") from error
    if y.shape != x.shape:
        before = tuple(x.shape)
        after = tuple(y.shape)
        raise ValueError(f"{name} maps shape {before} to {after}; expected no change")
    try:
        back, _ = inverse_and_ladj(transform, y.clone())
    except (NotImplementedError, KeyError) as error:
        raise ValueError(f"{name} has no inverse, so it cannot score an encoder's codes") from error
    if not torch.allclose(back, x, atol=1e-3):
        error_size = (back - x).abs().max().item()
        raise ValueError(f"{name} has no accurate inverse: a round trip is off by {error_size:.2g}")
    return y


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    active = []
    for part in module.modules():
        if isinstance(part, nn.Dropout) and part.training:
            active.append(part)
    for part in active:
        part.eval()
    try:
        yield
    finally:
        for part in active:
            part.train()


def _unrolled(items: Sequence[Any], layers: int, kinds: tuple[type, ...]) -> Iterator[Any]:
    """The transforms of a nested list, repeated ``layers`` times; factories are called."""
    if layers < 1:
        raise ValueError(f"expected layers of at least 1, got {layers}")
    for _ in range(layers):
        for item in items:
            if isinstance(item, kinds) and layers > 1:
                raise ValueError(
                    f"layers={layers} needs factories, so that each layer has parameters of its own, "
                    f"got {_name(item)} (in YAML: _partial_: true)"
                )
            yield from _transforms_of(item, kinds)


def _transforms_of(item: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """The transforms of one item of a list: a transform, a list, or a factory."""
    if isinstance(item, kinds):
        yield item
    elif isinstance(item, (list, tuple)):
        yield from _unrolled(item, 1, kinds)
    elif isinstance(item, ConditionalTransform):
        name = _name(item)
        raise ValueError(f"{name} is a conditional transform, which needs a ConditionalFlow")
    elif callable(item):
        yield from _unrolled([item()], 1, kinds)
    else:
        raise ValueError(f"expected Pyro transforms, got {_name(item)}: {item!r}")


def _leaves(transform: Any) -> Iterator[Any]:
    """The transform and all transforms inside it: parts of compositions, inverses and independents."""
    yield transform
    inner = [*getattr(transform, "parts", ()), *getattr(transform, "transforms", ())]
    inner.append(_inverted(transform))
    for name in ("base_transform", "transform", "_transform"):
        inner.append(getattr(transform, name, None))
    for part in inner:
        if isinstance(part, (Transform, ConditionalTransform)):
            yield from _leaves(part)


def _inverted(transform: object) -> Transform | None:
    """The transform inside the wrapper that ``transform.inv`` returns; None if it is no such wrapper."""
    if not isinstance(transform, _InverseTransform):
        return None
    return transform._inv


def _is_lazy(holder: object, name: str) -> bool:
    """Whether the attribute is a cached value that the object derived from its tensors."""
    return isinstance(getattr(type(holder), name, None), lazy_property)


def _name(item: object) -> str:
    inner = _inverted(item)
    if inner is None:
        return type(item).__name__
    return f"inverse of {_name(inner)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
