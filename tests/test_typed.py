"""What is typed: quotes, own files, sweeps, terminals, help, and the options that comments show."""

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import QUICK, ROOT, composed, start
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pyro_lrp.config.arguments import Typed, for_hydra
from pyro_lrp.core.arguments import command_line
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.trees import nodes

COMMANDS = ("train", "evaluate", "sample", "figure", "check")


def read(argument):
    """The value that Hydra reads from an argument."""
    override = OverridesParser.create().parse_override(argument)
    tree = OmegaConf.create({"value": override.value(), "seed": 7})
    return OmegaConf.to_container(tree, resolve=True)["value"]


# ----------------------------------------------------------------- quotes

TEXTS = [
    "a b", "it's", "ü,ö", "a=b", "~/x", "[1,2]", "{a: 1}", "back\\slash", "tail\\", "q\\'q", "${x}", "null2",
    "null", "true", "12", "1e3", "(a)", "a(b)", "é.png", "名前", "x!y", "#1", "a;b|c&d", "'quoted'", '"double"',
    "%", "-dash", "two  spaces", "tab\there", "$HOME", "`ls`", "*",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["run", "images", "name", "weights.vgg16"])
def test_a_printed_command_means_what_it_was_made_of(key, text):
    """Pasted into a shell, and from there through the command's own quoting into Hydra."""
    line = command_line("sample", {key: text, "n": 3, "out": None})
    *words, argument, number = shlex.split(line)
    assert words == ["python", "-m", "pyro_lrp.sample"]
    assert read(for_hydra(argument)) == text
    assert read(for_hydra(number)) == 3


@pytest.mark.parametrize("values", [["a b", "ü"], ["x,y", "1"], [], [0, 2], [True, 0.5]])
def test_a_printed_list_means_what_it_was_made_of(values):
    argument = shlex.split(command_line("sample", {"context": values}))[-1]
    assert read(for_hydra(argument)) == values
    argument = shlex.split(command_line("sample", {"images": [*map(str, values)]}))[-1]
    assert read(for_hydra(argument)) == [*map(str, values)]


@pytest.mark.parametrize("text", [text for text in TEXTS if text != "null" and text[0] not in "'\""])
def test_any_path_can_be_typed_without_quotes(text):
    assert read(for_hydra(f"data.root={text}")) == text


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("images=[é.png,a b.png]", ["é.png", "a b.png"]),
        ("images=['a,b.png',c(1).png]", ["a,b.png", "c(1).png"]),
        ("runs=[runs/ä/seed_0,${x}]", ["runs/ä/seed_0", "${x}"]),
        ("attribute=Größe", "Größe"),
        ("attribute=7", 7),
        ("attributes=[Größe,Alter]", ["Größe", "Alter"]),
        ("context=[Größe, 3]", ["Größe", 3]),
        ("name=Größe (1)", "Größe (1)"),
        ("name=ä_${seed}", "ä_7"),
        ("name=it's", "it's"),
        ("beta=1e-3", 1e-3),
        ("out=null", None),
        ("indices=[0,1]", [0, 1]),
        ("weights={vgg16: /ä/b.npz}", {"vgg16": "/ä/b.npz"}),
        ("trainer.optimizers={prior: {lr: 1e-5}}", {"prior": {"lr": 1e-5}}),
    ],
)
def test_texts_can_be_typed_without_quotes(typed, value):
    assert read(for_hydra(typed)) == value


