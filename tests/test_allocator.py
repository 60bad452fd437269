"""Memory that a step frees and asks for again."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import numpy as np
from pyro_lrp.core.allocator import keep_freed_memory

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        blocks = [np.ones(MIB * 2**17) for _ in range(4)]
        del blocks
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 3

faults_of_a_step()
before = faults_of_a_step()
keep_freed_memory()
faults_of_a_step()
print(before, faults_of_a_step())
"""


def page_faults(mib, **environment):
    program = f"MIB = {mib}\n{STEPS}"
    command = [sys.executable, "-c", program]
    end = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [float(number) for number in end.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives blocks back at once")
@pytest.mark.parametrize(
    ("mib", "environment", "kept"),
    [
        (10, {}, True),
        (40, {}, False),
        (10, {"MALLOC_MMAP_THRESHOLD_": "131072"}, False),
    ],
)
def test_blocks_of_some_megabytes_are_kept(mib, environment, kept):
    """Else the kernel fills every page of a block anew, each of which is a fault."""
    before, after = page_faults(mib, **environment)
    assert before > mib  # with pages of 4 KiB it is 256 times as many
    if kept:
        assert after < before / 10
    else:
        assert after == pytest.approx(before, rel=0.2)
