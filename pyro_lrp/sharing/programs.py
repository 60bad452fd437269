"""Decoder and sampler as programs that need no code of this library: ``torch.export`` and ONNX."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.models import Autoencoder
from pyro_lrp.sharing.pushforward import Pushforward, pushforward, simplify

__all__ = ["FORMATS", "TOLERANCE", "Program", "write_programs"]

FORMATS = ("pt2", "onnx")
"""The endings of programs."""

TOLERANCE = 1e-4
"""The largest difference of a pixel in [0, 1] between a program's images and the library's."""

_TRACED = 3  # rows of the inputs from which a program is made; it takes any number
_CHECKED = 5  # rows of those on which it is compared
_MOST = 2**20  # rows
_TEMPERATURE = 0.9  # of the comparison; another than that of the trace
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Program:
    """A program that was written, or why it was not.

    Attributes:
        name: ``"decoder"`` or ``"sampler"``.
        ending: ``"pt2"`` or ``"onnx"``.
        inputs: The shape of each input by name, with ``"n"`` for the number of rows.
        outputs: The names of the outputs.
        difference: The largest difference of a pixel from the library's images; None if it was not written.
        reason: Why it was not written, as a sentence.
    """

    name: str
    ending: str
    inputs: Mapping[str, tuple[str | int, ...]]
    outputs: tuple[str, ...]
    difference: float | None = None
    reason: str = ""

    @property
    def file(self) -> str:
        """Its path within the exported folder."""
        return f"programs/{self.name}.{self.ending}"


class _Decoder(nn.Module):
    """Codes, and perhaps contexts, to images."""

    outputs = ("images",)

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.decoder = autoencoder.decoder
        self._autoencoder = [autoencoder]  # in a list: its other networks are no part of the program

    def forward(self, latents: Tensor, context: Tensor | None = None) -> Tensor:
        return self._autoencoder[0].decode(latents, context)


class _Sampler(nn.Module):
    """Noise, a temperature, and perhaps contexts to images and their codes."""

    outputs = ("images", "latents")

    def __init__(self, autoencoder: Autoencoder, push: Pushforward) -> None:
        super().__init__()
        self.decoder = autoencoder.decoder
        self.push = push
        self._autoencoder = [autoencoder]

    def forward(
        self, noise: Tensor, temperature: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        latents, images = self.push.with_images(noise, temperature, context, self._autoencoder[0].decode)
        return images, latents


@dataclass(frozen=True)
class _Task:
    """A module to export.

    Attributes:
        name: Its name.
        module: The module.
        inputs: Its inputs, in order, of the given number of rows, and the library's images for them.
    """

    name: str
    module: Any
    inputs: Callable[[int], tuple[Inputs, Tensor]]


def write_programs(
    autoencoder: Autoencoder,
    folder: Path,
    formats: Sequence[str] = FORMATS,
    log: Callable[[str], None] = lambda line: None,
) -> list[Program]:
    """Write the programs of an autoencoder, each compared with the library once it is read back.

    Args:
        autoencoder: The autoencoder, in eval mode. It is not changed.
        folder: An existing folder.
        formats: Endings out of :data:`FORMATS`.
        log: Receives a line for each program.

    Returns:
        All programs, with the reasons why some were not written.
    """
    original = copy.deepcopy(autoencoder).cpu().float().eval()
    traced = copy.deepcopy(original)
    for parameter in traced.parameters():
        parameter.requires_grad_(False)
    programs: list[Program] = []
    with pyro.validation_enabled(False), torch.no_grad():
        try:
            push: Pushforward | UserError = pushforward(traced.prior)
        except UserError as error:
            push = error
        simplify(traced)
        tasks = [_Task("decoder", _Decoder(traced), lambda n: _for_decoder(original, n))]
        if isinstance(push, Pushforward):
            reference = pushforward(original.prior)
            tasks.append(
                _Task("sampler", _Sampler(traced, push), lambda n: _for_sampler(original, reference, n))
            )
        for task in tasks:
            programs += _exported(task, folder, formats, log)
        if isinstance(push, UserError):
            for ending in formats:
                programs.append(Program("sampler", ending, {}, _Sampler.outputs, reason=str(push)))
                log(_words(programs[-1]))
    return programs


def _contexts(autoencoder: Autoencoder, n: int) -> Tensor:
    return torch.rand(n, autoencoder.prior.context_dim)


def _for_decoder(autoencoder: Autoencoder, n: int) -> tuple[Inputs, Tensor]:
    """Codes that the prior draws, and their images."""
    with seeded(0, "export", "decoder"):
        context = _contexts(autoencoder, n)
        draw = autoencoder.draw(n, context=context)
    inputs = {"latents": draw.latents}
    if context.numel() and type(autoencoder).decode is not Autoencoder.decode:
        inputs["context"] = context[: len(draw.latents)]
    return inputs, autoencoder.decode(draw.latents, inputs.get("context"))


def _for_sampler(autoencoder: Autoencoder, push: Pushforward, n: int) -> tuple[Inputs, Tensor]:
    """Noise, and the images that the library draws from the same state of the generator."""
    with seeded(0, "export", "context"):
        context = _contexts(autoencoder, n)
    with seeded(0, "export", "noise"):
        noise = push.draw(n)
    with seeded(0, "export", "noise"):
        draw = autoencoder.draw(n, _TEMPERATURE, context)
    inputs = {"noise": noise, "temperature": torch.tensor(_TEMPERATURE)}
    if context.numel():
        inputs["context"] = context
    return inputs, draw.images


def _exported(
    task: _Task, folder: Path, formats: Sequence[str], log: Callable[[str], None]
) -> Iterator[Program]:
    """The programs of a module."""
    inputs, _ = task.inputs(_TRACED)
    if "temperature" in inputs:
        inputs["temperature"] = torch.tensor(1.0)
    shapes = {name: _shape(tensor) for name, tensor in inputs.items()}
    exported: Any = None
    reason = ""
    try:
        with _quiet():
            exported = _trace(task.module, inputs)
    except Exception as error:  # whatever a network of one's own does to a tracer
        reason = _why("torch.export", error)
    for ending in formats:
        program = Program(task.name, ending, shapes, task.module.outputs, reason=reason)
        if not reason:
            program = _written(program, exported, task, folder)
        log(_words(program))
        yield program


def _shape(tensor: Tensor) -> tuple[str | int, ...]:
    if tensor.dim() == 0:
        return ()
    return ("n", *tensor.shape[1:])


def _trace(module: nn.Module, inputs: Inputs) -> Any:
    """The module as a program for any number of rows, without the paths of source files."""
    rows = torch.export.Dim("n", min=1, max=_MOST)
    dynamic: dict[str, Any] = {}
    for name, tensor in inputs.items():
        dynamic[name] = {0: rows} if tensor.dim() else None
    exported = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=dynamic, strict=False)
    for part in exported.graph_module.modules():
        for node in getattr(part, "graph", _NO_GRAPH).nodes:
            node.meta.pop("stack_trace", None)
    return exported


def _written(program: Program, exported: Any, task: _Task, folder: Path) -> Program:
    """Write a program, read it back and compare its images with the library's."""
    path = folder / f"{program.name}.{program.ending}"
    try:
        with _quiet():
            run = _WRITERS[program.ending](exported, path, program)
            difference = max(_difference(run, *task.inputs(n)) for n in (1, _CHECKED))
    except Exception as error:
        path.unlink(missing_ok=True)
        return _refused(program, _why(_TOOLS[program.ending], error))
    if not difference <= TOLERANCE:
        path.unlink(missing_ok=True)
        return _refused(program, f"its images differ from the library's by {difference:.2g}")
    return Program(program.name, program.ending, program.inputs, program.outputs, difference)


