"""The README's "Compose your own prior", run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, in_process

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = TEXT[TEXT.index("## Compose your own prior") : TEXT.index("### What can serve")]
PARTS = {part.partition("\n")[0].strip(): part for part in SECTION.split("### ")[1:]}
SHORT = ("epochs=1", "prior_epochs=1", "device=cpu", "progress=false")


def blocks(part, language):
    fenced = re.findall(r"```(\w*)\n(.*?)```", PARTS[part], flags=re.DOTALL)
    return [text for named, text in fenced if named == language]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("my_conf/prior").mkdir(parents=True)
    return tmp_path


def commands(part):
    """The lines of its command blocks, as (command, arguments)."""
    for line in "".join(blocks(part, "")).strip().splitlines():
        words = line.split()
        assert words[:2] == ["python", "-m"]
        yield words[2].removeprefix("pyro_lrp."), words[3:]


def run_all(part, capsys, monkeypatch):
    for name, arguments in commands(part):
        short = SHORT if name == "train" else ()
        code, out, err = in_process(name, *arguments, *short, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 0, err
        yield name, out


def test_yaml_alone(here, capsys, monkeypatch):
    (text,) = blocks("In YAML", "yaml")
    Path("my_conf/prior/mine.yaml").write_text(text)
    outputs = dict(run_all("In YAML", capsys, monkeypatch))
    assert "all laws hold" in outputs["check"]
    assert "samples of the prior" in outputs["train"]


def test_python(here):
    (program,) = blocks("In Python", "python")
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    assert names["images"].shape == (16, 1, 8, 8)


def test_a_new_transform(here, capsys, monkeypatch):
    part = "A new transform, and its law test"
    (program,) = blocks(part, "python")
    (text,) = blocks(part, "yaml")
    Path("my_transforms.py").write_text(program)
    Path("my_conf/prior/skewed.yaml").write_text(text)
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "my_transforms.py"]
    result = subprocess.run(tests, capture_output=True, text=True, check=False)
    assert "2 passed" in result.stdout, result.stdout + result.stderr
    assert [name for name, _ in run_all(part, capsys, monkeypatch)] == ["train"]
