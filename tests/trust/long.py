"""The long form: ``python -m trust.long minutes=20`` in ``tests/``, as often as there is something left to do.

Each trial appends a line to a file, so that a run of this program that is ended costs one trial. ``only=WORD``
takes the attacks with this word in their name, ``out=FILE`` another file, ``summary=true`` only counts.
"""

import collections
import json
import sys
import tempfile
import time
from pathlib import Path

from trust import attacks, damage, fuzz, kit

OUT = kit.ROOT / "runs/recorded/trust/trials.jsonl"
ALL = {**attacks.ATTACKS, **damage.ATTACKS, **fuzz.ATTACKS}


def done(path):
    """The number of trials of each attack so far."""
    counts = collections.Counter()
    if path.is_file():
        for line in path.read_text().splitlines():
            counts[json.loads(line)["attack"]] += 1
    return counts


def run(path, minutes, only):
    deadline = time.monotonic() + 60 * minutes
    counts = done(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, kit.commands(Path(folder) / "server") as server:
        place = attacks.Place(folder, server)
        waiting = [name for name in ALL if only in name and counts[name] < ALL[name][1]]
        while waiting and time.monotonic() < deadline:
            for name in list(waiting):
                function, total = ALL[name]
                begun = time.process_time()
                cpu = server.cpu
                fault = function(place, counts[name])
                seconds = time.process_time() - begun + server.cpu - cpu
                row = {"attack": name, "number": counts[name], "fault": fault, "cpu": round(seconds, 2)}
                row |= fuzz.counted(name)
                with open(path, "a") as file:
                    file.write(json.dumps(row) + "\n")
                if fault and fault != attacks.SKIPPED:
                    print(f"{name} {counts[name]}: {fault}", flush=True)
                counts[name] += 1
                if counts[name] >= total:
                    waiting.remove(name)
                if time.monotonic() > deadline:
                    break


def summary(path):
    """A table of all counts, in Markdown."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    print("| attack | trials | faults | skipped |\n|---|---|---|---|")
    for name in ALL:
        own = [row for row in rows if row["attack"] == name]
        each = sum(row.get("files", row.get("configurations", 1)) for row in own)
        faults = sum(row["fault"] not in (None, attacks.SKIPPED) for row in own)
        skipped = sum(row["fault"] == attacks.SKIPPED for row in own)
        print(f"| {name} | {each:,} | {faults} | {skipped} |")


def main():
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    path = Path(options.get("out", OUT))
    if options.get("summary") == "true":
        summary(path)
        return
    run(path, float(options.get("minutes", 20)), options.get("only", ""))
    summary(path)


if __name__ == "__main__":
    main()
