"""A stack of transforms that a prior owns: what they hold is registered, saved, moved and never stale."""

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


class Stack(NormalBase):
    """Owns a list of transforms, of a kind that a subclass names.

    Args:
        dim: Length of a code.
        transforms: From base to latent; nested lists are flattened, factories called.
        layers: How many times over the list is taken.
        whiten: ``"standardize"``, ``"pca"`` or None: a fixed whitening nearest the data.
        kinds: Types that an item may have.
    """

    def __init__(
        self, dim: int, transforms: Sequence[Any], *, layers: int, whiten: str | None, kinds: tuple[type, ...]
    ) -> None:
        super().__init__(dim)
        self.transforms: list[Any] = list(_unrolled(transforms, layers, kinds))
        if whiten is not None:
            self.transforms.append(Whitening(dim, whiten))
        self.parts = nn.ModuleList()
        self._held: list[tuple[object, str, str]] = []
        for leaf in {id(leaf): leaf for t in self.transforms for leaf in _leaves(t)}.values():
            self._own(leaf)
        self.register_load_state_dict_post_hook(lambda stack, _: stack._hand_back())

    @property
    def estimates(self) -> bool:
        return bool(self.transforms) and isinstance(self.transforms[-1], Whitening)

    def whiten(self, codes: Tensor) -> dict[str, Any]:
        """Set the whitening from all codes; says what it did."""
        last = self.transforms[-1] if self.transforms else None
        if not isinstance(last, Whitening):
            return {}
        last.fit(codes)
        return {"whitening": last.kind}

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
        if isinstance(leaf, Transform):
            leaf._cache_size = 0
        holders: list[object] = [leaf]
        if isinstance(leaf, nn.Module):
            if leaf not in set(self.parts.modules()):
                self.parts.append(leaf)
            holders = list(leaf.modules())
        for holder in holders:
            for name, value in list(vars(holder).items()):
                held = (
                    isinstance(value, Tensor) and not name.startswith("_cache") and not _is_lazy(holder, name)
                )
                if held and not any(holder is h and name == n for h, n, _ in self._held):
                    self._hold(holder, name, value)

    def _hold(self, holder: object, name: str, value: Tensor) -> None:
        key = f"held_{len(self._held)}_{name}"
        if isinstance(value, nn.Parameter):
            self.register_parameter(key, value)
        else:
            self.register_buffer(key, value)
        self._held.append((holder, name, key))

    def _hand_back(self) -> None:
        """Give moved or loaded tensors back to the transforms that hold them, and drop what they derived."""
        for holder, name, key in self._held:
            for derived in [n for n in vars(holder) if _is_lazy(holder, n)]:
                delattr(holder, derived)
            setattr(holder, name, getattr(self, key))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, FBT002
        super()._apply(fn, recurse)
        self._hand_back()
        return self

    @torch.no_grad()
    def refuse_unless_invertible(self, transforms: Sequence[Any], context: Tensor | None = None) -> None:
        """Raise a ``ValueError`` that names the first transform which cannot serve, at ``context``."""
        with _without_dropout(self):
            conditioned = [_condition(t, context, i) for i, t in enumerate(transforms)]
            dim = self.event_shape[0]
            points = torch.linspace(-1.0, 1.0, 2 * dim).reshape(2, dim)
            x = points
            for index, transform in enumerate(conditioned):
                x = _round_trip(transform, x, f"transform {index} ({_name(transforms[index])})")
            far = 3.0 * points
            base = self._backward(conditioned, far)
            back = self._forward(conditioned, base)
            if not (torch.isfinite(base).all() and torch.allclose(back, far, atol=1e-2)):
                last = _name(transforms[-1])
                raise ValueError(
                    f"the transforms do not reach all codes (the last is {last}), so some have no density"
                )


def uncached(transform: Transform) -> Transform:
    """The transform, with its cache and those inside it switched off."""
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
        length = None if context is None else context.shape[-1]
        name = f"transform {index} ({_name(transform)})"
        raise ValueError(f"{name} does not accept contexts of length {length}: {_line(error)}") from error


def _round_trip(transform: Transform, x: Tensor, name: str) -> Tensor:
    """What the transform makes of ``x``, if it gives it back."""
    dim = x.shape[-1]
    if max(transform.domain.event_dim, transform.codomain.event_dim) > 1:
        event = max(transform.domain.event_dim, transform.codomain.event_dim)
        raise ValueError(f"{name} maps events of {event} dimensions; expected vectors of length {dim}")
    try:
        y = transform(x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ValueError(f"{name} does not accept vectors of length {dim}: {_line(error)}") from error
    if y.shape != x.shape:
        raise ValueError(f"{name} maps shape {tuple(x.shape)} to {tuple(y.shape)}; expected no change")
    try:
        back, _ = inverse_and_ladj(transform, y.clone())
    except (NotImplementedError, KeyError) as error:
        raise ValueError(f"{name} has no inverse, so it cannot score an encoder's codes") from error
    if not torch.allclose(back, x, atol=1e-3):
        raise ValueError(
            f"{name} has no accurate inverse: a round trip is off by {(back - x).abs().max().item():.2g}"
        )
    return y


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    dropping = [m for m in module.modules() if isinstance(m, nn.Dropout) and m.training]
    for part in dropping:
        part.eval()
    try:
        yield
    finally:
        for part in dropping:
            part.train()


def _unrolled(items: Sequence[Any], layers: int, kinds: tuple[type, ...]) -> Iterator[Any]:
    """The items of a nested list, ``layers`` times over; what is no transform is called to make one."""
    if layers < 1:
        raise ValueError(f"expected layers of at least 1, got {layers}")
    for _ in range(layers):
        for item in items:
            if isinstance(item, kinds):
                if layers > 1:
                    raise ValueError(
                        f"layers={layers} needs factories, so that each layer has parameters of its own, got "
                        f"{_name(item)} (in YAML: _partial_: true)"
                    )
                yield item
            elif isinstance(item, (list, tuple)):
                yield from _unrolled(item, 1, kinds)
            elif callable(item) and not isinstance(item, ConditionalTransform):
                yield from _unrolled([item()], 1, kinds)
            elif isinstance(item, ConditionalTransform):
                raise ValueError(f"{_name(item)} is a conditional transform, which needs a ConditionalFlow")
            else:
                raise ValueError(f"expected Pyro transforms, got {_name(item)}: {item!r}")


def _leaves(transform: Any) -> Iterator[Any]:
    """The transform, and every one inside it: inverses, compositions and independents are seen through."""
    yield transform
    inner = [*getattr(transform, "parts", ()), *getattr(transform, "transforms", ())]
    names = ("base_transform", "transform", "_transform")
    inner += [_inverted(transform), *(getattr(transform, name, None) for name in names)]
    for part in inner:
        if isinstance(part, (Transform, ConditionalTransform)):
            yield from _leaves(part)


def _inverted(transform: object) -> Transform | None:
    """What ``transform.inv`` wraps, if it is such a wrapper."""
    return transform._inv if isinstance(transform, _InverseTransform) else None


def _is_lazy(holder: object, name: str) -> bool:
    """Whether the attribute is a value that the object derived from what it holds, and kept."""
    return isinstance(getattr(type(holder), name, None), lazy_property)


def _name(item: object) -> str:
    inner = _inverted(item)
    return type(item).__name__ if inner is None else f"inverse of {_name(inner)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
