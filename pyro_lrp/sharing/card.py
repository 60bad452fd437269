"""The model card of an exported run: ``README.md`` in the format of the Hugging Face hub."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import pyro_lrp
from pyro_lrp.config.identity import Identity
from pyro_lrp.core.errors import printable
from pyro_lrp.data import Condition
from pyro_lrp.metrics import METRICS
from pyro_lrp.metrics.meanings import arrow
from pyro_lrp.reports.differences import letter
from pyro_lrp.reports.scores import Score, read_final, read_results, requests
from pyro_lrp.sharing.loading import loading
from pyro_lrp.sharing.programs import TOLERANCE, Program

__all__ = ["Facts", "card"]

_SPREADS = ("standard_error", "standard_deviation")
_LONGEST = 12  # names of contexts that are listed


@dataclass(frozen=True)
class Facts:
    """What a card is about.

    Attributes:
        identity: The run's identity, without paths.
        summary: Its summary; empty if it is not finished.
        results: Its ``evaluation.json``, without paths.
        step: The training step of the weights.
        finished: Whether training is complete.
        condition: The meaning of contexts.
        programs: The programs of the folder, and those that were not written.
        pictured: Whether there is a grid of samples.
    """

    identity: dict[str, Any]
    summary: Mapping[str, Any]
    results: Mapping[str, Any]
    step: int
    finished: bool
    condition: Condition
    programs: Sequence[Program]
    pictured: bool

    @property
    def settings(self) -> Identity:
        """Typed access to the identity."""
        return Identity(self.identity)

    def preset(self, group: str) -> str:
        """The name of the file that was chosen from a configuration group."""
        return self.settings.preset(group) or "own"


def card(facts: Facts) -> str:
    """The text of the card, Markdown behind YAML."""
    title = f"{facts.preset('model')} on {facts.preset('data')}"
    parts = [
        f"---\n{_front_matter(facts)}---",
        f"# {title}",
        "\n".join(_what_it_is(facts)),
        _samples(facts),
        "\n".join(["## Data", "", *_data(facts)]),
        "\n".join(["## Numbers", "", *_numbers(facts)]),
        "\n".join(["## How to load it", "", *loading(facts.condition, facts.programs)]),
        "\n".join(["## Programs", "", *_programs(facts)]),
        "\n".join(["## What was not measured", "", *_not_measured(facts)]),
    ]
    return printable("\n\n".join(part for part in parts if part)) + "\n"


def _front_matter(facts: Facts) -> str:
    """The hub's metadata; the license is its user's to choose."""
    tags = ["pyro", "pytorch", "variational-autoencoder", "learned-prior", "image-generation"]
    data = facts.preset("data")
    if data not in ("folder", "npz", "own"):
        tags.append(data)
    entries: dict[str, Any] = {"library_name": "pyro_lrp", "tags": tags}
    if not len(facts.condition):
        entries["pipeline_tag"] = "unconditional-image-generation"
    text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
    return f"# license: yours to choose before you share this, such as cc-by-4.0\n{text}"


def _what_it_is(facts: Facts) -> Iterator[str]:
    run = facts.settings
    channels, height, width = run.image_shape
    prior = "p(z)"
    if len(facts.condition):
        prior = f"p(z | {facts.condition.kind})"
    yield (
        f"A generative autoencoder of images of {height}×{width} pixels with {channels} "
        f"channel{'s' if channels > 1 else ''}: an encoder q(z|x), a decoder, and a prior {prior} of "
        f"{run.latent_dim}-dimensional codes, whose samples are decoded to new images. Trained with "
        f"pyro_lrp {_version(facts)}."
    )
    yield ""
    if not facts.finished:
        yield f"**Its training is not finished**: these are the weights of step {facts.step:,}."
        yield ""
    yield (
        "*To be completed by whoever shares it: the license (above), what it is meant for, and who made the "
        "images under which terms.*"
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    for key, value in _settings(facts):
        yield f"| {key} | {_cell(value)} |"
    yield ""
    yield "Everything else is in `config.yaml`."


def _version(facts: Facts) -> str:
    versions = facts.summary.get("versions")
    if isinstance(versions, dict):
        return str(versions.get("pyro_lrp", pyro_lrp.__version__))
    return pyro_lrp.__version__


def _settings(facts: Facts) -> Iterator[tuple[str, str]]:
    run = facts.settings
    yield "model", facts.preset("model")
    yield "prior", f"{facts.preset('prior')} (`{_target(run.prior)}`)"
    yield "network", f"{facts.preset('network')} (`{_target(run.network)}`)"
    yield "likelihood", f"{facts.preset('likelihood')} (`{_target(run.likelihood)}`)"
    yield "objective", f"{facts.preset('objective')}, β = {facts.identity.get('beta', 'not recorded')}"
    if len(facts.condition):
        yield "conditional on", f"{facts.condition.kind}: {_listed(facts.condition.names)}"
    parameters = facts.summary.get("parameters")
    if isinstance(parameters, dict):
        counts = [f"{name} {count:,}" for name, count in parameters.items() if isinstance(count, int)]
        yield "parameters", ", ".join(counts)
    for key in ("order", "epochs", "decoder_epochs", "prior_epochs", "batch_size", "lr", "seed"):
        if key in facts.identity:  # runs of earlier versions lack some
            yield key.replace("_", " "), str(facts.identity[key])
    yield "training steps", f"{facts.step:,}"


def _target(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", "?"))


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:_LONGEST])
    if len(names) > _LONGEST:
        text += f" and {len(names) - _LONGEST} more"
    return text


def _samples(facts: Facts) -> str:
    if not facts.pictured:
        return ""
    which = "The first samples of the prior"
    if facts.condition.classes(None):
        which = "The first samples of the prior for each class"
    elif len(facts.condition):
        which = "Samples of the prior, for contexts of training images, drawn during the training"
    return (
        "## Samples\n\n![Samples of the prior, decoded](figures/samples.png)\n\n"
        f"{which}, at temperature 1, not chosen: mean images of the decoder."
    )


def _data(facts: Facts) -> Iterator[str]:
    run = facts.settings
    yield f"Trained on `data={facts.preset('data')}` (`{_target(run.data)}`), which is not in this folder."
    path = run.data.get("path")
    if path is not None:
        yield f"They are in a file or folder of its author's, `{_text(str(path))}`."
    if run.limit is not None:
        yield f"Only the first {run.limit:,} training images were used."
    if run.validation:
        yield f"Of the training images a share of {run.validation:g} was held out."
    scored = facts.summary.get("scored_images")
    if isinstance(scored, dict):
        counts = [f"{count:,} {name}" for name, count in scored.items() if isinstance(count, int)]
        yield f"Scored at the end of the training: {', '.join(counts)} images."
    if run.fingerprint is not None:
        yield (
            f"Fingerprint of the data set: `{run.fingerprint}`. `trained_on.npz` has a 64-bit hash of each "
            "training image, by which `evaluate` keeps them from being test images; whoever has an image can "
            "find out with it whether it was one."
        )


def _numbers(facts: Facts) -> Iterator[str]:
    scores = {**read_final(facts.summary), **read_results(facts.results, Path("evaluation.json"), facts.step)}
    if not scores:
        yield "None: the run was not evaluated."
        return
    for result in facts.results.values():
        if result.get("verdict"):
            yield f"Verdict of `prior_gap`: {_text(str(result['verdict']))}."
            yield ""
    yield (
        "Only numbers of one protocol can be compared, with another model's as well. ↓ smaller and ↑ larger "
        "is better. `test/` are means over test images at the end of the training."
    )
    yield ""
    yield "| metric | value | | n | protocol |"
    yield "|---|---|---|---|---|"
    letters: dict[str, str] = {}
    protocols: dict[str, Score] = {}
    for name, score in scores.items():
        mark = letters.setdefault(score.protocol_id, letter(len(letters)))
        protocols.setdefault(mark, score)
        images = "" if score.n is None else f"{score.n:,}"
        value = _value(score, facts.results.get(name, {}))
        yield f"| `{_cell(name)}` | {value} | {arrow(name).strip()} | {images} | {mark} |"
    yield ""
    for mark, score in protocols.items():
        terms = [f"{key}: {value}" for key, value in score.terms.items() if value != "null"]
        yield f"- **{mark}** {_text('; '.join(terms)) or 'none recorded'}"


def _value(score: Score, result: Mapping[str, Any]) -> str:
    """A value with its spread."""
    if score.value is None:
        return "not finite"
    text = f"{score.value:.4g}"
    for kind in _SPREADS:
        spread = result.get(kind)
        if isinstance(spread, (int, float)):
            return f"{text} ± {spread:.2g} ({kind.replace('_', ' ')})"
    interval = result.get("interval")
    if isinstance(interval, list) and len(interval) == 2:
        low, high = interval
        return f"{text} ({low:.4g} to {high:.4g})"
    return text


def _programs(facts: Facts) -> Iterator[str]:
    """A table of the programs, and why others are missing."""
    programs = facts.programs
    written = [program for program in programs if program.difference is not None]
    if not programs:
        yield "None were asked for."
        return
    if written:
        yield (
            "Functions without random numbers, for any number of rows n. When they were written, each was read "
            "back and compared with the library on fixed inputs: no pixel may differ by more than "
            f"{TOLERANCE:g} (images are in [0, 1])."
        )
        yield ""
        yield "| file | inputs, float32 | outputs | largest difference |"
        yield "|---|---|---|---|"
    for program in written:
        inputs = [f"{name} {_shape(shape)}" for name, shape in program.inputs.items()]
        yield (
            f"| `{program.file}` | {', '.join(inputs)} | {', '.join(program.outputs)} | "
            f"{program.difference:.1g} |"
        )
    if written and len(facts.condition):
        yield ""
        yield f"A context: {_meaning(facts.condition)} Its entries: {_text(_listed(facts.condition.names))}."
    missing = [program for program in programs if program.difference is None]
    if missing:
        yield ""
    for program in missing:
        yield f"- There is no `{program.file}`: {_text(program.reason)}."


def _meaning(condition: Condition) -> str:
    """The first line of the documentation of a kind of condition, without Sphinx's marks."""
    line = (inspect.getdoc(type(condition)) or condition.kind).partition("\n")[0]
    return re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"\1", line)


def _shape(shape: tuple[str | int, ...]) -> str:
    if not shape:
        return "()"
    return f"({', '.join(map(str, shape))})"


def _not_measured(facts: Facts) -> Iterator[str]:
    done = {request.get("metric") for request in requests(facts.results)}
    missing = [name for name in METRICS if name not in done]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        yield f"- Metrics of the library, some of which do not apply to such data: {names}."
    seed = facts.settings.seed
    yield f"- How much another seed would change the numbers: they are those of one training, seed {seed}."
    yield "- How the model does on images of another kind than those it was trained on."
    yield "- Biases of the training images, which the samples share."


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """A text of a run on one line, without HTML."""
    return re.sub(r"\s+", " ", text).replace("<", "&lt;").strip()
