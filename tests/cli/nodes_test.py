"""Two nodes on one machine: ranks in two network namespaces with host names of their own, joined by a virtual cable.

What takes ranks of a host for a node sees two nodes: no shared memory between them, messages by TCP, clocks to be
synchronised. Needs root and Open MPI, whose mpirun reaches the second host by the agent written here.
"""

import os
import shutil
import subprocess
import unittest

import support
from support import Case

# Letters alone: Open MPI takes names apart at digits.
HOSTS = ["lamina" + "".join("abcdefghij"[int(digit)] for digit in str(os.getpid())) + side for side in "xy"]
NETWORK = "10.213.77"


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


def why_not():
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "needs ip (iproute2) and unshare (util-linux)"
    version = subprocess.run([support.MPIEXEC, "--version"], capture_output=True, text=True).stdout if support.MPIEXEC else ""
    if "OpenRTE" not in version and "Open MPI" not in version:
        return "needs Open MPI's mpirun"
    return ""


class NodesTest(Case):
    def setUp(self):
        super().setUp()
        if why_not():
            self.skipTest(why_not())
        for host in HOSTS:
            made = ip("netns", "add", host)
            if made.returncode != 0:
                self.skipTest(f"no network namespaces here: {made.stderr.strip()}")
            self.addCleanup(ip, "netns", "del", host)
        cable = ["link", "add", "veth0", "netns", HOSTS[0], "type", "veth", "peer", "name", "veth0", "netns", HOSTS[1]]
        made = ip(*cable)
        if made.returncode != 0:
            self.skipTest(f"no virtual cables here: {made.stderr.strip()}")
        for number, host in enumerate(HOSTS, 1):
            for command in (["addr", "add", f"{NETWORK}.{number}/24", "dev", "veth0"], ["link", "set", "veth0", "up"],
                            ["link", "set", "lo", "up"]):
                self.assertEqual(ip("-n", host, *command).returncode, 0, command)
        # In place of ssh: a shell on the host of that name.
        self.agent = self.folder / "agent.sh"
        self.agent.write_text('#!/bin/sh\nhost=$1; shift\n'
                              'exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"\n')
        self.agent.chmod(0o755)

    def run_on_nodes(self, config, *ranks_of_hosts):
        path, out = self.write("config.json", config), self.folder / f"out{len(list(self.folder.iterdir()))}"
        hosts = ",".join(f"{host}:{ranks}" for host, ranks in zip(HOSTS, ranks_of_hosts))
        launch = [support.MPIEXEC, "--host", hosts, "-n", str(sum(ranks_of_hosts)), "--map-by", "slot"]
        for key, value in {"plm": "rsh", "plm_rsh_agent": self.agent, "oob_tcp_if_include": NETWORK + ".0/24",
                           "btl_tcp_if_include": NETWORK + ".0/24", "pml": "ob1", "btl": "self,vader,tcp", "mpi_yield_when_idle": 1}.items():
            launch += ["--mca", key, str(value)]
        launch += ["-x", "OMP_NUM_THREADS", "-x", "LAMINA_CACHE_BYTES", support.LAMINA, "run", str(path), "-o", str(out)]
        result = subprocess.run([str(self.agent), HOSTS[0], *launch], capture_output=True, text=True, timeout=240,
                                env=support.environment())
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return self.records(out)

    def test_collectives_see_two_nodes(self):
        measure = {"precision": 0.5, "min_samples": 6, "max_seconds": 0.02}
        names = ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv"]
        experiments = [{"workload": "collective", "collective": names, "message_bytes": 5000, "threads": 1,
                        "communicator": ["mpi", "mpi-shm"]}]
        for ranks_of_hosts in ((2, 2), (2, 1)):  # as many ranks on each, and not
            with self.subTest(ranks_of_hosts):
                records = self.run_on_nodes({"name": "nodes", "measure": measure, "experiments": experiments},
                                            *ranks_of_hosts)
                self.assertEqual(len(records), 6 * 2)
                for record in records:
                    self.assertEqual(record["status"], "ok", record)
                    self.assertEqual(record["nodes"], 2, record)

    def test_layers_are_cut_over_two_nodes(self):
        # Parts go to ranks of both, and sums come back over the cable; each row's check is against the whole layer.
        # Few cases: where four ranks share two cores, a sum over TCP takes 10 ms.
        measure = {"precision": 0.5, "min_samples": 5, "max_seconds": 0.02, "cache": "hot"}
        sizes = {"layer": {"in_features": 256, "out_features": 192}, "mlp": {"hidden": 256, "intermediate": 384}}
        for ranks_of_hosts, communicators in (((2, 2), ["auto", "mpi"]), ((2, 1), ["auto"])):
            with self.subTest(ranks_of_hosts):
                experiments = [{"workload": workload, **sizes[workload], "tokens": 3, "threads": 1, "kernel": "native",
                                "scheme": {"type": "int8"}, "shard": shards, "communicator": communicators}
                               for workload, shards in (("layer", ["column", "row"]), ("mlp", ["column-row"]))]
                records = self.run_on_nodes({"name": "nodes", "measure": measure, "experiments": experiments},
                                            *ranks_of_hosts)
                # Dense baselines are among them.
                asked = [record for record in records if not record["scheme"].startswith("dense")]
                self.assertEqual(len(asked), 3 * len(communicators))
                self.assertEqual({record["shard"] for record in asked}, {"column", "row", "column-row"})
                for record in records:
                    self.assertEqual(record["status"], "ok", record)
                    self.assertEqual((record["nodes"], record["ranks"]), (2, sum(ranks_of_hosts)), record)
                    sums = record["shard"] != "column"
                    self.assertEqual(record["comm_us_p50"] > 0, sums, record)
                # `auto` is mpi-shm, which needs shared memory within a node only.
                self.assertEqual(sorted({record["communicator"] for record in asked}), ["mpi", "mpi-shm"][-len(communicators):])
                # Ranks on other hosts change no code: the loss is the same whoever moved what.
                losses = {}
                for record in asked:
                    place = (record["workload"], record["shard"])
                    losses.setdefault(place, set()).add(round(record["quality_nmse"], 9))
                for place, found in losses.items():
                    self.assertEqual(len(found), 1, (place, found))


if __name__ == "__main__":
    unittest.main()
