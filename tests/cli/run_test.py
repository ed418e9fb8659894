"""Runs as a user makes them: folders, filters, overrides, interruption and resumption."""

import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import time
import unittest.mock

from support import SCHEMES, Case, command, environment, gpus, lamina, main, tiny

# The table of record keys that every row must have, whatever came of it.
ALWAYS = ("schema_version", "run_id", "launch_id", "case", "workload", "scheme", "device", "kernel", "shard", "ranks",
          "threads", "cache", "status", "reason", "warnings", "latency_us_p50", "samples_us", "tokens_per_s",
          "limit_kind", "limit_fraction", "weight_bytes", "check_passed", "check_error", "check_tolerance",
          "quality_nmse", "speedup_vs_dense")


class Run(Case):
    def run_tiny(self, *arguments, ranks=None, out="out", **changes):
        config = self.write("tiny.json", tiny(**changes))
        result = self.run_ok("run", config, "-o", self.folder / out, *arguments, ranks=ranks)
        return result, self.records(self.folder / out)

    def test_every_row_is_whole(self):
        _, records = self.run_tiny(scheme=SCHEMES, tokens=[1, 3])
        self.assertEqual(len(records), 12)
        self.assertEqual(len({record["case"] for record in records}), 12)
        for record in records:
            with self.subTest(record["case"]):
                for key in ALWAYS:
                    self.assertIn(key, record)
                self.assertEqual(record["status"], "ok")
                self.assertTrue(record["check_passed"])
                self.assertLessEqual(record["check_error"], record["check_tolerance"])
                self.assertEqual(len(record["samples_us"]), record["samples"])
                self.assertGreater(min(record["samples_us"]), 0)
                p50, tokens = record["latency_us_p50"], record["tokens"]
                self.assertAlmostEqual(record["tokens_per_s"] * p50 / 1e6, tokens, places=6)
                self.assertGreater(record["speedup_vs_dense"], 0)
        dense = [record for record in records if record["scheme"] == "dense-f32"]
        # The faster of the two dense kernels is the baseline.
        for tokens in {record["tokens"] for record in dense}:
            speedups = sorted(record["speedup_vs_dense"] for record in dense if record["tokens"] == tokens)
            self.assertEqual(len(speedups), 2)
            self.assertLessEqual(speedups[0], 1)
            self.assertEqual(speedups[1], 1)
        self.assertTrue(all(record["quality_nmse"] < 1e-10 for record in dense))

    def test_cycles_are_of_one_core_and_of_what_its_cache_holds(self):
        cache = next((folder for folder in pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")
                      if (folder / "level").read_text().strip() == "2"), None)
        if platform.machine() != "x86_64" or cache is None:
            self.skipTest("cycles are counted on x86-64, where the system tells the caches' sizes")
        measure = ("--set", "measure.min_samples=400", "--set", "measure.precision=0.0001", "--set", "measure.max_seconds=0.3")
        _, records = self.run_tiny(*measure, cache="hot")
        for record in records:
            # A machine whose clock never stands still for a block has none.
            if record["cycles_p50"] is not None:
                # Cycles are of the blocks in which the clock stood still alone: beside a neighbour on the same core
                # their median is not that of all samples, but lies among them.
                microseconds = record["cycles_p50"] / record["core_clock_mhz"]
                self.assertGreater(microseconds, 0.7 * record["latency_us_min"], record["case"])
                self.assertLess(microseconds, 1.4 * record["latency_us_p90"], record["case"])
        self.assertTrue(any(record["cycles_p50"] is not None for record in records), records)
        for out, changes in (("cold", {}), ("threads", {"cache": "hot", "threads": 2}),
                             ("large", {"cache": "hot", "in_features": 4096, "out_features": 4096, "scheme": {"type": "dense"}})):
            _, records = self.run_tiny(out=out, **changes)
            for record in records:
                self.assertIsNone(record["cycles_p50"], out)
                self.assertIsNone(record["core_clock_mhz"], out)

    def test_three_ranks_compute_what_one_does(self):
        self.needs_mpi()
        sizes = {"in_features": 192, "out_features": 131, "scheme": SCHEMES, "tokens": 2}
        _, alone = self.run_tiny(out="alone", shard="none", **sizes)
        quality = {record["scheme"]: record["quality_nmse"] for record in alone}
        for shard in ("column", "row"):
            _, records = self.run_tiny(out=shard, shard=shard, ranks=3, **sizes)
            for record in records:
                with self.subTest(shard=shard, scheme=record["scheme"]):
                    self.assertEqual((record["status"], record["ranks"]), ("ok", 3))
                    # Codes are the same for any rank count; a row shard scales activations by its own part of K.
                    if shard == "column" or record["scheme"] != "int8":
                        close = 1e-3 * quality[record["scheme"]] + 1e-12
                        self.assertAlmostEqual(record["quality_nmse"], quality[record["scheme"]], delta=close)
                    expected = 0 if shard == "column" else 2 * 4 * (16 if "lowrank" in record["scheme"] else 131)
                    self.assertEqual(record["comm_bytes"], expected)

    def test_overlap_is_of_sums_that_all_get_whole(self):
        self.needs_mpi()
        mlp = {"workload": "mlp", "in_features": None, "out_features": None, "hidden": 128, "intermediate": 256}
        for changes, whole in (({"shard": ["row", "column", "sequence"]}, "row"),
                               ({**mlp, "shard": ["column-row", "sequence"]}, "column-row")):
            _, records = self.run_tiny(out=whole, ranks=2, overlap=3, scheme={"type": "dense"}, **changes)
            for record in records:
                self.assertEqual((record["status"], record["overlap"]), ("skipped", 3), record)
                reason = "needs a GPU" if record["shard"] == whole else f"with shard {record['shard']} take 1"
                self.assertIn(reason, record["reason"])

    def test_mlp(self):
        changes = {"workload": "mlp", "in_features": None, "out_features": None, "hidden": 128,
                   "intermediate": [320, 384], "scheme": [{"type": "dense"}, {"type": "int8"}]}
        result, records = self.run_tiny(**changes)
        self.assertEqual([record["status"] for record in records], ["ok"] * 6)
        self.assertEqual([record["intermediate_features"] for record in records], [320] * 3 + [384] * 3)
        for width in (320, 384):
            self.assertIn(f"### mlp, K×I×N 128×{width}×128, 1 token\n", result.stdout)

    def test_what_compression_came_to(self):
        _, records = self.run_tiny(in_features=96, out_features=64, scheme=[
            {"type": "dense"}, {"type": "int8"}, {"type": "lowrank", "error": 0.3}, {"type": "lowrank", "ratio": 0.5},
            {"type": "lowrank", "rank": 8, "factors": {"type": "int8"}}])
        found = {record["scheme"]: record for record in records}
        self.assertEqual(found["dense-f32"]["compress_error"], 0)
        self.assertLess(0, found["int8"]["compress_error"])
        self.assertLess(found["int8"]["compress_error"], 0.02)
        by_error, by_ratio = found["lowrank-e0.3"], found["lowrank-p0.5"]
        self.assertLess(0, by_error["compress_error"])
        self.assertLessEqual(by_error["compress_error"], 0.3)
        # Dense factors of rank r have r·(N + K) weights of 4 bytes, packed with some padding.
        self.assertEqual(by_ratio["scheme_rank"], 64 * 96 // 2 // (64 + 96))
        for record in (by_error, by_ratio):
            packed = 4 * record["scheme_rank"] * (64 + 96)
            self.assertLessEqual(packed, record["weight_bytes"])
            self.assertLess(record["weight_bytes"], 1.8 * packed)
        # What int8 factors add is not worked out.
        self.assertIsNone(found["lowrank-r8-int8"]["compress_error"])
        self.assertEqual(found["lowrank-r8-int8"]["scheme_rank"], 8)

    def test_a_block_says_what_each_of_its_layers_is(self):
        # gate_up is 256×64 and down 64×128: half the parameters are 25 and 21 ranks.
        _, records = self.run_tiny(workload="mlp", in_features=None, out_features=None, hidden=64, intermediate=128,
                                   scheme=[{"type": "lowrank", "ratio": 0.5}, {"type": "lowrank", "rank": 8}])
        ranks = {record["scheme"]: record.get("scheme_rank") for record in records}
        self.assertEqual(ranks, {"dense-f32": None, "lowrank-p0.5": "25+21", "lowrank-r8": 8})

    def test_the_dense_baseline_is_measured_unasked(self):
        _, records = self.run_tiny()
        self.assertEqual(sorted(record["scheme"] for record in records), ["dense-f32", "dense-f32", "int8"])
        int8 = next(record for record in records if record["scheme"] == "int8")
        self.assertIn(int8["baseline_case"], [record["case"] for record in records])

    def assert_limits(self, records):
        """Holds limit_kind and limit_fraction to the ceilings that environment.json has of each row's group."""
        ceilings = json.loads((self.folder / "out" / "environment.json").read_text())["launches"][-1]["ceilings"]
        groups = sorted({record["tokens"] for record in records})
        self.assertEqual(len(ceilings), len(groups))
        for record in records:
            found, ranks, shard = ceilings[groups.index(record["tokens"])], record["ranks"], record["shard"]
            share = 1e3 / ranks  # of all ranks' rate in 1e9/s, what one does in a µs
            values = (record["in_features"] / (ranks if shard == "row" else 1) +
                      record["out_features"] / (ranks if shard == "column" else 1)) * record["tokens"]
            memory = (record["weight_bytes"] / ranks + 4 * values) / (
                max(found["read_gb_per_s_by_threads"].values()) * share)
            executed = record["gflops_executed"] * record["latency_us_p50"] * 1e3 / ranks
            rate = "fp32_gflops"  # weights that are only stored in less are multiplied as float32
            if record["activation_dtype"] == "int8":
                rate = "int4_gops" if record["weight_dtype"] == "int4" else "int8_gops"
                rate = "int8_24_gops" if record.get("scheme_pattern") == "2:4" else rate
            elif record["activation_dtype"] == "bf16":
                rate = "bf16_gflops"
            compute = executed / (found[rate] * share)
            network = 0
            if shard == "row":
                network = found["all_reduce_latency_us"] + record["comm_bytes"] / (found["all_reduce_gb_per_s"] * 1e3)
            limit = max(memory, compute) + network
            with self.subTest(record["case"]):
                self.assertAlmostEqual(record["limit_fraction"] * record["latency_us_p50"], limit, delta=0.02 * limit)
                self.assertEqual(record["limit_kind"], "network" if network > max(memory, compute) else
                                 "memory" if memory >= compute else "compute")

    def test_the_limit_is_that_of_the_ceilings(self):
        sizes = {"in_features": 1024, "out_features": 1024, "tokens": [1, 256],
                 "scheme": [{"type": "dense"}, {"type": "int8"}, {"type": "int4", "activations": ["int8", "f32"]},
                            {"type": "dense", "dtype": "bf16", "activations": ["bf16", "f32"]},
                            {"type": "pruned", "pattern": "2:4", "values": {"type": "int8"}}]}
        _, records = self.run_tiny(**sizes)
        self.assert_limits(records)
        # Codes multiply so fast on some machines that many tokens of them are bound by a busy memory.
        dense = {r["limit_kind"] for r in records if r["tokens"] == 256 and r["scheme"] == "dense-f32"}
        self.assertEqual(dense, {"compute"})

    def test_the_limit_of_two_ranks(self):
        self.needs_mpi()
        for shard in ("column", "row"):
            _, records = self.run_tiny(ranks=2, shard=shard, in_features=512, out_features=256, tokens=2)
            self.assert_limits(records)
            shutil.rmtree(self.folder / "out")

    def test_an_instruction_set_is_forced_or_refused(self):
        config = self.write("config.json", tiny(scheme={"type": "int8"}))
        with unittest.mock.patch.dict(os.environ, LAMINA_ISA="portable"):
            self.run_ok("run", config, "-o", self.folder / "out")
        native = [record for record in self.records(self.folder / "out") if record["kernel"] == "native"]
        self.assertEqual({(record["isa"], record["status"]) for record in native}, {("portable", "ok")})
        with unittest.mock.patch.dict(os.environ, LAMINA_ISA="avx3"):
            result = lamina("run", config, "-o", self.folder / "none")
        self.assertEqual(result.returncode, 64, result.stderr)
        self.assertIn('LAMINA_ISA: expected an instruction set that this processor has (portable', result.stderr)
        self.assertIn('found "avx3"', result.stderr)
        self.assertFalse((self.folder / "none").exists())

    def test_threads_that_openmp_binds_have_all_their_cores(self):
        if len(os.sched_getaffinity(0)) < 2:
            self.skipTest("one CPU")
        config = self.write("config.json", tiny(scheme={"type": "int8"}, threads=2))
        with unittest.mock.patch.dict(os.environ, OMP_PLACES="threads", OMP_PROC_BIND="close"):
            self.run_ok("run", config, "-o", self.folder / "out")
        launch = json.loads((self.folder / "out" / "environment.json").read_text())["launches"][-1]
        self.assertEqual(set(launch["binding"][0]["cpus"]), os.sched_getaffinity(0))
        for record in self.records(self.folder / "out"):
            self.assertFalse([text for text in record["warnings"] if "threads on 1 core" in text], record["case"])

    def test_avx2_can_be_forced(self):
        cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in cpuinfo if line.startswith("flags")), "")
        if not {"avx2", "fma"} <= set(flags.split()):
            self.skipTest("this processor has no AVX2")
        config = self.write("config.json", tiny(scheme=[{"type": "int8"}, {"type": "pruned", "pattern": "2:4"}]))
        with unittest.mock.patch.dict(os.environ, LAMINA_ISA="avx2"):
            self.run_ok("run", config, "-o", self.folder / "out")
        native = [record for record in self.records(self.folder / "out") if record["kernel"] == "native"]
        self.assertEqual({(record["isa"], record["status"]) for record in native}, {("avx2", "ok")})

    def test_the_list_says_which_instruction_set_is_in_use(self):
        with unittest.mock.patch.dict(os.environ, LAMINA_ISA="portable"):
            lines = [line for line in self.run_ok("list").stdout.splitlines() if line.startswith("  native ")]
        self.assertGreater(len(lines), 5)
        for line in lines:
            if line.split()[1] == "cpu":
                self.assertTrue(line.endswith("[portable]"), line)

    def test_rows_of_a_gpu_that_is_not_there_are_skipped(self):
        if gpus():
            self.skipTest("a GPU answers here")
        config = self.write("config.json", {**tiny(device="cuda", scheme=[{"type": "int8"}, {"type": "int4"}])})
        result = lamina("run", config, "-o", self.folder / "out")
        self.assertEqual(result.returncode, 0, result.stderr)
        records = self.records(self.folder / "out")
        self.assertEqual({record["status"] for record in records}, {"skipped"})
        for record in records:
            self.assertIn("cuda", record["reason"])
            self.assertIsNone(record["latency_us_p50"])
        self.assertIn("skipped", result.stdout)

    def test_filter_and_set(self):
        _, records = self.run_tiny("--filter", "int4", "--set", "tokens=[2,5]", "--set", "seed=7", scheme=SCHEMES)
        self.assertEqual(sorted(record["tokens"] for record in records if "int4" in record["scheme"]), [2, 5])
        self.assertEqual({record["scheme"] for record in records}, {"dense-f32", "int4-g64"})
        environment_json = json.loads((self.folder / "out" / "environment.json").read_text())
        self.assertEqual(environment_json["config"]["seed"], 7)

    def test_a_case_for_more_ranks_than_launched_is_skipped(self):
        _, records = self.run_tiny(ranks=None, shard="row", threads=1)
        config = self.write("more.json", {**tiny(shard="row"), "name": "more"})
        result = self.run_ok("run", config, "--set", "ranks=2", "-o", self.folder / "more")
        records = self.records(self.folder / "more")
        self.assertEqual({record["status"] for record in records}, {"skipped"})
        self.assertIn("mpirun -n 2", records[0]["reason"])
        self.assertIsNone(records[0]["latency_us_p50"])
        self.assertIn("skipped", result.stdout)

    def test_without_o_the_folder_is_named_after_config_and_time(self):
        config = self.write("tiny.json", tiny())
        result = self.run_ok("run", config, cwd=self.folder)
        (run,) = (self.folder / "runs").iterdir()
        self.assertRegex(run.name, r"^tiny-\d{8}T\d{6}Z")
        self.assertIn(run.name, result.stderr)
        self.assertEqual(sorted(path.name for path in run.iterdir()),
                         ["environment.json", "records.jsonl", "table.md"])

    def test_an_earlier_run_is_not_overwritten(self):
        self.run_tiny()
        before = (self.folder / "out" / "records.jsonl").read_bytes()
        result = lamina("run", self.folder / "tiny.json", "-o", self.folder / "out")
        self.assertEqual(result.returncode, 64)
        self.assertIn("--resume", result.stderr)
        self.assertEqual((self.folder / "out" / "records.jsonl").read_bytes(), before)

    def test_stderr_is_quiet_off_a_terminal(self):
        result, _ = self.run_tiny()
        self.assertNotIn("\r", result.stderr)
        self.assertNotIn("\x1b", result.stderr)


