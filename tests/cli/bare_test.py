"""lamina_bare, the loops without Lamina, and scripts/compare_bare.py, which holds rows of collectives to them."""

import importlib.util
import json
import subprocess
import sys
import unittest
from pathlib import Path

import support
from support import ROOT, Case

BUILD = Path(support.LAMINA).parent
BARE = BUILD / "lamina_bare"
SCRIPT = ROOT / "scripts" / "compare_bare.py"

spec = importlib.util.spec_from_file_location("compare_bare", SCRIPT)
compare_bare = importlib.util.module_from_spec(spec)
sys.dont_write_bytecode = True
spec.loader.exec_module(compare_bare)


def run(*command):
    return subprocess.run([str(one) for one in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=120, env=support.environment())


class Loops(Case):
    def setUp(self):
        super().setUp()
        self.needs_mpi()

    def test_each_size_is_a_row_with_times(self):
        done = run(support.MPIEXEC, "-n", 2, BARE, "--repeats", 3, "--iterations", 4, 4, 1024)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = compare_bare.lines(done.stdout)
        self.assertEqual([row["message_bytes"] for row in rows], [4, 1024])
        for row in rows:
            self.assertEqual((row["ranks"], row["iterations"], row["repeats"], row["graph"], row["thread_level"]),
                             (2, 4, 3, None, "funneled"))
            self.assertGreater(row["us_min"], 0)
            self.assertLessEqual(row["us_min"], row["us_median"])

    def test_bad_usage(self):
        for arguments, told in (((), "BYTES"), (("6",), "multiple of 4"), (("0",), "range"), (("--device", "tpu", "4"), "tpu"),
                                (("--repeats", "0", "4"), "repeats"), (("--thread-level", "multiple", "4"), "multiple")):
            with self.subTest(arguments):
                done = run(BARE, *arguments)
                self.assertEqual(done.returncode, 64, done.stderr)
                self.assertIn(told, done.stderr + done.stdout)

    def test_the_script_runs_both_sides(self):
        done = run(SCRIPT, "-o", self.folder / "out", "--launches", 2, "--alone", "--bytes", 1024, 65536, "--build", BUILD, "--",
                   support.MPIEXEC, "-n", 2)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual((self.folder / "out" / "table.md").read_text(), done.stdout)
        for name in ("bare", "lamina"):
            rows = compare_bare.lines((self.folder / "out" / f"{name}.jsonl").read_text())
            self.assertEqual(sorted((row["launch"], row["message_bytes"]) for row in rows),
                             [(0, 1024), (0, 65536), (1, 1024), (1, 65536)])
        self.assertRegex(done.stdout, r"\| mpi \| 1024 \| 2 \| [\d.]+ \| [\d.]+ \| [+-]")
        self.assertIn("machine", json.loads((self.folder / "out" / "environment.json").read_text()))

    def test_a_launch_that_fails_says_why(self):
        done = run(SCRIPT, "-o", self.folder / "out", "--launches", 1, "--bytes", 6, "--build", BUILD, "--", support.MPIEXEC,
                   "-n", 1)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("multiple of 4", done.stderr)
        self.assertEqual(run(SCRIPT, "-o", self.folder, "--launches", 0, "--", "mpirun").returncode, 64)


class Table(unittest.TestCase):
    def table(self, device, graph, sizes):
        """Of (bytes, [(bare, lamina) of a launch])."""
        common = {"device": device, "graph": graph}
        bare = [{**common, "message_bytes": size, "launch": launch, "us_median": pair[0]}
                for size, pairs in sizes for launch, pair in enumerate(pairs)]
        lamina = [{**common, "message_bytes": size, "launch": launch, "latency_us_p50": pair[1]}
                  for size, pairs in sizes for launch, pair in enumerate(pairs)]
        return compare_bare.table(bare, lamina).splitlines()[2:]

    def test_differences_are_of_the_same_launch(self):
        # The machine is twice as slow in the second: neither side is to blame.
        lines = self.table("cpu", None, [(65536, [(20, 20.1), (40, 40.2), (20, 20.1)])])
        self.assertEqual(lines, ["| mpi | 65536 | 3 | 20.00 | 20.10 | +0.5 | +0.5 to +0.5 | met |"])

    def test_aims(self):
        (short, missed) = self.table("cpu", None, [(8, [(1, 2)]), (65536, [(20, 20.4)])])
        self.assertTrue(short.endswith("|  |"), short)  # nothing is aimed for below 10 µs
        self.assertTrue(missed.endswith("| missed |"), missed)
        lines = self.table("cuda", False, [(1024, [(9, 9.4)]), (4096, [(9, 9.6)]), (1 << 20, [(100, 101.9)]),
                                           (1 << 22, [(100, 97)])])
        self.assertEqual([line.split("|")[-2].strip() for line in lines], ["met", "missed", "met", "missed"])
        self.assertTrue(all(line.startswith("| nccl, no graph |") for line in lines))

    def test_a_row_without_a_time_is_left_out(self):
        self.assertEqual(self.table("cuda", True, [(1024, [(5, None)])]), [])


if __name__ == "__main__":
    unittest.main()
