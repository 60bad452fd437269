"""The long form: ``python -m trust.long minutes=20`` in ``tests/``, as often as there is something left to do.

Each trial appends a line to a file, so that a run of this program that is ended costs one trial. ``only=WORD``
takes the attacks with this word in their name, ``out=FILE`` another file, ``again=true`` makes those again that
found a fault, ``summary=true`` only counts.
"""

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

from trust import attacks, damage, fuzz, kit

OUT = kit.ROOT / "runs/recorded/trust/trials.jsonl"
ALL = {**attacks.ATTACKS, **damage.ATTACKS, **fuzz.ATTACKS}


def rows_of(path):
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def forget_faults(path):
    """Remove the trials that found a fault, to make them again once it is mended."""
    fine = [row for row in rows_of(path) if row["fault"] in (None, attacks.SKIPPED)]
    path.write_text("".join(json.dumps(row) + "\n" for row in fine))


def left(path, only):
    """The numbers of the trials of each attack that are not made yet."""
    made = {(row["attack"], row["number"]) for row in rows_of(path)}
    numbers = {}
    for name, (_, total) in ALL.items():
        if only in name:
            numbers[name] = [number for number in range(total) if (name, number) not in made]
    return {name: own for name, own in numbers.items() if own}


def run(path, minutes, only):
    deadline = time.monotonic() + 60 * minutes
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, kit.commands(Path(folder) / "server") as server:
        place = attacks.Place(folder, server)
        waiting = left(path, only)
        while waiting:
            for name in list(waiting):
                if time.monotonic() > deadline:
                    return
                number = waiting[name].pop(0)
                begun = time.process_time() + server.cpu
                fault = ALL[name][0](place, number)
                cpu = time.process_time() + server.cpu - begun
                row = {"attack": name, "number": number, "fault": fault, "cpu": round(cpu, 2)}
                with open(path, "a") as file:
                    file.write(json.dumps(row | fuzz.counted(name)) + "\n")
                if fault and fault != attacks.SKIPPED:
                    print(f"{name} {number}: {fault}", flush=True)
                if not waiting[name]:
                    del waiting[name]


def summary(path):
    """A table of all counts, in Markdown."""
    rows = rows_of(path)
    print("| attack | trials | of | faults | skipped |\n|---|---|---|---|---|")
    for name in ALL:
        own = [row for row in rows if row["attack"] == name]
        each = sum(row.get("files", row.get("configurations", 1)) for row in own)
        (size,) = fuzz.counted(name).values() or (1,)
        faults = sum(row["fault"] not in (None, attacks.SKIPPED) for row in own)
        skipped = sum(row["fault"] == attacks.SKIPPED for row in own)
        print(f"| {name} | {each:,} | {size * ALL[name][1]:,} | {faults} | {skipped} |")


def main():
    warnings.simplefilter("ignore")  # those of Pillow, which the commands hide
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    path = Path(options.get("out", OUT))
    if options.get("summary") == "true":
        summary(path)
        return
    if options.get("again") == "true":
        forget_faults(path)
    run(path, float(options.get("minutes", 20)), options.get("only", ""))
    summary(path)


if __name__ == "__main__":
    main()
