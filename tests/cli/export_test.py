"""Rows of several runs in every format, read back by those who read them."""

import csv
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from support import MPIEXEC, SCHEMES, Case, lamina, main, tiny

COMPARE = ("/usr/share/benchmark/compare.py", "/usr/share/doc/libbenchmark-dev/tools/compare.py",
           "/usr/share/googlebenchmark/tools/compare.py")


class Export(Case):
    @classmethod
    def setUpClass(cls):
        # Two runs serve all tests, which only read them.
        folder = pathlib.Path(tempfile.mkdtemp(prefix="lamina-export-"))
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        config = folder / "tiny.json"
        config.write_text(json.dumps(tiny(scheme=SCHEMES, shard="row", tokens=[1, 3])))
        cls.runs = [folder / "alone", folder / "three"]
        for run, ranks in zip(cls.runs, (None, 3 if MPIEXEC else None)):
            result = lamina("run", config, "-o", run, ranks=ranks, timeout=300)
            if result.returncode != 0:
                raise AssertionError(result.stderr)

    def export(self, *arguments):
        return self.run_ok("export", *arguments).stdout

    def test_table_over_two_runs(self):
        text = self.export(*self.runs)
        rows = [line for line in text.splitlines() if line.startswith("| ") and "scheme" not in line]
        self.assertEqual(len(rows), 24)
        if MPIEXEC:
            self.assertEqual(text.count("### "), 2)
            self.assertEqual((text.count(" 1×1 |"), text.count(" 3×1 |")), (12, 12))
            self.assertNotIn("| run ", text)

    def test_one_run_is_its_own_table(self):
        self.assertEqual(self.export(self.runs[0]), (self.runs[0] / "table.md").read_text())
        self.assertEqual(self.export(self.runs[0] / "records.jsonl"), (self.runs[0] / "table.md").read_text())

    def test_csv(self):
        out = self.folder / "both.csv"
        self.assertEqual(self.export(*self.runs, "--format", "csv", "-o", out), "")
        rows = list(csv.DictReader(io.StringIO(out.read_bytes().decode(), newline="")))
        records = self.records(self.runs[0]) + self.records(self.runs[1])
        self.assertEqual(len(rows), len(records))
        for row, record in zip(rows, records):
            self.assertEqual(row["case"], record["case"])
            self.assertEqual(float(row["latency_us_p50"]), record["latency_us_p50"])
            self.assertEqual(row["scheme_group"], str(record.get("scheme_group") or ""))
            self.assertEqual(row["check_passed"], "true")
        self.assertEqual({row["run"] for row in rows}, {"alone", "three"})

    def test_google_benchmark(self):
        document = json.loads(self.export(*self.runs, "--format", "google_benchmark"))
        records = self.records(self.runs[0]) + self.records(self.runs[1])
        iterations = [row for row in document["benchmarks"] if row["run_type"] == "iteration"]
        medians = [row for row in document["benchmarks"] if row.get("aggregate_name") == "median"]
        self.assertEqual(len(iterations), sum(record["samples"] for record in records))
        self.assertEqual([row["real_time"] for row in medians], [record["latency_us_p50"] for record in records])
        self.assertEqual(len({row["run_name"] for row in medians}), len(records))
        for row in document["benchmarks"]:
            self.assertGreaterEqual(row["real_time"], 0)

    def missing(self, what):
        """A reader is not installed: no failure, but where CI promised to install it."""
        if os.environ.get("LAMINA_CI") == "1":
            self.fail(what)
        self.skipTest(what)

    def test_google_benchmark_is_read_by_javascript(self):
        node = shutil.which("node")
        if not node:
            self.missing("no node")
        out = self.folder / "out.json"
        self.export(self.runs[0], "--format", "google_benchmark", "-o", out)
        script = "const d = JSON.parse(require('fs').readFileSync(process.argv[1])); console.log(d.benchmarks.length > 0)"
        result = subprocess.run([node, "-e", script, str(out)], capture_output=True, text=True)
        self.assertEqual(result.stdout, "true\n", result.stderr)

    def test_google_benchmark_is_read_by_compare_py(self):
        compare = next((path for path in COMPARE if pathlib.Path(path).exists()), None)
        # Its packages are the system's, whichever Python runs this test.
        python = next((path for path in ("/usr/bin/python3", sys.executable) if subprocess.run(
            [path, "-c", "import scipy, numpy"], capture_output=True).returncode == 0), None)
        if not compare or not python:
            self.missing("Google Benchmark's compare.py or its SciPy is not here (Debian: libbenchmark-tools)")
        files = []
        for run in self.runs:
            files.append(self.folder / f"{run.name}.json")
            self.export(run, "--format", "google_benchmark", "-o", files[-1])
        # The two runs have other rank counts and so other names: each is compared with itself.
        result = subprocess.run([python, compare, "--no-color", "benchmarks", str(files[0]), str(files[0])],
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("_pvalue", result.stdout)
        self.assertIn(self.records(self.runs[0])[0]["case"], result.stdout)

    def test_files_end_up_whole(self):
        out = self.folder / "table.md"
        out.write_text("old")
        self.export(self.runs[0], "-o", out)
        self.assertEqual(out.read_text(), self.export(self.runs[0]))
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name.startswith(".")], [])

    def test_trouble(self):
        torn = self.folder / "torn"
        shutil.copytree(self.runs[0], torn)
        whole = (torn / "records.jsonl").read_text()
        (torn / "records.jsonl").write_text(whole[:-20])
        result = self.run_ok("export", torn)
        self.assertIn("dropped a torn last line", result.stderr)

        lines = whole.splitlines(keepends=True)
        (torn / "records.jsonl").write_text(lines[0] + "{}\n" + lines[1])
        missing = self.folder / "missing"
        result = lamina("export", torn, missing, self.folder, self.runs[0])
        self.assertEqual((result.returncode, result.stdout), (64, ""))
        for expected in ("records.jsonl:2: ", str(missing), f"{self.folder}: expected a run's folder"):
            self.assertIn(expected, result.stderr)

        result = lamina("export", self.runs[0], "-o", self.folder / "none" / "table.md")
        self.assertEqual(result.returncode, 1)
        self.assertIn("create the folder", result.stderr)


if __name__ == "__main__":
    main()