def _refused(program: Program, reason: str) -> Program:
    return Program(program.name, program.ending, program.inputs, program.outputs, reason=reason)


def _difference(run: Callable[[Inputs], Tensor], inputs: Inputs, expected: Tensor) -> float:
    """The largest difference of a pixel; images that are not finite are left out, as the library does."""
    images = run(inputs)
    finite = torch.isfinite(images.flatten(1)).all(1)
    if finite.sum() != len(expected):
        return float("inf")
    if not len(expected):
        return 0.0
    return (images[finite] - expected).abs().max().item()


def _write_pt2(exported: Any, path: Path, program: Program) -> Callable[[Inputs], Tensor]:
    torch.export.save(exported, path)
    module = torch.export.load(path).module()

    def run(inputs: Inputs) -> Tensor:
        return _first(module(*inputs.values()))

    return run


def _write_onnx(exported: Any, path: Path, program: Program) -> Callable[[Inputs], Tensor]:
    onnx, onnxruntime = _onnx()
    names = list(program.inputs)
    converted: Any = torch.onnx.export(
        exported,
        (),
        dynamo=True,
        input_names=names,
        output_names=list(program.outputs),
        verbose=False,
    )
    converted.save(path)
    model = onnx.load(path)
    _forget_sources(model)
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Tensor:
        feed = {name: tensor.numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(session.run(["images"], feed)[0])

    return run


_TOOLS = {"pt2": "torch.export", "onnx": "torch.onnx"}
_WRITERS: dict[str, Callable[..., Callable[[Inputs], Tensor]]] = {"pt2": _write_pt2, "onnx": _write_onnx}


def _onnx() -> tuple[Any, Any]:
    """The packages onnx and onnxruntime.

    Raises:
        UserError: If they, or onnxscript, are not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX needs {', '.join(_PACKAGES)}: pip install 'pyro_lrp[export]'") from error
    return onnx, onnxruntime


def _forget_sources(model: Any) -> None:
    """Remove the notes of an ONNX model on the source files that each node comes from."""
    for part in (model.graph, *model.functions):
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
        del part.metadata_props[:]
        part.doc_string = ""


def _first(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    return outputs[0]


class _NoGraph:
    """A graph without nodes."""

    nodes = ()


_NO_GRAPH = _NoGraph()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block tracers print nothing: a failure becomes a sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _why(tool: str, error: BaseException) -> str:
    """Why a tool made no program, in one line; of an error that has causes, by the first of them."""
    if isinstance(error, UserError):
        return str(error)
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines or [""])[0][:200]
    return f"{tool} cannot convert it ({type(error).__name__}: {text})"


def _words(program: Program) -> str:
    if program.difference is None:
        return f"{program.file}: not written; {program.reason}"
    return f"{program.file}: images within {program.difference:.1g} of the library's"
