"""Comparisons as a user makes them: recorded launches with known changes, bad input, and two builds measured in turn."""

import json
import shutil
import sys

from support import LAMINA, ROOT, Case, lamina, main, tiny

DATA = ROOT / "tests" / "data" / "compare"


class Compare(Case):
    def verdict(self, base, new, *arguments, code):
        """The JSON verdict of a comparison that ends with `code`."""
        result = lamina("compare", base, new, "--format", "json", *arguments)
        self.assertEqual(result.returncode, code, f"{result.stdout}\n{result.stderr}")
        verdict = json.loads(result.stdout)
        self.assertEqual(verdict["exit_code"], code)
        return verdict

    def rows(self, verdict, key="verdict"):
        return {row["case"].split("/")[3] + " " + row["case"].split("/")[4].removeprefix("cpu-"): row[key]
                for row in verdict["rows"]}

    def refused(self, base, new, *messages, arguments=()):
        """Exit 64, every message on stderr, and nothing that could be taken for a verdict."""
        out = self.folder / "verdict.json"
        result = lamina("compare", base, new, "-o", out, *arguments)
        self.assertEqual((result.returncode, result.stdout), (64, ""), result.stderr)
        for message in messages:
            self.assertIn(message, result.stderr)
        self.assertFalse(out.exists())


class Recorded(Compare):
    """tests/data/compare: real launches of one build against itself, and changes that a script made to them."""

    ROWS = ("dense-f32 auto", "dense-f32 openblas", "int8 auto", "int4-g64 auto")

    def all(self, verdict):
        return dict.fromkeys(self.ROWS, verdict)

    def test_no_change(self):
        verdict = self.verdict(DATA / "base", DATA / "new", code=0)
        self.assertTrue(verdict["paired"])
        self.assertEqual(self.rows(verdict), self.all("ok"))
        self.assertEqual(self.rows(verdict, "quality_verdict"), self.all("same"))
        for row in verdict["rows"]:
            self.assertLess(row["ratio_low"], 1)
            self.assertGreater(row["ratio_high"], 1)

    def test_five_percent(self):
        verdict = self.verdict(DATA / "base", DATA / "slower-5", code=10)
        self.assertEqual(verdict["verdict"], "regression")
        self.assertEqual(self.rows(verdict), self.all("slower"))
        # By NumPy and SciPy's t: the trimmed mean of the logarithms' differences, its interval, Holm's adjustment, and what
        # could have been seen, so that no change of power goes unseen.
        expected = {"dense-f32 auto": (1.05017, 1.03657, 1.06394, 2.7303e-5, 0.0350),
                    "dense-f32 openblas": (1.06139, 1.02824, 1.09561, 0.0021504, 0.0875),
                    "int8 auto": (1.05473, 1.04573, 1.06381, 5.9019e-7, 0.0271),
                    "int4-g64 auto": (1.05320, 1.04638, 1.06007, 9.0399e-8, 0.0254)}
        for name, values in expected.items():
            for key, value in zip(("ratio", "ratio_low", "ratio_high", "p_adjusted", "could_have_seen"), values):
                self.assertAlmostEqual(self.rows(verdict, key)[name] / value, 1, delta=2e-3, msg=f"{name} {key}")
        back = self.verdict(DATA / "slower-5", DATA / "base", code=0)
        self.assertEqual(self.rows(back), self.all("faster"))
        for there, here in zip(verdict["rows"], back["rows"]):
            self.assertAlmostEqual(there["ratio"] * here["ratio"], 1, delta=1e-9)

    def test_one_row_of_launches_in_one_file(self):
        verdict = self.verdict(DATA / "base", DATA / "one-slower-10.jsonl", code=10)
        self.assertFalse(verdict["paired"])
        self.assertEqual(self.rows(verdict), {**self.all("ok"), "int8 auto": "slower"})
        self.assertIn("not checked", verdict["notes"][0])

    def test_missing(self):
        verdict = self.verdict(DATA / "base", DATA / "missing.jsonl", code=11)
        self.assertEqual(self.rows(verdict), {**self.all("ok"), "int8 auto": "missing"})
        # The other way round, a row was added: nothing is worse.
        verdict = self.verdict(DATA / "missing.jsonl", DATA / "base", "--limit", "6", code=0)
        self.assertEqual(self.rows(verdict), {**self.all("ok"), "int8 auto": "added"})

    def test_invalid_in_one_launch(self):
        verdict = self.verdict(DATA / "base", DATA / "invalid.jsonl", code=11)
        self.assertEqual(self.rows(verdict), {**self.all("ok"), "int8 auto": "invalid"})
        self.assertIn("launches: check failed", self.rows(verdict, "reason")["int8 auto"])

    def test_worse_quality(self):
        verdict = self.verdict(DATA / "base", DATA / "worse.jsonl", code=10)
        self.assertEqual(self.rows(verdict), self.all("ok"))
        self.assertEqual(self.rows(verdict, "quality_verdict"), {**self.all("same"), "int4-g64 auto": "worse"})
        self.verdict(DATA / "base", DATA / "worse.jsonl", "--quality-factor", "1.3", code=0)

    def test_one_launch_a_side_cannot_decide(self):
        verdict = self.verdict(DATA / "base" / "launch-1", DATA / "slower-5" / "launch-1", code=12)
        self.assertEqual(self.rows(verdict), self.all("inconclusive"))
        result = lamina("compare", DATA / "base" / "launch-1", DATA / "new" / "launch-1" / "records.jsonl")
        self.assertEqual(result.returncode, 12)
        self.assertIn("One launch a side cannot decide", result.stdout)

    def test_reports(self):
        out = self.folder / "verdict.json"
        result = lamina("compare", DATA / "base", DATA / "slower-5", "-o", out)
        self.assertEqual(result.returncode, 10)
        self.assertIn("●", result.stdout)
        self.assertEqual(result.stdout.splitlines()[-1], "regression: of 4 rows, 4 slower")
        self.assertEqual(json.loads(out.read_text())["counts"]["slower"], 4)
        markdown = lamina("compare", DATA / "base", DATA / "new", "--format", "markdown").stdout
        self.assertTrue(markdown.startswith("### Lamina: ok: of 4 rows, 4 ok\n"), markdown)
        self.assertIn("<details>", markdown)


