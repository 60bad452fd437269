"""Mutated files for the readers, guided by atheris (libFuzzer): ``python -m trust.guided`` in ``tests/``.

Each reader runs in a process of its own (:mod:`trust.guided_reader`). libFuzzer ends it at the first fault:
an exception that is no UserError, a message of several lines, ten seconds for one file, a gigabyte. It needs
Linux and ``pip install atheris``; the loop of :mod:`trust.fuzz` needs neither. ``runs=N`` sets the files for
each reader, ``only=WORD`` takes the readers with this word in their name, ``out=FILE`` appends a line for
each, ``summary=true`` only counts.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from trust import attacks, fuzz, kit
from trust.long import rows_of

OUT = kit.ROOT / "runs/recorded/trust/guided.jsonl"


def attack(name, place, runs):
    """What libFuzzer says of one reader: a line of the record."""
    folder = kit.fresh(place.folder / "guided")
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(fuzz.READERS[name][1](place)):
        (corpus / f"seed_{number}").write_bytes(content)
    command = [sys.executable, "-m", "trust.guided_reader", name, str(folder), str(runs)]
    end = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    figures = re.findall(r"#(\d+)\s+\w+\s+cov: (\d+)", end.stderr)
    row = {"reader": name, "files": 0, "branches": 0, "fault": None}
    if figures:
        files, branches = figures[-1]
        row |= {"files": int(files), "branches": int(branches)}
    if end.returncode:
        row["fault"] = end.stderr[-1500:]
    return row


def summary(out):
    """A table of the record, in Markdown."""
    print("| reader | files | branches reached | faults |\n|---|---|---|---|")
    for row in rows_of(out):
        faults = int(row["fault"] is not None)
        print(f"| {row['reader']} | {row['files']:,} | {row['branches']:,} | {faults} |")


def run(out, only, runs):
    done = {row["reader"] for row in rows_of(out) if row["fault"] is None}
    with tempfile.TemporaryDirectory() as folder, kit.commands(Path(folder) / "server") as server:
        place = attacks.Place(folder, server)
        for name in fuzz.READERS:
            if name in done or only not in name:
                continue
            row = attack(name, place, runs)
            with open(out, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(name, row["files"], row["branches"], row["fault"] or "", flush=True)


def main():
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    out = Path(options.get("out", OUT))
    if options.get("summary") != "true":
        run(out, options.get("only", ""), int(options.get("runs", 10_000)))
    summary(out)


if __name__ == "__main__":
    main()
