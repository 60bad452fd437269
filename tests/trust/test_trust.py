"""The attack in short: a trial or two of each kind, in less than a minute; ``trust.long`` has the others."""

import os

import pytest

from trust import attacks, damage, fuzz, hostile, kit

NUMBERS = {  # trials of each attack by processes
    "SIGKILL while training": (0,),
    "SIGKILL while evaluating": (1,),
    "SIGKILL while a sweep runs": (1,),
    "SIGKILL while decoding": (2,),
    "death before and after each rename": (0, 41),  # of the note of the lock, of a checkpoint
    "SIGTERM and Ctrl-C": (1,),
    "files that cannot grow": (3,),
    "full file system": (1,),
    "a run that may not be written, or not read": (2, 3),
    "two writers, and a reader": (2,),
    "clock backwards": (1,),
    "NaN in data, loss, gradient, parameters": (2, 3),
}
QUICKEST = (  # kinds of hostile files; the long form has all
    *(
        "a PNG of 169 megapixels",
        "names that steer the terminal",
        "an encrypted zip",
        "an npz that claims 2^40 bytes",
    ),
    *("a pipe as data", "/dev/zero as data", "codes with labels of 2^40", "a pickle that executes"),
    *("a pickle of lists in lists", "a pickle with a memo of 2^31", "a gzip that unpacks to 2 GB"),
    *("a run of a million layers", "a run that executes", "a checkpoint that is a link", "an empty summary"),
    *("a figure of no runs", "a misspelt target", "a zip whose table unpacks to 1 GB", "a billion samples"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust")
    for above in (folder, folder.parent):
        os.chmod(above, 0o755)  # also for another user
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUST_CURVES", "none")
        with kit.commands(folder / "server") as server:
            yield attacks.Place(folder, server)


@pytest.mark.parametrize("name", NUMBERS)
def test_processes(place, name):
    for number in NUMBERS[name]:
        fault = attacks.ATTACKS[name][0](place, number)
        if fault == attacks.SKIPPED:
            pytest.skip("needs root, for a file system of its own")
        assert fault is None


def test_hostile_files_are_one_plain_line(place):
    work = place.copy()
    for name in QUICKEST:
        hostile.made(work)
        fault, end = hostile.attack(place.server, work, name)
        assert fault is None, (name, fault, end.output[-500:])


@pytest.mark.parametrize("name", damage.ATTACKS)
def test_no_damage_is_silent(place, name):
    for number in range(60 if name.endswith("run") else 8):
        assert damage.ATTACKS[name][0](place, number) is None, number


@pytest.mark.parametrize("name", fuzz.READERS)
def test_mutated_files_are_read_or_refused(place, name):
    assert fuzz.mutate_files(place, name, 0, files=30) is None


def test_fuzzed_arguments_are_one_plain_line(place):
    assert fuzz.overrides(place, 0, examples=12) is None


def test_the_long_form_has_all_attacks_of_the_short_one():
    assert set(NUMBERS) < set(attacks.ATTACKS)
    assert set(QUICKEST) < set(hostile.HOSTILE)
    assert len(hostile.HOSTILE) >= 60
