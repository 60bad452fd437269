"""Whether two hosts train one run together: two network namespaces of this machine, joined by a cable.

    sudo python tests/benchmarks/two_hosts.py

Each host has an address and a loopback of its own and sees nothing else. The run of both is compared with that
of one process: the rows of their metrics, to 1e-3. Linux, as root.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOSTS = {"lrp_first": "10.77.0.1", "lrp_second": "10.77.0.2"}
RUN = (
    "data=digits", "network=mlp", "epochs=2", "prior_epochs=1", "batch_size=50", "prior_batch_size=50",
    "device=cpu", "threads=1", "progress=false", "trainer.report_every=10",
)  # fmt: skip


def ip(words):
    subprocess.run(["ip", *words.split()], check=True)


def joined():
    """Make the hosts."""
    ip("link add lrp0 type veth peer name lrp1")
    for (name, address), end in zip(HOSTS.items(), ("lrp0", "lrp1"), strict=True):
        ip(f"netns add {name}")
        ip(f"link set {end} netns {name}")
        ip(f"-n {name} addr add {address}/24 dev {end}")
        ip(f"-n {name} link set {end} up")
        ip(f"-n {name} link set lo up")


def removed():
    """Remove them, and the cable with them."""
    for name in HOSTS:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def begun(name, end, rank, folder):
    """The process of a host, which ``torchrun`` starts."""
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
        f"--node-rank={rank}", f"--master-addr={HOSTS['lrp_first']}", "--master-port=29511",
        "-m", "pyro_lrp.train",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": end}
    inside = ["ip", "netns", "exec", name, *torchrun, *RUN, "name=two"]
    return subprocess.Popen(inside, cwd=folder, env=environment)


def rows(folder, name):
    lines = Path(folder, "runs", name, "seed_0", "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def main():
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        removed()
        joined()
        try:
            ends = zip(HOSTS, ("lrp0", "lrp1"), (first, second), strict=True)
            processes = [begun(name, end, rank, folder) for rank, (name, end, folder) in enumerate(ends)]
            codes = [process.wait(timeout=600) for process in processes]
        finally:
            removed()
        assert codes == [0, 0], f"exit codes {codes}"
        assert not Path(second, "runs").exists(), "the second host has written files"
        alone = [sys.executable, "-m", "pyro_lrp.train", *RUN, "name=one"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(alone, cwd=first, env=environment, check=True, capture_output=True)
        largest = 0.0
        for both, one in zip(rows(first, "two"), rows(first, "one"), strict=True):
            for key in one.keys() - {"seconds", "images_per_second"}:
                if isinstance(one[key], float):
                    largest = max(largest, abs(both[key] - one[key]) / max(1.0, abs(one[key])))
        print(f"two hosts and one process: {len(rows(first, 'one'))} rows, apart by {largest:.1e} at most")
        assert largest < 1e-3


if __name__ == "__main__":
    main()
