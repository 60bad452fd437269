"""How to load an exported run, as code that works when it is pasted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyro_lrp.core.arguments import command_line
from pyro_lrp.data import Condition
from pyro_lrp.sharing.programs import Program

__all__ = ["loading"]

_N = 16  # samples of the examples


def loading(condition: Condition, programs: Sequence[Program]) -> Iterator[str]:
    """The lines of a section of the card: with the library, by its commands, and without it.

    Args:
        condition: The meaning of contexts.
        programs: The programs of the folder.
    """
    yield "With the library; nothing of this folder is executed or unpickled:"
    yield ""
    yield "```python"
    yield from _python(condition)
    yield "```"
    yield ""
    yield "```"
    options = {} if condition.by_example else condition.example()
    sample = command_line("sample", {"run": "FOLDER", "n": _N, **options, "out": "samples.png"})
    yield " ".join(sample.split())  # on one line, whatever the name of a class is
    yield command_line("evaluate", {"run": "FOLDER"})
    yield "```"
    written = {program.file: program for program in programs if program.difference is not None}
    if "programs/sampler.pt2" in written:
        yield ""
        yield "Without it, by PyTorch alone (`torch.export.load` is for files that you trust):"
        yield ""
        yield "```python"
        yield from _torch(written["programs/sampler.pt2"])
        yield "```"
    if "programs/sampler.onnx" in written:
        yield ""
        yield "Or by ONNX Runtime:"
        yield ""
        yield "```python"
        yield from _onnx(written["programs/sampler.onnx"])
        yield "```"


def _python(condition: Condition) -> Iterator[str]:
    yield "import pyro_lrp"
    yield ""
    yield 'run = pyro_lrp.Run("FOLDER")  # or "hf:OWNER/NAME", from the Hugging Face hub'
    if not len(condition):
        yield f"images = run.draw({_N}).images  # (n, C, H, W), values in [0, 1]"
    elif condition.by_example:
        yield "context = run.data.test.context[:4]  # of test images; Run(..., data_root=DIR) says where"
        yield "images = run.draw(4, context=context).images"
    else:
        wanted = condition.example()["context"]
        yield f"images = run.draw({_N}, context={wanted!r}).images"
    yield "autoencoder = run.autoencoder  # what pyro_lrp.load returns: encode, decode, sample"


def _torch(program: Program) -> Iterator[str]:
    yield "import torch"
    yield ""
    yield f'sampler = torch.export.load("FOLDER/{program.file}").module()'
    yield f"noise = torch.randn({_N}, {program.inputs['noise'][1]})"
    arguments = "noise, torch.tensor(1.0)"
    if "context" in program.inputs:
        yield f"context = torch.zeros({_N}, {program.inputs['context'][1]})"
        yield "context[:, 0] = 1.0"
        arguments += ", context"
    yield f"images, latents = sampler({arguments})  # the second is the temperature"


def _onnx(program: Program) -> Iterator[str]:
    yield "import numpy as np"
    yield "import onnxruntime"
    yield ""
    yield f'sampler = onnxruntime.InferenceSession("FOLDER/{program.file}")'
    yield f'noise = np.random.randn({_N}, {program.inputs["noise"][1]}).astype("float32")'
    yield 'inputs = {"noise": noise, "temperature": np.array(1.0, "float32")}'
    if "context" in program.inputs:
        yield f'inputs["context"] = np.zeros(({_N}, {program.inputs["context"][1]}), "float32")'
        yield 'inputs["context"][:, 0] = 1.0'
    yield "images, latents = sampler.run(None, inputs)"