def test_in_a_sweep_a_comma_separates():
    def members(argument):
        override = OverridesParser.create().parse_override(for_hydra(argument, sweep=True))
        return [read(f"key={value}") for value in override.sweep_string_iterator()]

    assert members("attribute=Größe,Alter") == ["Größe", "Alter"]
    assert members("run=runs/a b/seed_0,runs/ü/seed_0") == ["runs/a b/seed_0", "runs/ü/seed_0"]
    assert read(for_hydra("run=runs/a,b")) == "runs/a,b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["name=[a"], "name=[a cannot be read; quote a text with special signs for the shell"),
        (["größe=3"], "größe=3 is not of the form key=value"),
        (["beta"], "beta is not of the form key=value"),
        (["name=a,b"], """name=a,b is a list as name=[a,b], a text as 'name="a,b"', a sweep with -m"""),
        (["data=folder", "data.imagesize=3"], "unknown key data.imagesize (did you mean data.image_size?)"),
        (["prior.layer=3"], "unknown key prior.layer (did you mean prior.layers?)"),
        (["data=npz", "data.image_size=3"], "unknown key data.image_size (+data.image_size=... would add it)"),
        (
            ["data.flow=layers:2"],
            "data.flow has keys of its own, such as data.flow.layers=; all together in quotes",
        ),
        (["data=3"], "data=3 names nothing; the known ones are: celeba"),
        (["prior=[flow]"], "prior=[flow] names nothing; the known ones are: conditional_flow"),
        (["model=true"], "model=true names nothing; the known ones are: aae"),
        (["latent_dim=${foo}"], "error: latent_dim: Interpolation key 'foo' not found\n"),
        (["prior.depth=3"], "unknown key prior.depth (+prior.depth=... would add it)"),
        (["--config-dir"], "--config-dir/-cd: expected one argument"),
        (["--config-dir", "nowhere"], "nowhere: there is no such folder"),
        (["name=../a"], "name must be the name of a folder"),
        (["name=/a"], "name must be the name of a folder"),
        ([f"name={'x' * 300}"], "name must be the name of a folder"),
    ],
)
def test_what_cannot_be_read_has_a_way_out(train, arguments, message):
    code, _, err = train(*QUICK, *arguments)
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not Path("runs").exists()


# ----------------------------------------------------------------- files of one's own


def own(group, name, text):
    """A file of the user's in ``my cönf``."""
    path = Path("my cönf", group, f"{name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_an_own_file_of_a_known_name_wins(train):
    spline = (ROOT / "conf/prior/spline.yaml").read_text()
    own("prior", "flow", spline)
    own("prior", "süß", spline)
    code, _, err = train(*QUICK, "name=a", "--config-dir", "my cönf")
    assert code == 0, err
    assert "prior/flow.yaml is that of " in err
    train(*QUICK, "name=b", "prior=süß", "--config-dir=my cönf")
    train(*QUICK, "name=c", "prior=spline")
    priors = [yaml.safe_load(Path(f"runs/{name}/seed_0/config.yaml").read_text())["prior"] for name in "abc"]
    assert priors[0] == priors[1] == priors[2]
    code, _, err = train(*QUICK, "prior=flaw", "--config-dir", "my cönf")
    assert "prior=flaw is unknown; the known ones are: " in err
    assert "süß" in err


def test_an_own_file_cannot_build_on_its_own_name(train):
    own("prior", "flow", "defaults: [flow]\nlayers: 2\n")
    _, _, err = train(*QUICK, "--config-dir", "my cönf")
    assert "a file of --config-dir builds on a file of its own name" in err


def test_an_own_whole_configuration_is_chosen_by_another_name(train):
    own(".", "train", "beta: 0.5\n")
    code, _, err = train(*QUICK, "--config-dir", "my cönf")
    assert code == 1
    assert "train.yaml would replace the whole configuration of train: give it another name" in err
    Path("my cönf/train.yaml").unlink()
    own(".", "mine", "defaults: [train, _self_]\nbeta: 0.5\n")
    code, _, err = train(*QUICK, "name=a", "--config-dir", "my cönf", "--config-name", "mine")
    assert code == 0, err
    assert yaml.safe_load(Path("runs/a/seed_0/config.yaml").read_text())["beta"] == 0.5


# ----------------------------------------------------------------- sweeps


def test_a_sweep_goes_on_past_members_that_fail(train):
    code, _, err = train("-m", *QUICK, "name=ä_${batch_size}", "batch_size=5000,50,4000,25")
    assert code == 1
    assert {path.name for path in Path("runs").iterdir()} == {"ä_50", "ä_25"}
    *_, count, first, second = err.splitlines()
    assert count == "error: 2 of 4 members of the sweep failed:"
    assert "batch_size=5000" in first
    assert "batch_size must be between 1 and the 230 images there are, got 4000" in second
    code, _, err = train("-m", *QUICK, "name=b_${seed}", "seed=0,1")
    assert code == 0, err


def test_an_interruption_ends_a_sweep(train, interrupt_at):
    interrupt_at(1)
    code, _, err = train("-m", *QUICK, "name=${seed}", "seed=0,1", "trainer.report_every=1")
    assert code == 130
    assert "interrupted" in err
    assert not Path("runs/1").exists()


# ----------------------------------------------------------------- terminals


def test_any_encoding_serves(tmp_path):
    """A table has ±, a name has umlauts; a scheduler's log may be ASCII, a Windows console cp1252."""
    program = """
import sys
from pyro_lrp.core.terminal import tolerate_any_encoding
tolerate_any_encoding()
print("1 ± 2, β = 0, Größe, 名, \\udce9")
print("µ…", file=sys.stderr)
"""
    written = {
        "ascii": b"1 +- 2, beta = 0, Gr\\xf6\\xdfe, \\u540d, \xe9\n",
        "cp1252": "1 ± 2, ".encode("cp1252") + b"beta = 0, Gr\xf6\xdfe, \\u540d, \xe9\n",
        "utf-8": "1 ± 2, β = 0, Größe, 名, ".encode() + b"\xe9\n",
    }
    for encoding, expected in written.items():
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=env, check=True)
        assert done.stdout == expected
    process = start("train", *QUICK, "name=Größe", "logger=pap±er", cwd=tmp_path, PYTHONIOENCODING="ascii")
    output, _ = process.communicate(timeout=100)
    assert output == "error: logger must be none, tensorboard, wandb or trackio, got 'pap+-er'\n"