class BadInput(Compare):
    def copy(self, name, count=3):
        """A side of the first launches of the recorded ones, to break."""
        side = self.folder / name
        for number in range(1, count + 1):
            shutil.copytree(DATA / name / f"launch-{number}", side / f"launch-{number}")
        return side

    def change(self, side, number, **values):
        """Sets values in every row of a launch."""
        path = side / f"launch-{number}" / "records.jsonl"
        rows = [{**json.loads(line), **values} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def change_environment(self, side, change):
        for path in side.glob("launch-*/environment.json"):
            environment = json.loads(path.read_text())
            change(environment)
            path.write_text(json.dumps(environment))

    def test_nothing_there(self):
        empty = self.folder / "empty"
        empty.mkdir()
        self.refused(self.folder / "none", empty, "none: expected a run", "neither records.jsonl nor launches")
        (empty / "launch-1").mkdir()
        self.refused(empty, empty, "launch-1: expected a run's folder")
        (empty / "launch-1" / "records.jsonl").write_text("")
        self.refused(empty, DATA / "new", "expected rows, found none")

    def test_the_same_launch_on_both_sides(self):
        self.refused(DATA / "base", DATA / "base", "are the same launch")
        side = self.copy("new")
        shutil.copytree(side / "launch-1", side / "launch-9")
        self.refused(DATA / "base", side, "launch-1", "launch-9", "are the same launch")

    def test_hostile_files(self):
        for text, message in (
            ('{"schema_version":2,"workload":"layer"}\n', "schema_version: expected 1, found 2"),
            ("{}\n{}\n", "records.jsonl:1"),
            ('{"schema_version":1,"workload":"layer","latency_us_p50":NaN}\n', "records.jsonl:1"),
            ('{"schema_version":1,"workload":"layer","latency_us_p50":1e999}\n', "records.jsonl:1"),
            ('{"schema_version":1,"workload":"layer","status":"ok"}\n', "expected every row to name its `case`"),
            ("[" * 100000 + "\n", "records.jsonl:1"),
            ("\x1b[2J\x00\n", "records.jsonl:1"),
        ):
            with self.subTest(text=text[:60]):
                side = self.copy("new")
                (side / "launch-2" / "records.jsonl").write_text(text)
                self.refused(DATA / "base", side, message)
                shutil.rmtree(side)

    def test_torn_line_is_said_and_its_row_missing(self):
        side = self.copy("new")
        path = side / "launch-2" / "records.jsonl"
        path.write_text(path.read_text()[:-30])
        result = lamina("compare", self.copy("base"), side)
        self.assertEqual(result.returncode, 11)
        self.assertIn("dropped a torn last line", result.stderr)
        self.assertIn("not in 1 of 3 launches of NEW", result.stdout)

    def test_rows_without_a_believable_time(self):
        for us in (None, 0, -1.0, 1e300, 1e-300):
            with self.subTest(us=us):
                side = self.copy("new")
                self.change(side, 2, latency_us_p50=us)
                verdict = self.verdict(self.copy("base"), side, code=11)
                self.assertEqual(set(self.rows(verdict).values()), {"invalid"})
                self.assertIn("latency_us_p50", verdict["rows"][0]["reason"])
                shutil.rmtree(side)
                shutil.rmtree(self.folder / "base")

    def test_ok_against_its_own_check(self):
        side = self.copy("new")
        self.change(side, 1, check_passed=False)
        self.assertEqual(set(self.rows(self.verdict(self.copy("base"), side, code=11)).values()), {"invalid"})

    def test_what_makes_a_comparison_meaningless(self):
        base = self.copy("base")

        def other(name, change, *messages, **options):
            with self.subTest(name):
                side = self.copy("new")
                self.change_environment(side, change)
                self.refused(base, side, "cannot compare: ", *messages, **options)
                shutil.rmtree(side)

        def set_in(*path, value):
            def change(environment):
                here = environment
                for key in path[:-1]:
                    here = here[key]
                here[path[-1]] = value
            return change

        other("config", set_in("config", "seed", value=7), "config: BASE has digest")
        other("ranks", set_in("launches", 0, "ranks", value=2), "ranks: BASE has 1, NEW 2")
        other("nodes", set_in("launches", 0, "nodes", value=2), "nodes: BASE has 1, NEW 2", "run both sides alike")
        other("cores", set_in("machine", "cores", value=64), "cores: BASE has 2, NEW 64", "--across-machines")
        other("schema", set_in("schema_version", value=9), "schema_version: BASE has 1, NEW 9")
        other("CPU", set_in("machine", "cpu", value="Other \x1b[31m CPU"), "CPU: BASE has", "Other \\x1b[31m CPU",
              "--across-machines")
        self.change_environment(base, set_in("machine", "cuda", value="built without CUDA"))
        other("GPU", set_in("machine", "cuda", value=["NVIDIA A100", "NVIDIA A100"]), "GPU: BASE has none, NEW NVIDIA A100, NVIDIA A100",
              "--across-machines")
        other("nodes across machines", set_in("launches", 0, "nodes", value=2), "nodes", arguments=("--across-machines",))
        other("ranks across machines", set_in("launches", 0, "ranks", value=2), "ranks",
              arguments=("--across-machines",))

        side = self.copy("new")
        self.change_environment(side, set_in("machine", "cpu", value="Other CPU"))
        self.change_environment(side, set_in("machine", "cores", value=64))
        verdict = self.verdict(base, side, "--across-machines", "--limit", "900", "--floor", "900", code=0)
        self.assertEqual([(one["name"], one["new"]) for one in verdict["differences"][:2]], [("CPU", "Other CPU"), ("cores", "64")])
        (side / "launch-1" / "environment.json").write_text("{")
        self.refused(base, side, "environment.json")

    def test_another_kernel_is_noted(self):
        side = self.copy("new")
        for number in (1, 2, 3):
            self.change(side, number, kernel="other")
        verdict = self.verdict(self.copy("base"), side, "--limit", "900", "--floor", "900", code=0)
        for row in verdict["rows"]:
            self.assertRegex(" ".join(row["notes"]), "kernel (native|openblas).* → other")

    def test_a_config_of_another_name_is_the_same(self):
        side = self.copy("new")
        self.change_environment(side, lambda environment: environment["config"].update(name="x", description="y"))
        self.verdict(self.copy("base"), side, "--limit", "900", "--floor", "900", code=0)

    def test_no_rows_in_common(self):
        side = self.copy("new")
        for number in (1, 2, 3):
            path = side / f"launch-{number}" / "records.jsonl"
            path.write_text(path.read_text().replace('"case":"layer/', '"case":"other/'))
        self.refused(self.copy("base"), side, "no rows in common")
        base, side = self.folder / "base", self.copy("slower-5")
        for folder in (base, side):
            for number in (1, 2, 3):
                self.change(folder, number, status="skipped", latency_us_p50=None)
        self.refused(base, side, "no row has a time on both sides")

    def test_names_are_not_obeyed(self):
        evil = "layer/`|<script>@x\x1b[2J\u202e\n# h"
        sides = [self.copy("base"), self.copy("slower-5")]
        for side in sides:
            for number in (1, 2, 3):
                path = side / f"launch-{number}" / "records.jsonl"
                path.write_text(json.dumps({**json.loads(path.read_text().splitlines()[0]), "case": evil}) + "\n")
        for form in ("terminal", "markdown"):
            text = lamina("compare", *sides, "--format", form).stdout
            for bad in ("\x1b", "\u202e", "\n# h"):
                self.assertNotIn(bad, text)
        self.assertIn("`layer/\\x60\\x7c<script>@x\\x1b[2J\\u{202e}\\x0a# h`", text)
        self.assertEqual(json.loads(lamina("compare", *sides, "--format", "json").stdout)["rows"][0]["case"], evil)

    def test_an_unwritable_verdict_is_a_failure(self):
        result = lamina("compare", DATA / "base", DATA / "new", "-o", self.folder / "none" / "verdict.json")
        self.assertEqual(result.returncode, 1)
        self.assertIn("create the folder", result.stderr)


class Launches(Compare):
    # However busy the machine is, nothing is called slower; whether two launches exclude a factor of 11 is not certain.
    LAX = ("--limit", "1000", "--floor", "1000")

    def test_run_in_launches_makes_a_side(self):
        config, side = self.write("tiny.json", tiny()), self.folder / "side"
        self.run_ok("run", config, "--launches", "2", "-o", side)
        self.assertEqual({path.name for path in side.iterdir()},
                         {"launch-1", "launch-1.log", "launch-2", "launch-2.log"})
        again = lamina("run", config, "--launches", "3", "-o", side)
        self.assertEqual(again.returncode, 64)
        self.assertIn("expected no earlier launches", again.stderr)
        before = (side / "launch-1" / "records.jsonl").read_bytes()
        result = self.run_ok("run", config, "--launches", "3", "--resume", "-o", side)
        self.assertIn("launch 3 of 3", result.stderr)
        self.assertEqual((side / "launch-1" / "records.jsonl").read_bytes(), before)
        self.refused(side, side / "launch-1", "are the same launch")

    def ab(self, *arguments, new=LAMINA):
        config = self.write("tiny.json", tiny())
        return lamina("ab", "--base", LAMINA, "--new", new, config, "-o", self.folder / "ab", *arguments)

    def test_ab_measures_in_turn_compares_and_resumes(self):
        lax = ("--launches", "2", *self.LAX)
        result = self.ab(*lax)
        self.assertIn(result.returncode, (0, 12), result.stderr)
        self.assertIn("pair 2 of at most 2", result.stderr)
        folder = self.folder / "ab"
        verdict = json.loads((folder / "verdict.json").read_text())
        self.assertEqual((verdict["base"]["launches"], verdict["new"]["launches"], verdict["paired"]), (2, 2, True))
        self.assertTrue((folder / "report.md").read_text().startswith("### Lamina: "))

        self.assertEqual(self.ab(*lax).returncode, 64)
        kept = (folder / "base" / "launch-1" / "records.jsonl").read_bytes()
        # As an interruption leaves it.
        shutil.rmtree(folder / "new" / "launch-2")
        for name in ("records.jsonl", "table.md"):
            (folder / "base" / "launch-2" / name).unlink()
        result = self.ab(*lax, "--resume")
        self.assertIn(result.returncode, (0, 12), result.stderr)
        self.assertNotIn("pair 1 of", result.stderr)
        self.assertIn("pair 2 of", result.stderr)
        self.assertEqual((folder / "base" / "launch-1" / "records.jsonl").read_bytes(), kept)

        result = self.ab("--launches", "3", "--resume")
        self.assertEqual(result.returncode, 64)
        self.assertIn("launches: expected 3 as now, found 2", result.stderr)

    def test_ab_finds_a_slower_build_and_stops_early(self):
        # The same program; what it measured is multiplied by so much that a busy machine cannot hide it.
        slower = self.folder / "slower"
        slower.write_text(f"""#!{sys.executable}
import json, pathlib, subprocess, sys
code = subprocess.run(["{LAMINA}", *sys.argv[1:]]).returncode
records = pathlib.Path(sys.argv[sys.argv.index("-o") + 1]) / "records.jsonl"
rows = [json.loads(line) for line in records.read_text().splitlines()]
records.write_text("".join(json.dumps({{**row, "latency_us_p50": 1e4 * row["latency_us_p50"]}}) + "\\n" for row in rows))
sys.exit(code)
""")
        slower.chmod(0o755)
        result = self.ab("--launches", "10", new=slower)
        self.assertEqual(result.returncode, 10, result.stderr)
        self.assertIn("s left at most", result.stderr)
        self.assertIn("look at 4 pairs", result.stderr)
        self.assertNotIn("look at 10 pairs", result.stderr)
        verdict = json.loads((self.folder / "ab" / "verdict.json").read_text())
        self.assertEqual({row["verdict"] for row in verdict["rows"]}, {"slower"})
        self.assertLess(verdict["new"]["launches"], 10)

    def test_ab_starts_ranks_by_the_launcher(self):
        self.needs_mpi()
        result = self.ab("--launches", "2", *self.LAX, "--launcher", "mpirun -n 2", "--set", "shard=column")
        self.assertIn(result.returncode, (0, 12), result.stderr)
        environment = json.loads((self.folder / "ab" / "new" / "launch-2" / "environment.json").read_text())
        self.assertEqual(environment["launches"][0]["ranks"], 2)

    def test_ab_within_mpirun_is_refused(self):
        self.needs_mpi()
        config = self.write("tiny.json", tiny())
        result = lamina("ab", "--base", LAMINA, "--new", LAMINA, config, "-o", self.folder / "ab", ranks=2)
        self.assertEqual(result.returncode, 64)
        self.assertIn("started without mpirun", result.stderr)

    def test_ab_shows_why_a_launch_failed(self):
        broken = self.folder / "broken"
        broken.write_text("#!/bin/sh\necho what went wrong >&2\nexit 3\n")
        broken.chmod(0o755)
        result = self.ab("--launches", "2", new=broken)
        self.assertEqual(result.returncode, 1)
        self.assertIn("what went wrong", result.stderr)
        self.assertIn("ended with 3", result.stderr)
        self.assertEqual(result.stdout, "")

    def test_selftest_measures_itself(self):
        config = self.write("tiny.json", tiny())
        arguments = ("selftest", config, "--launches", "3", "-o", self.folder / "bank")
        result = lamina(*arguments)
        self.assertEqual(result.returncode, 12, result.stderr)  # three pairs are too few to say
        self.assertIn("pair 3 of 3 is done", result.stderr)
        self.assertIn("One build against itself, 3 interleaved pairs", result.stdout)
        again = lamina(*arguments, "--resume")
        self.assertEqual((again.returncode, again.stdout), (12, result.stdout))
        self.assertNotIn("is done", again.stderr)

    def test_selftest_measures_a_slower_build_beside_each_pair(self):
        config = self.write("tiny.json", tiny())
        bank = self.folder / "bank"
        result = lamina("selftest", config, "--slow", LAMINA, "--slow", LAMINA, "--launches", "3", "-o", bank)
        self.assertEqual(result.returncode, 12, result.stderr)
        self.assertIn("Builds made slower", result.stdout)
        self.assertIn("2. a build whose", result.stdout)
        self.assertEqual((bank / "selftest.md").read_text(), result.stdout)
        for side in ("base", "new", "slow-1", "slow-2"):
            self.assertTrue((bank / side / "launch-3" / "records.jsonl").is_file(), side)
        other = lamina("selftest", config, "--launches", "3", "-o", bank, "--resume")
        self.assertEqual(other.returncode, 64)
        self.assertIn("slow_digests", other.stderr)
        times = (bank / "times.csv").read_text().splitlines()
        rows = len((bank / "base" / "launch-1" / "records.jsonl").read_text().splitlines())
        self.assertEqual(len(times), 1 + 4 * 3 * rows)

    def test_ab_of_a_build_that_is_not_there(self):
        result = self.ab(new=self.folder / "none")
        self.assertEqual(result.returncode, 64)
        self.assertIn("none", result.stderr)


if __name__ == "__main__":
    main()
