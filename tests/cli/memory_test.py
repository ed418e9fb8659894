"""What --dry-run says a rank needs, against what a rank of the run really took at its peak."""

import pathlib
import re
import subprocess
import sys
import unittest

import support

MIB = 1 << 20
# Pages that the allocator keeps, stacks, MPI's own buffers: what nobody counts.
SLACK = 24 * MIB

# Starts the program and writes down the peak of its resident memory.
WRAPPER = """
import os, resource, subprocess, sys
rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or "0"
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
with open(f"{sys.argv[1]}.{rank}", "w") as file:
    file.write(str(peak))
sys.exit(code)
"""


def layer(shard, tokens, cache, size=2048, kernel=None, **scheme):
    return {"shard": shard, "tokens": tokens, "cache": cache, "in_features": size, "out_features": size,
            "kernel": kernel, "scheme": scheme}


# What each is for: copies and their weights, what copies keep for every token, factors that are not cut, activations,
# compensation.
CASES = [
    layer("column", 512, "hot", type="dense"),
    layer("row", 512, "hot", type="int8"),
    layer("column", 1, "cold", type="int4", group=128),
    layer("column", 512, "hot", type="pruned", pattern="2:4"),
    layer("column", 1, "cold", type="lowrank", rank=512),
    layer("row", 512, "hot", type="lowrank", rank=512),
    layer("column", 512, "cold", type="int8"),
    layer("column", 1, "cold", kernel="csr", type="pruned", sparsity=0.1),
    layer("row", 8192, "hot", size=512, type="dense"),
    layer("column", 1, "hot", type="int4", method="gptq", calibration_tokens=256),
    layer("row", 1, "hot", type="int8", method="smooth", calibration_tokens=256),
    layer("row", 512, "hot", type="sum", base={"type": "int4"}, correction={"type": "lowrank", "rank": 128}),
    {"workload": "mlp", "shard": "column-row", "tokens": 2048, "cache": "hot", "hidden": 512, "intermediate": 2048,
     "in_features": None, "out_features": None, "scheme": {"type": "int8"}},
]


class Memory(support.Case):
    def peaks(self, *arguments):
        """Of each of 2 ranks, in bytes, and what the program printed."""
        wrapper = self.write("wrapper.py", WRAPPER)
        out = self.folder / "peak"
        result = subprocess.run([support.MPIEXEC, "-n", "2", sys.executable, wrapper, out, support.LAMINA, *arguments],
                                env=support.environment(), capture_output=True, text=True, timeout=240)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return [int((self.folder / f"peak.{rank}").read_text()) for rank in range(2)], result.stdout

    def test_the_estimate_covers_the_peak_and_is_no_fantasy(self):
        self.needs_mpi()
        if b"__asan_init" in pathlib.Path(support.LAMINA).read_bytes():
            self.skipTest("the address sanitizer keeps what is freed")
        for number, case in enumerate(CASES):
            with self.subTest(case=case):
                config = self.write("memory.json", support.tiny(**case))
                idle, text = self.peaks("run", config, "--dry-run")
                estimate = float(re.search(r"up to ([\d.]+) GiB a rank", text)[1]) * 1024 * MIB
                peaks, _ = self.peaks("run", config, "-o", self.folder / f"run{number}")
                for rank in range(2):
                    peak = peaks[rank] - idle[rank]
                    said = f"rank {rank}: estimate {estimate / MIB:.0f} MiB, peak {peak / MIB:.0f} MiB"
                    self.assertLessEqual(peak, estimate + SLACK, said)
                    self.assertLessEqual(estimate, 3 * peak + SLACK, said)


if __name__ == "__main__":
    support.main()
