"""A CUDA graph's semantics on the CPU: the kernels of a step are recorded once and replayed on the same memory.

Numbers, shapes, addresses and control flow are those of the recording. Where a graph could not follow, an error
is raised: where the host reads a value, or the size of a result depends on values.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FORBIDDEN = (  # with a prefix of the name; all of these wait for a GPU
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique", "bincount",
    "repeat_interleave.Tensor", "normal.Tensor_Tensor", "normal.float_Tensor",
)  # fmt: skip


class NotRecordable(RuntimeError):
    """The error of a graph that fails while it is recorded."""


class Recording(TorchDispatchMode):
    """Executes and records kernels, and keeps what was in the memory that they were given."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.before = {}  # by address: a tensor that existed before, and its values
        self.made = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = tensors((args, kwargs))
        refuse(func, inputs)
        for tensor in inputs:
            at = address(tensor)
            if at not in self.made and at not in self.before:
                memory = whole(tensor)
                self.before[at] = (memory, memory.clone())
        result = func(*args, **kwargs)
        for tensor in tensors(result):
            if address(tensor) not in self.before:
                self.made.add(address(tensor))
        if func.namespace != "profiler":
            self.calls.append((func, args, kwargs, tensors(result)))
        return result


class RecordedGraph:
    """What a captured step needs of a graph; see ``pyro_lrp.trainer.capture.Graph``."""

    def __init__(self):
        self.calls = []

    def aside(self):
        return contextlib.nullcontext()

    def record(self, body, generators=()):
        """Record what ``body`` computes. Recording computes it too, so memory and generator are put back."""
        generator = torch.get_rng_state()
        states = [(one, one.get_state()) for one in generators]
        with Recording() as recording:
            body()
        with torch.no_grad():
            for memory, values in recording.before.values():
                memory.copy_(values)
        torch.set_rng_state(generator)
        for one, state in states:
            one.set_state(state)
        self.calls = recording.calls

    @torch.no_grad()
    def replay(self):
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, results in self.calls:
                for old, new in zip(results, tensors(func(*args, **kwargs)), strict=True):
                    if address(new) != address(old):
                        old.copy_(new)


def refuse(func, inputs):
    name = func.name().removeprefix("aten::")
    masks = [tensor for tensor in inputs[1:] if tensor.dtype in (torch.bool, torch.uint8) and tensor.dim()]
    chooses_by_mask = name.startswith("index.") and masks
    if name.startswith(FORBIDDEN) or chooses_by_mask:
        raise NotRecordable(f"operation not permitted when stream is capturing: {name}")


def address(tensor):
    return tensor.untyped_storage().data_ptr()


def whole(tensor):
    """All memory of a tensor's storage, as a flat tensor."""
    flat = tensor.detach().new_empty(0)
    return flat.set_(tensor.untyped_storage())


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