def test_a_screen_that_shows_no_bar_shows_lines():
    """Some terminals say that they have no columns: tqdm is silent there, and so the log is not."""
    program = """
import fcntl, logging, struct, sys, termios
from pathlib import Path
from pyro_lrp.trainer.reporting import LOG, log_to
for columns in (0, 80):
    fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    for bar in (True, False):
        with log_to(Path("."), bar=bar):
            LOG.debug("step %s of %s", bar, columns)
"""
    parent, child = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], stderr=child, env=env, check=True, cwd="/tmp")
    os.close(child)
    shown = os.read(parent, 1000).decode().split("\r\n")
    assert shown[:-1] == ["step True of 0", "step False of 0", "step False of 80"]


# ----------------------------------------------------------------- help


def cpu_of_children():
    """Seconds of the processes that were waited for."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize("command", [*COMMANDS, "report", "explore"])
def test_help_is_there_at_once_and_fits_a_screen(command, tmp_path):
    """Without torch, whose import alone takes seconds."""
    program = f"""
import sys
sys.argv = ["pyro_lrp.{command}", "--help"]
from pyro_lrp.{command} import main
try:
    main()
except SystemExit:
    pass
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    begun = cpu_of_children()
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    assert cpu_of_children() - begun < 4  # 1 on an idle machine
    lines = done.stdout.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 110
    assert f"python -m pyro_lrp.{command}" in done.stdout


def keys(command):
    """The keys that a user may set for a command."""
    for key, value in yaml.safe_load((ROOT / f"conf/{command}.yaml").read_text()).items():
        if key in ("hydra", "defaults"):
            continue
        if isinstance(value, dict) and "_target_" not in value:
            yield from (f"{key}.{name}" for name in value)
        else:
            yield key


def names_key(text, key):
    node, _, name = key.rpartition(".")
    if node and re.search(rf"(?<![\w.])\.{name}=", text):  # after another key of the node
        return True
    return re.search(rf"(?<![\w.]){re.escape(key)}[=.]", text) is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_key(command):
    text = OmegaConf.load(ROOT / f"conf/{command}.yaml").hydra.help.template
    missing = [key for key in keys(command) if not names_key(text, key)]
    assert missing == []


def test_help_names_the_keys_of_a_trainer():
    text = OmegaConf.load(ROOT / "conf/train.yaml").hydra.help.template
    for key in OmegaConf.load(ROOT / "conf/trainer/default.yaml"):
        assert names_key(text, f"trainer.{key}")


# ----------------------------------------------------------------- options that comments and help show

OPTION = re.compile(r"(?<![\w.=\[{,])(\+?[a-z_]\w*(?:\.\w+)*)=(\{.*\}|\[[^\]]*\]|[^\s;,()]*)")
OTHER_VALUE = re.compile(r" *\w+: .*#(?:.*;)? or (\[[\w,]+\]|\w+(?:, \w+)*)")
EXAMPLE = re.compile(r" *\w+: .*# .* such as (\{.*\})")
PLACEHOLDERS = {
    "DIR": "x", "FILE": "x", "FILE.npz": "x.npz", "MODEL": "vae", "N": "7", "S": "8", "SHARE": "0.1",
    "TEXT": "x", "[TRAIN,TEST]": "[9,9]", "[BLACK,WHITE]": "[0,1]",
    "{PLAYER: {lr: 1e-5}}": "{prior: {lr: 1e-5}}",
    "label|attributes|[NAME": "label",
}  # fmt: skip
BESIDE = {  # what an option needs beside it
    "label": ("prior=conditional_flow",),
    "decoder_code_noise": ("decoder_epochs=1",),
    "data.background": ("data=folder",),
    "data.image_size": ("data=celeba",),
    "data.path": ("data=npz",),
    "data.root": ("data=celeba",),
    "data.value_range": ("data=npz",),
    "data.split": ("data=celeba",),
    "gan_loss": ("model=aae",),
}
IN_WORDS = {"a", "b", "launcher", "trainer.schedule.KEY", "prior.KEY", "prior=NAME", "prior=mine"}


