"""One reader of :mod:`trust.guided`: ``python -m trust.guided_reader READER FOLDER RUNS``; it needs atheris."""

import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pyro_lrp"]):  # counters in the branches of the library
    from pyro_lrp.core.errors import UserError
    from trust import fuzz

SECONDS = 10  # for one file
MIB = 2048  # of the process with torch, which holds half of it


def main(name, folder, runs):
    """Give one reader file after file; libFuzzer ends the process."""
    warnings.simplefilter("ignore")  # those of Pillow, which the commands hide
    file, _, read = fuzz.READERS[name]
    path = Path(folder) / file

    def one(content):
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            if "\n" in str(error):
                raise AssertionError(f"several lines: {error}") from error

    options = (
        *(f"-runs={runs}", f"-timeout={SECONDS}", f"-rss_limit_mb={MIB}", "-seed=1", "-max_len=200000"),
        *(f"-artifact_prefix={folder}/fault_", f"{folder}/corpus"),
    )
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
