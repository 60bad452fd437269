"""Reports: what is compared and what is not, strangers' folders, files that are drawn again."""

import copy
import json
import math
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from commands import QUICK, composed
from PIL import Image

from pyro_lrp import reports
from pyro_lrp.core.errors import UserError
from pyro_lrp.reports.differences import columns

FID = {"network": "Inception", "images": "clipped"}
EVIL = "<script>alert(1)</script>|`$x$`"


@pytest.fixture(scope="module")
def identity():
    return {**yaml.safe_load(yaml.safe_dump(composed("data=fake"))), "image_shape": [1, 8, 8], "latent_dim": 8}


@pytest.fixture
def write(tmp_path, monkeypatch, identity):
    """Writes a run directory: keys changed by dotted names, final terms, results of metrics."""
    monkeypatch.chdir(tmp_path)

    def run(name, changes=None, fid=None, *, protocol=FID, n=1000, finished=True, step=40, metric="fid"):
        directory = tmp_path / name
        (directory / "figures").mkdir(parents=True)
        own = copy.deepcopy(identity)
        for key, value in (changes or {}).items():
            *above, last = key.split(".")
            node = own
            for part in above:
                node = node.setdefault(part, {})
            node[last] = value
        (directory / "config.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
        rows = [
            {"step": at, "log_prior": -9.0 + at / 10, "test/log_prior": -8.0} for at in range(10, step + 1, 10)
        ]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if finished:
            final = {"step": step, "test/log_likelihood": -50.0 - own["seed"], "test/log_prior": -8.0}
            (directory / "summary.json").write_text(json.dumps({"final": final, "scored_images": {"test": 30}}))
        if fid is not None:
            result = {"value": fid, "n": n, "seed": 0, "protocol": protocol, "request": {"step": step}}
            (directory / "evaluation.json").write_text(json.dumps({metric: result}))
        Image.new("RGB", (40, 30), "red").save(directory / "figures" / "samples.png")
        return directory

    return run


@pytest.fixture
def report(train):
    def run(*arguments):
        return train(*arguments, command="report")

    return run


def table_of(*paths, **options):
    return reports.summarize(reports.collect(paths), **options)


def test_a_trained_pair(train, report):
    for seed in (0, 1):
        train(*QUICK, f"seed={seed}", "name=pair")
    code, out, err = report("runs/pair")
    assert code == 0, err
    assert "no run is evaluated: python -m pyro_lrp.evaluate run=DIR" in out
    summaries = [json.loads(path.read_text()) for path in sorted(Path("runs").glob("*/*/summary.json"))]
    (row,) = table_of("runs").rows
    for term in ("test/log_likelihood", "test/log_prior", "test/kl"):
        values = [summary["final"][term] for summary in summaries]
        cell = row.cells[term]
        assert cell.values == tuple(values)
        assert cell.mean == pytest.approx(statistics.mean(values))
        assert cell.deviation == pytest.approx(statistics.stdev(values))
        assert f"{cell.mean:.1f}"[:4] in out
    assert row.seeds == (0, 1)
    assert Path("runs/pair/report/report.html").read_text().count("data:image/png;base64,") == 3
    assert report("runs/pair")[0] == 0  # its own output is no run


# ----------------------------------------------------------------- columns and groups

FLOW = {"prior": "flow", "beta": 0, "latent_dim": 8, "prior.width": 8, "prior.dim": 8}
COLUMNS = {
    "nothing": ([FLOW, FLOW], []),
    "a root key": ([FLOW, {**FLOW, "beta": 1}], ["beta"]),
    "1 and 1.0 are one value": ([{**FLOW, "beta": 1.0}, {**FLOW, "beta": 1}], []),
    "1 and true are two": ([{**FLOW, "beta": 1}, {**FLOW, "beta": True}], ["beta"]),
    "a nested key of one preset": ([FLOW, {**FLOW, "prior.width": 16}], ["prior.width"]),
    "a nested key of two presets": (
        [FLOW, {"prior": "vamp", "beta": 0, "latent_dim": 8, "prior.k": 2}],
        ["prior"],
    ),
    "a nested key that repeats": ([FLOW, {**FLOW, "latent_dim": 4, "prior.dim": 4}], ["latent_dim"]),
    "a nested key that is 0 where beta is": (
        [FLOW, {**FLOW, "prior.extra": 0}, {**FLOW, "beta": 1}],
        ["beta", "prior.extra"],
    ),
    "presets of the whole path": (
        [
            {"objective": "a", "schedule": "b", "objective.schedule.start": 0},
            {"objective": "a", "schedule": "c", "objective.schedule.start": 1},
        ],
        ["schedule"],
    ),
    "roots before nested ones": ([FLOW, {**FLOW, "prior.width": 9, "beta": 1}], ["beta", "prior.width"]),
}


@pytest.mark.parametrize(("keys", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_columns(keys, expected):
    assert columns(keys) == expected


def test_runs_that_differ_in_seed_alone_are_one_row(write):
    for beta in (1, 0):
        for seed in (0, 1, 2):
            write(
                f"b{beta}/seed_{seed}", {"beta": beta, "objective.elbo.beta": beta, "seed": seed}, 10.0 + seed
            )
    table = table_of(".")
    assert table.columns == ("beta",)
    assert [row.keys["beta"] for row in table.rows] == [0, 1]
    assert [row.seeds for row in table.rows] == [(0, 1, 2)] * 2
    assert table.rows[0].cells["fid"].mean == 11.0
    assert table.rows[0].cells["fid"].deviation == 1.0


def test_places_and_fingerprints_are_no_columns_but_other_images_are_other_rows(write):
    for index, image in enumerate(("aa", "bb", "aa")):
        changes = {"data.fingerprint": image, "data.path": f"/home/{index}", "seed": index}
        write(f"run_{index}", changes, 10.0 + index)
    table = table_of(".")
    assert table.columns == ("images",)
    assert [row.keys["images"] for row in table.rows] == ["A", "B"]
    assert [row.seeds for row in table.rows] == [(0, 2), (1,)]
    assert [row.cells["fid"].mark for row in table.rows] == ["a", "b"]
    assert not any(row.cells["fid"].best for row in table.rows)


def test_a_key_that_an_earlier_run_lacks_has_its_neutral_value(write, identity):
    write("new", {"network.noise": "learned", "network.noise_floor": 0, "decoder_epochs": 0}, 1.0)
    old = write("old", {"seed": 1}, 3.0)
    config = {key: value for key, value in identity.items() if not key.startswith("decoder_")}
    config["network"] = {key: value for key, value in config["network"].items() if "no" not in key}
    (old / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 1}))
    (row,) = table_of(".").rows
    assert row.cells["fid"].mean == 2.0


def test_a_copy_counts_once(write):
    for name in ("a", "b"):
        write(name, {}, 5.0)
    table = table_of(".")
    assert table.rows[0].seeds == (0,)
    assert table.repeats == {"b": "a"}


def test_presets_come_first(write):
    write("a", {"beta": 1, "prior_code_noise": 0.2})
    write("b", {"presets.model": "aae"})
    assert table_of(".").columns == ("model", "beta", "prior_code_noise")


# ----------------------------------------------------------------- what must not be compared

OTHERS = {
    "protocol": ({"protocol": {**FID, "network": "a small CNN"}}, "network (a: Inception; b: a small CNN)"),
    "n": ({"n": 50}, "n (a: 1000; b: 50)"),
    "data": ({"changes": {"presets.data": "mnist"}}, "data set (a: fake; b: mnist)"),
}


@pytest.mark.parametrize(("other", "words"), OTHERS.values(), ids=OTHERS)
def test_values_of_different_protocols_are_marked_and_not_ranked(write, other, words):
    write("a", {"beta": 0}, 10.0)
    options = {**other, "changes": {"beta": 1, **other.get("changes", {})}}
    write("b", fid=5.0, **options)
    table = table_of(".", metrics=["fid"])
    assert [row.cells["fid"].mark for row in table.rows] == ["a", "b"]
    assert not any(row.cells["fid"].best for row in table.rows)
    (note,) = table.notes
    assert words in note.text
    assert words in reports.markdown(reports.collect(["."]), table)


def test_values_of_different_protocols_are_not_averaged(write):
    write("s0", {}, 10.0)
    write("s1", {"seed": 1}, 5.0, protocol={"network": "another"})
    (row,) = table_of(".").rows
    assert row.cells["fid"].mean is None
    assert row.cells["fid"].values == (10.0, 5.0)
    assert "several protocols [a,b]" in reports.terminal(table_of("."), 120)


def test_outcomes_are_no_protocol(write):
    write("s0", {}, 10.0, protocol={**FID, "non_finite_samples": 3})
    write("s1", {"seed": 1}, 20.0, protocol={**FID, "non_finite_samples": 0})
    (row,) = table_of(".").rows
    assert row.cells["fid"].mean == 15.0


def test_a_result_of_an_earlier_step_is_of_another_protocol(write):
    write("a", {"beta": 0}, 10.0)
    late = write("b", {"beta": 1}, 5.0)
    results = json.loads((late / "evaluation.json").read_text())
    results["fid"]["request"]["step"] = 20
    (late / "evaluation.json").write_text(json.dumps(results))
    assert "step (a: none; b: 20)" in table_of(".", metrics=["fid"]).notes[0].text


DIRECTIONS = {
    "fid": 0, "fid_dai_wipf": 0, "fd_classifier": 0, "kid": 0, "kd_classifier": 0, "ppl_squeezenet_zT": 0,
    "reconstruction_mse": 0, "separability_z0": 0, "class_separability_zT": 0, "inception_score": 1,
    "is_classifier": 1, "precision": 1, "recall_classifier": 1, "density": 1, "coverage": 1,
    "fid_training": None, "kd_classifier_training": None, "active_units": None, "constant_image_mse": None,
    "test/kl": None, "elbo": None, "colour": None,
}  # fmt: skip


@pytest.mark.parametrize(("metric", "best"), DIRECTIONS.items())
def test_the_best_mean_is_marked_where_it_is_known(write, metric, best):
    for beta in (0, 1):
        write(f"b{beta}", {"beta": beta}, 1.0 + beta, metric=metric)
    table = table_of(".", metrics=[metric])
    marked = [index for index, row in enumerate(table.rows) if row.cells[metric].best]
    assert marked == ([] if best is None else [best])
    assert ("*" in reports.terminal(table, 100)) == (best is not None)


# ----------------------------------------------------------------- missing, broken, strange


def damaged_config(run):
    (run / "config.yaml").write_text("a: [")


def damaged_json(run):
    (run / "evaluation.json").write_text('{"fid": ')


def no_results(run):
    (run / "evaluation.json").write_text('{"fid": 3}')


def nested(run):
    (run / "summary.json").write_text("[" * 100_000)


def huge_json(run):
    with open(run / "evaluation.json", "wb") as file:
        file.truncate(2**26 + 1)


def huge_history(run):
    with open(run / "metrics.jsonl", "wb") as file:
        file.truncate(2**28 + 1)


def huge_number(run):
    with open(run / "config.yaml", "a") as file:
        file.write(f"lucky: 0x{'f' * 9000}\n")


def link_out(run):
    (run / "figures" / "secret.png").symlink_to("/etc/hostname")


def no_config(run):
    (run / "config.yaml").unlink()


BREAKS = [
    damaged_config,
    damaged_json,
    no_results,
    nested,
    huge_json,
    huge_history,
    huge_number,
    link_out,
    no_config,
]


@pytest.mark.parametrize("damage", BREAKS)
def test_what_breaks_a_run(write, damage):
    damage(write("a", {}, 1.0))
    write("b", {"seed": 1}, 1.0)
    collection = reports.collect(["."])
    assert [run.name for run in collection.runs] == ["b"]
    (reason,) = collection.broken
    assert reason.startswith("a")
    assert "\n" not in reason


def test_two_broken_runs_among_ten(write, report):
    for index in range(10):
        run = write(f"strange/run_{index}", {"beta": index}, float(index))
        if index in (3, 7):
            damaged_config(run)
    code, out, err = report("strange", "metrics=fid")
    assert code == 0, err
    assert len(table_of("strange").rows) == 8
    left_out = [line for line in out.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 2
    assert "strange/run_3" in left_out[0]
    assert "strange/run_7" in left_out[1]
    page = Path("strange/report/report.html").read_text()
    assert page.count("left out: ") == 2


def test_unfinished_runs_and_such_without_evaluation_are_named(write, report):
    write("a", {}, 4.0)
    write("b", {"seed": 1}, 100.0, finished=False, step=20)
    write("c", {"seed": 2})
    _, out, _ = report(".")
    assert "unfinished, not averaged: b (step 20)" in out
    assert "not evaluated: c" in out
    (row,) = table_of(".").rows
    assert row.seeds == (0, 2)
    assert row.cells["fid"].values == (4.0,)
    assert "2 (+1 unfinished)" in out
    assert "4.000 (of 1)" in out


def test_a_published_run_has_its_results_alone(write):
    run = write("a", {}, 4.0, finished=False)
    (run / "metrics.jsonl").unlink()
    (found,) = reports.collect([run]).runs
    assert found.finished
    assert found.step == 40


def test_a_value_that_is_not_finite(write):
    write("a", {"beta": 0}, math.nan)
    write("b", {"beta": 1}, 10**400)
    table = table_of(".")
    assert [row.cells["fid"].mean for row in table.rows] == [None, None]
    assert "not finite" in reports.terminal(table, 100)


MISTAKES = {
    "nothing named": ((), "which runs?"),
    "no such folder": (("nowhere",), "no run to report: nowhere: there is no such folder"),
    "a pattern for nothing": (("no*where",), "no run to report: no*where: there is no such folder"),
    "no run": (("empty",), "no run to report: empty: it holds no run"),
    "no folder": (("file",), "no run to report: file: it is no folder"),
    "unknown flag": (("run", "--bogus"), "unknown flag --bogus"),
    "misspelt option": (("metric=[fid]",), "no run to report: metric=[fid]: there is no such folder"),
    "unknown metric": (
        ("run", "metrics=[fidd]"),
        "metrics: no run has fidd; there are: fid, test/log_likelihood",
    ),
    "no folder named": (("run", "out="), "out= names nothing"),
    "cannot be written": (("run", "out=file/x"), "file/x cannot be written"),
    "a link": (("linked",), "linked/report is a link"),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(write, report, tmp_path, arguments, words):
    write("run", {}, 3.0)
    write("linked/run", {}, 3.0)
    (tmp_path / "linked" / "report").symlink_to(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    code, out, err = report(*arguments)
    assert code == 1
    assert err.startswith(f"error: {words}")
    assert err.count("\n") == 1
    assert out == ""


def test_a_link_to_a_run_elsewhere_is_named_and_not_followed(write, tmp_path):
    write("mine/a", {}, 3.0)
    (tmp_path / "mine" / "b").symlink_to(write("elsewhere/b", {}, 3.0))
    collection = reports.collect(["mine"])
    assert [run.name for run in collection.runs] == ["mine/a"]
    assert collection.broken == ("mine/b is a link that leads out of mine: name it itself",)


class Page(HTMLParser):
    """The tags, the addresses and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href", "srcset", "data")]
        assert not any(key.startswith("on") for key, _ in attributes)

    def handle_data(self, data):
        self.text += data


def test_text_of_a_stranger_has_no_meaning(write, report):
    write("a", {"remark": EVIL}, 3.0, protocol={"network": EVIL})
    write(
        "b",
        {"remark": "=cmd()", "seed": 1},
        3.0,
        protocol={"network": "\x1b[2J"},
        metric=f"fid{EVIL}".replace("/", ""),
    )
    write(EVIL.replace("/", ""), {"beta": 1}, 5.0)
    code, out, err = report(".", "out=out")
    assert code == 0, err
    assert "\x1b" not in out
    text = Path("out/report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert EVIL in page.text
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"https?:|url\(|@import", text)
    assert "<script>" not in Path("out/report.md").read_text()
    assert ",=cmd" not in Path("out/report.csv").read_text()
    assert "\x1b" not in text


# ----------------------------------------------------------------- files


def sweep(write):
    for beta in (0, 0.5):
        for seed in (0, 1):
            run = write(
                f"sweep/b{beta}/seed_{seed}", {"beta": beta, "seed": seed, "remark": 'x,"y"\n'}, beta + seed
            )
    write("sweep/other", {"beta": 3, "remark": "0.5"}, 3.0, protocol={"network": "another"}, n=7)
    write("sweep/late", {"beta": 3, "remark": "true"}, finished=False)
    return run


def test_equal_runs_give_equal_bytes_in_any_order(write, report):
    sweep(write)
    report("sweep", "out=one")
    report(*sorted(map(str, Path("sweep").glob("*")), reverse=True), "sweep/*", "out=two")
    for file in Path("one").iterdir():
        assert file.read_bytes() == Path("two", file.name).read_bytes(), file.name
    assert {file.name for file in Path("one").iterdir()} == {
        f"report.{end}" for end in ("csv", "json", "md", "html")
    }


def test_a_report_is_drawn_again_from_its_files(write, tmp_path):
    sweep(write)
    damaged_json(write("sweep/broken"))
    original = reports.collect(["sweep"])
    reports.write(original, "one", metrics=["fid", "test/*"])
    again = reports.read("one")
    assert again.broken == original.broken
    assert {run.name: run.curves for run in again.runs} == {run.name: run.curves for run in original.runs}
    reports.write(again, "two", metrics=["fid", "test/*"])
    for name in ("report.csv", "report.json", "report.md"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), name
    without_pictures = re.sub(
        r"<h2>Samples.*?(?=<h2>)", "", Path("one/report.html").read_text(), flags=re.DOTALL
    )
    assert without_pictures == Path("two/report.html").read_text()
    (tmp_path / "one" / "report.json").write_text("{}")
    with pytest.raises(UserError, match=r"report\.csv and report\.json beside it are not those of one report"):
        reports.read("one")
    with pytest.raises(UserError, match=r"nowhere.report\.csv is missing"):
        reports.read("nowhere")


def test_where_a_report_goes(write, report):
    write("runs/a/seed_0", {}, 1.0)
    write("runs/b/seed_0", {"beta": 1}, 1.0)
    for arguments, place in {
        ("runs/a",): "runs/a/report",
        ("runs/[a]",): "runs/a/report",
        ("runs/*",): "runs/report",
        ("runs/a", "runs/b"): "runs/report",
        ("runs", "out=else where"): "else where",
    }.items():
        _, out, _ = report(*arguments)
        assert f"{place}/report.html" in out.splitlines()


@pytest.mark.parametrize("width", [40, 80, 108, 200])
def test_the_table_fits_the_terminal(write, report, monkeypatch, width):
    sweep(write)
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = report("sweep", "out=out")
    table = out[: out.index("unfinished, not")].splitlines()
    assert max(map(len, table)) <= width
    header = table[0].split()
    assert "fid" in header
    assert ("more in report.csv; metrics" in " ".join(" ".join(table).split())) == (
        "test/log_prior" not in header
    )


def test_the_page_shows_a_broken_picture_as_none(write, report):
    (write("a", {}, 1.0) / "figures" / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    code, _, err = report("a")
    assert code == 0, err
    assert "Samples" not in Path("a/report/report.html").read_text()