def shown():
    """``(group and choice, option)`` of each option of ``train`` in a comment of ``conf/`` or in the help."""
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        group = path.parent.name
        if group == "conf" and path.stem not in ("train", "check"):
            continue
        choice = "" if group in ("conf", "family") else f"{group}={path.stem}"
        for key, value in shown_in(path, choice):
            if value and key not in IN_WORDS and f"{key}={value}" not in IN_WORDS:
                yield choice, f"{key}={value}"


def shown_in(path, choice):
    """``(key, value)`` of each option in the comments of a file."""
    parents = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[2] if choice else line
        yield from OPTION.findall(text)
        if name := re.match(r"( *)(\w+):", line):
            parents = [*parents[: len(name[1]) // 2], name[2]]
        node = [path.parent.name] if choice and parents[:1] != ["data"] else []
        key = ".".join([*node, *parents])
        if other := OTHER_VALUE.match(line):
            yield from ((key, value) for value in re.split(r", (?=\w)", other[1]))
        if example := EXAMPLE.match(line):
            yield key, example[1]


def test_options_work_as_they_are_shown():
    """Every one composes beside the file that shows it, and its value is one that the key may have."""
    tried = set()
    for choice, option in sorted(set(shown())):
        key, _, value = option.partition("=")
        if key == "run":  # of check, in place of a configuration
            continue
        for part in PLACEHOLDERS.get(value, value).rstrip(".").split("|"):
            one = PLACEHOLDERS.get(part, part)
            beside = BESIDE.get(key, BESIDE.get(one, ()))
            by_key = {argument.partition("=")[0]: argument for argument in [choice, *beside, f"{key}={one}"]}
            by_key.pop("", None)
            if " ".join(by_key.values()) in tried:
                continue
            arguments = Typed(["epochs=1", "prior_epochs=1", *by_key.values()]).keys
            try:
                composed(*arguments)
            except (HydraException, OmegaConfBaseException, UserError) as error:
                if "there is no file x" not in str(error):  # weights that a user would have
                    raise AssertionError(f"{' '.join(arguments)}: {error}") from error
            tried.add(" ".join(by_key.values()))
    assert len(tried) > 60


def test_keys_can_be_added_to_every_empty_mapping():
    empty = set()
    for path in (ROOT / "conf").rglob("*.yaml"):
        node = [path.parent.name] if path.parent.name != "conf" else []
        for keys, value in nodes(yaml.safe_load(path.read_text(encoding="utf-8"))):
            if value == {}:
                key = ".".join([*node, *map(str, keys)])
                assert for_hydra(f"{key}={{a: 1}}") == f"++{key}={{a: 1}}"
                empty.add(key)
    assert empty


def test_a_documented_context_network_is_built(train):
    lines = (ROOT / "conf/prior/conditional_flow.yaml").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("# prior.context_network=")]
    few = ("epochs=1", "prior_epochs=1", "progress=false", "device=cpu")
    code, _, err = train(*few, "prior=conditional_flow", "context=label", line.removeprefix("# "))
    assert code == 0, err


def test_optimizer_options_reach_their_player(train):
    options = ("trainer.optimizers={discriminator: {lr: 1e-5}}", "trainer.optimizers.prior.lr=1e-4")
    code, _, err = train(*QUICK, "model=aae", "objective.discriminator.width=8", "name=a", *options)
    assert code == 0, err
    identity = yaml.safe_load(Path("runs/a/seed_0/config.yaml").read_text())
    assert identity["trainer"]["optimizers"] == {"discriminator": {"lr": 1e-5}, "prior": {"lr": 1e-4}}
    code, _, err = train(*QUICK, "trainer.optimizers={prior: 3}")
    assert err == "error: trainer.optimizers.prior must be options of Adam by name, such as {lr: 1e-4}, got 3\n"


def test_flags_keep_their_values():
    typed = Typed(["prior=flow", "--cfg", "job", "beta=1", "--package", "a=b"])
    assert typed.keys == ["prior=flow", "beta=1"]
    assert typed.flags == ["--cfg", "job", "--package", "a=b"]
    with pytest.raises(UserError, match="unknown flag --colour"):
        Typed(["--colour"])