class Resume(Case):
    def config(self):
        # Eight groups, slow enough that the run is caught in the middle.
        config = tiny(tokens=list(range(1, 9)), scheme=[{"type": "dense"}, {"type": "int8"}])
        config["measure"]["max_seconds"] = 0.2
        config["measure"]["precision"] = 0.0001
        return self.write("tiny.json", config)

    def killed_run(self, config, run):
        process = subprocess.Popen(command("run", config, "-o", run), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=environment())
        records = run / "records.jsonl"
        deadline = time.monotonic() + 60
        try:
            while not records.exists() or records.read_bytes().count(b"\n") < 4:
                self.assertIsNone(process.poll(), "ended before it could be killed")
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.005)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        return records.read_bytes()

    def test_a_killed_run_keeps_its_records_and_is_finished(self):
        config, run = self.config(), self.folder / "out"
        kept = self.killed_run(config, run)
        self.assertLess(kept.count(b"\n"), 24)
        self.run_ok("run", config, "-o", run, "--resume")
        after = (run / "records.jsonl").read_bytes()
        self.assertTrue(after.startswith(kept[: kept.rfind(b"\n") + 1]))
        records = self.records(run)
        self.assertEqual(len({record["case"] for record in records}), 24)
        self.assertEqual(len(records), 24)
        self.assertEqual(len({record["run_id"] for record in records}), 1)
        self.assertEqual(len({record["launch_id"] for record in records}), 2)
        self.assertEqual(len(json.loads((run / "environment.json").read_text())["launches"]), 2)
        self.assertEqual((run / "table.md").read_text().count("int8"), 8)

    def test_a_torn_last_line_is_dropped_and_said(self):
        config, run = self.config(), self.folder / "out"
        self.run_ok("run", config, "-o", run)
        lines = (run / "records.jsonl").read_bytes().splitlines(keepends=True)
        (run / "records.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
        (run / "table.md").unlink()
        result = self.run_ok("run", config, "-o", run, "--resume")
        self.assertRegex(result.stderr, r"records\.jsonl:24: dropped a torn last line")
        self.assertIn("1 of 8 groups to go", result.stderr)
        # Its group is measured again, the baseline too.
        records = self.records(run)
        self.assertEqual(len(records), 23 + 3)
        self.assertEqual(len({record["case"] for record in records}), 24)
        self.assertEqual(len({record["launch_id"] for record in records[-3:]}), 1)
        self.assertTrue((run / "records.jsonl").read_bytes().startswith(b"".join(lines[:-1])))
        self.assertEqual((run / "table.md").read_text().count("| dense-f32"), 16)

    def test_a_skipped_case_is_tried_again_where_it_can_run(self):
        self.needs_mpi()
        config, run = self.write("tiny.json", tiny(ranks=[1, 2], shard="row")), self.folder / "out"
        self.run_ok("run", config, "-o", run)
        first = self.records(run)
        self.assertEqual(sorted((record["ranks"], record["status"]) for record in first),
                         [(1, "ok")] * 3 + [(2, "skipped")] * 3)
        self.run_ok("run", config, "-o", run, "--resume")
        self.assertEqual(self.records(run), first)
        result = self.run_ok("run", config, "-o", run, "--resume", ranks=2)
        self.assertEqual([(record["ranks"], record["status"]) for record in self.records(run)[6:]], [(2, "ok")] * 3)
        self.assertNotIn("skipped", result.stdout)
        exported = self.run_ok("export", run, "--format", "csv").stdout
        self.assertEqual(len(exported.splitlines()), 1 + 6)

    def test_a_case_that_no_kernel_takes_is_not_tried_again(self):
        config, run = self.write("tiny.json", tiny(kernel="openblas")), self.folder / "out"
        self.run_ok("run", config, "-o", run)
        records = self.records(run)
        self.assertEqual(sorted(record["status"] for record in records), ["ok", "ok", "skipped"])
        self.run_ok("run", config, "-o", run, "--resume")
        self.assertEqual(self.records(run), records)

    def test_nothing_left_to_do(self):
        config, run = self.write("tiny.json", tiny()), self.folder / "out"
        first = self.run_ok("run", config, "-o", run)
        before = (run / "records.jsonl").read_bytes()
        self.assertEqual(self.run_ok("run", config, "-o", run, "--resume").stdout, first.stdout)
        self.assertEqual((run / "records.jsonl").read_bytes(), before)

    def test_another_config_is_refused(self):
        run = self.folder / "out"
        self.run_ok("run", self.write("tiny.json", tiny()), "-o", run)
        result = lamina("run", self.write("other.json", tiny(tokens=2)), "-o", run, "--resume")
        self.assertEqual(result.returncode, 64)
        self.assertIn("digest", result.stderr)

    def test_no_run_to_resume(self):
        result = lamina("run", self.write("tiny.json", tiny()), "-o", self.folder / "none", "--resume")
        self.assertEqual(result.returncode, 64)
        self.assertFalse((self.folder / "none").exists())


class Trouble(Case):
    def test_an_output_folder_that_cannot_be_made(self):
        config = self.write("tiny.json", tiny())
        for out in (config, "/proc/none/out"):
            with self.subTest(out=out):
                result = lamina("run", config, "-o", out)
                self.assertEqual(result.returncode, 64, result.stderr)
                self.assertTrue(re.search(re.escape(str(out)), result.stderr))


if __name__ == "__main__":
    main()
