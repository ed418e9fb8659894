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

JSON_FORMATS = ("google_benchmark", "google_benchmark_median", "custom_smaller_is_better", "custom_bigger_is_better",
                "bencher")


def strict_json(text):
    """As json.loads, without what JSON has not: NaN, infinities, keys twice."""
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    def once(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=once)


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
            group = record.get("scheme_group")
            self.assertEqual(row["scheme_group"], "" if group is None else str(group))
            self.assertEqual(row["check_passed"], "true")
        self.assertEqual({row["run"] for row in rows}, {"alone", "three"})

    def test_google_benchmark(self):
        document = strict_json(self.export(*self.runs, "--format", "google_benchmark"))
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

    def test_json_is_read_by_javascript(self):
        node = shutil.which("node")
        if not node:
            self.missing("no node")
        script = "const d = JSON.parse(require('fs').readFileSync(process.argv[1])); console.log(Object.keys(d).length > 0)"
        for name in JSON_FORMATS:
            with self.subTest(format=name):
                out = self.folder / f"{name}.json"
                self.export(self.runs[0], "--format", name, "-o", out)
                result = subprocess.run([node, "-e", script, str(out)], capture_output=True, text=True)
                self.assertEqual(result.stdout, "true\n", result.stderr)

    def test_trackers_have_every_case_once(self):
        records = {record["case"]: record for record in self.records(self.runs[0])}
        medians = strict_json(self.export(self.runs[0], "--format", "google_benchmark_median"))["benchmarks"]
        smaller = strict_json(self.export(self.runs[0], "--format", "custom_smaller_is_better"))
        bigger = strict_json(self.export(self.runs[0], "--format", "custom_bigger_is_better"))
        bencher = strict_json(self.export(self.runs[0], "--format", "bencher"))
        fom = [line.split(" ") for line in self.export(self.runs[0], "--format", "fom").splitlines()]
        figures = {(case, key): float(value) for _, case, key, value, _ in fom}
        for rows in (medians, smaller, bigger, bencher):
            self.assertEqual(len(rows), len(records))
        for row in medians:
            self.assertEqual(row["real_time"], records[row["name"]]["latency_us_p50"])
        for row in smaller:
            self.assertEqual((row["value"], row["unit"]), (records[row["name"]]["latency_us_p50"], "us"))
            self.assertRegex(row.get("range", "± 1"), r"^± \d")
        for row in bigger:
            self.assertEqual((row["value"], row["unit"]), (records[row["name"]]["tokens_per_s"], "tokens/s"))
        for name, record in records.items():
            latency = bencher[name]["latency"]
            self.assertAlmostEqual(latency["value"], record["latency_us_p50"] * 1e3, places=3)
            self.assertLessEqual(latency.get("lower_value", 0), latency["value"])
            self.assertEqual(bencher[name]["weight-bytes"]["value"], record["weight_bytes"])
            self.assertEqual(figures[name, "latency_us_p50"], record["latency_us_p50"])

    def test_strict_parser_is_strict(self):
        for text in ("[NaN]", "[-Infinity]", '{"a": 1, "a": 2}'):
            with self.assertRaises(ValueError):
                strict_json(text)

    def test_google_benchmark_is_read_by_compare_py(self):
        compare = next((path for path in COMPARE if pathlib.Path(path).exists()), None)
        # Its packages are the system's, whichever Python runs this test.
        python = next((path for path in ("/usr/bin/python3", sys.executable) if subprocess.run(
            [path, "-c", "import scipy, numpy"], capture_output=True).returncode == 0), None)
        if not compare or not python:
            self.missing("Google Benchmark's compare.py or its SciPy is not here (Debian: libbenchmark-tools)")
        # The two runs have other rank counts and so other names: one is compared with itself.
        for name in ("google_benchmark", "google_benchmark_median"):
            with self.subTest(format=name):
                out = self.folder / f"{name}.json"
                self.export(self.runs[0], "--format", name, "-o", out)
                result = subprocess.run([python, compare, "--no-color", "benchmarks", str(out), str(out)],
                                        capture_output=True, text=True)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual("_pvalue" in result.stdout, name == "google_benchmark")
                for record in self.records(self.runs[0]):
                    self.assertIn(record["case"], result.stdout)

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
