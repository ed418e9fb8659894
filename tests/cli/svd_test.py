"""Workload svd as a user meets it: rows, comparisons across groups, what is skipped, and memory."""

import csv
import io
import json
import os
import pty
import re
import struct
import subprocess

from support import MPIEXEC, ROOT, Case, blank_table, command, environment, gpus, lamina, main, svd

METHODS = ["gram", "randomized", "scalapack", "lapack"]
PHASES = ("svd_multiply_s", "svd_communicate_s", "svd_eigensolve_s", "svd_orthogonalize_s")


class Svd(Case):
    def run_svd(self, launched=None, out="out", **changes):
        config = self.write("svd.json", svd(**changes))
        result = self.run_ok("run", config, "-o", self.folder / out, ranks=launched)
        return result, self.records(self.folder / out)

    def absent(self):
        """Methods that this build does not have."""
        section = self.run_ok("list").stdout.split("\nMethods of factorising")[1].split("\n\n")[1]
        return {line.split()[0] for line in section.splitlines() if "absent: " in line}

    def test_on_gpus_or_skipped(self):
        ranks = 2 if gpus() > 1 and MPIEXEC else None
        _, records = self.run_svd(launched=ranks, method=["gram", "randomized"], device=["cpu", "cuda"])
        records.sort(key=lambda record: (record["device"], record["svd_method"]))
        self.assertEqual([(record["device"], record["svd_method"]) for record in records],
                         [("cpu", "gram"), ("cpu", "randomized"), ("cuda", "gram"), ("cuda", "randomized")])
        for record in records[2:]:
            with self.subTest(record["case"]):
                self.assertGreater(record["svd_estimated_gpu_bytes"], 0)
                if gpus():
                    self.assert_whole(record)
                    self.assertEqual(record["communicator"] == "self", ranks is None)
                else:
                    self.assertEqual(record["status"], "skipped")
                    self.assertIn("cuda: ", record["reason"])

    def test_what_gpus_cannot_do_is_a_bad_config(self):
        for changes, told in (({"device": "cuda", "method": "lapack"}, "/method: expected gram or randomized"),
                              ({"device": "cuda", "eigensolver": "lapack"}, "/eigensolver: expected auto"),
                              ({"device": "cuda", "communicator": "mpi-shm"}, "/communicator: expected one of auto"),
                              ({"communicator": "mpi"}, "/communicator: expected auto on device cpu")):
            with self.subTest(**changes):
                result = lamina("run", self.write("bad.json", svd(**changes)), "--dry-run")
                self.assertEqual(result.returncode, 64)
                self.assertIn(told, result.stderr)

    def test_the_config_of_gpus_is_planned_for_any_number(self):
        text = self.run_ok("run", ROOT / "configs" / "svd-gpus.json", "--dry-run").stdout
        for ranks in (1, 2, 4, 8):
            self.assertRegex(text, rf"28672x8192/r1024/gram-cuda/rows/strong/p{ranks}t\d+")
            self.assertRegex(text, rf"53248x16384/r1024/randomized-cuda/rows/strong/p{ranks}t\d+")

    def exported(self, out="out"):
        text = self.run_ok("export", self.folder / out, "--format", "csv").stdout
        return {row["case"]: row for row in csv.DictReader(io.StringIO(text))}

    def assert_whole(self, record):
        self.assertEqual(record["status"], "ok", record["reason"])
        self.assertLessEqual(record["svd_error"], record["svd_error_bound"])
        self.assertEqual((record["check_error"], record["check_tolerance"]),
                         (record["svd_error"], record["svd_error_bound"]))
        self.assertLess(record["svd_orthogonality"], 1e-4)
        # Nothing is better than the best, but for the optimum's own rounding.
        self.assertGreaterEqual(record["svd_error"], record["svd_optimal_error"] * (1 - 1e-5))
        self.assertLess(record["svd_error"], record["svd_optimal_error"] * 1.02)
        phases = [record[key] for key in PHASES]
        self.assertGreaterEqual(min(phases), 0)
        # Medians of each phase beside that of the whole, whose steps are samples' means: near it, not the same.
        whole = record["latency_us_p50"] * 1e-6
        self.assertGreater(sum(phases), 0.5 * whole)
        self.assertLess(sum(phases), 2 * whole)
        for key in ("limit_kind", "limit_fraction"):
            self.assertIsNone(record[key])
        for key in ("tokens", "scheme", "quality_nmse", "weight_bytes"):
            self.assertNotIn(key, record)

    def test_every_method_on_two_ranks(self):
        self.needs_mpi()
        absent = self.absent()
        result, records = self.run_svd(launched=2, method=METHODS, ranks=[1, 2])
        # LAPACK knows no ranks: one row, whatever `ranks` says.
        self.assertEqual(sorted((record["svd_method"], record["ranks"]) for record in records),
                         [("gram", 1), ("gram", 2), ("lapack", 1), ("randomized", 1), ("randomized", 2),
                          ("scalapack", 1), ("scalapack", 2)])
        exported = self.exported()
        for record in records:
            with self.subTest(record["case"]):
                if record["svd_method"] in absent:
                    self.assertEqual(record["status"], "skipped")
                    self.assertIn("scalapack", record["reason"].lower())
                    continue
                self.assert_whole(record)
                self.assertEqual(record["svd_rank"], 16)
                # What compares groups is not in the lines, which are written before.
                row = exported[record["case"]]
                self.assertIsNone(record["speedup_vs_lapack"])
                lapack = next(one for one in records if one["svd_method"] == "lapack")
                self.assertAlmostEqual(float(row["speedup_vs_lapack"]),
                                       lapack["latency_us_p50"] / record["latency_us_p50"])
                if record["svd_method"] == "lapack":
                    self.assertEqual(row["scaling_efficiency"], "")
                    continue
                alone = next(one for one in records
                             if one["svd_method"] == record["svd_method"] and one["ranks"] == 1)
                self.assertAlmostEqual(float(row["scaling_efficiency"]), alone["latency_us_p50"] /
                                       record["latency_us_p50"] / record["ranks"])
        if not absent:
            self.assert_golden("table-svd.txt", blank_table(result.stdout))

    def test_the_rank_by_every_rule(self):
        rules = [("rank", 20), ("ratio", 0.25), ("energy", 0.5), ("error", 0.8)]
        for key, value in rules:
            _, records = self.run_svd(out=key, **{"rank": None, key: value}, method=["gram", "randomized"])
            for record in records:
                with self.subTest(record["case"]):
                    self.assert_whole(record)
                    self.assertEqual(record["svd_rule"], f"{key} {value}")
                    if key == "rank":
                        self.assertEqual(record["svd_rank"], 20)
                    elif key == "ratio":
                        self.assertEqual(record["svd_rank"], 384 * 256 // 4 // (384 + 256))
                    else:
                        self.assertLessEqual(record["svd_error"], 0.8 if key == "error" else 0.5 ** 0.5)

    def test_a_sketch_is_one_or_says_that_it_is_not(self):
        _, (small,) = self.run_svd(method="randomized")
        self.assertIn("computed by gram", " ".join(small["warnings"]))
        _, (large,) = self.run_svd(out="large", method="randomized", in_features=1024, out_features=640, rank=48)
        self.assert_whole(large)
        self.assertNotIn("computed by", " ".join(large["warnings"]))
        self.assertEqual((small["svd_solved_by"], large["svd_solved_by"]), ("lapack", None))
        # Of a few vectors of many, by filters; named, an eigensolver makes them all.
        _, solved = self.run_svd(out="few", in_features=1024, out_features=640, rank=48, eigensolver=["auto", "lapack"])
        self.assertEqual([record["svd_solved_by"] for record in solved], ["filters", "lapack"])
        self.assertGreater(large["svd_error"], large["svd_optimal_error"])

    def test_an_error_below_float32s_is_said(self):
        _, (record,) = self.run_svd(**{"rank": None, "error": 1e-6})
        self.assertEqual(record["status"], "ok", record["reason"])
        self.assertEqual(record["svd_rank"], 256)
        self.assertIn("the rank is whole", " ".join(record["warnings"]))

    def test_layouts_give_the_same_factors(self):
        self.needs_mpi()
        layouts = ["rows", "columns"] + ([] if self.absent() else ["block-cyclic"])
        _, records = self.run_svd(launched=2, layout=layouts, method=["gram", "randomized"], out_features=300)
        self.assertEqual(len(records), 2 * len(layouts))
        for record in records:
            self.assert_whole(record)
        for method in ("gram", "randomized"):
            errors = {record["svd_error"] for record in records if record["svd_method"] == method}
            self.assertLess(max(errors) - min(errors), 1e-6, errors)

    def test_weak_scaling_keeps_each_ranks_share(self):
        self.needs_mpi()
        result, records = self.run_svd(launched=2, scaling="weak", ranks=[1, 2], in_features=128)
        self.assertEqual([(record["ranks"], record["out_features"]) for record in records], [(1, 256), (2, 512)])
        times = [record["latency_us_p50"] for record in records]
        row = self.exported()[records[1]["case"]]
        self.assertAlmostEqual(float(row["scaling_efficiency"]), times[0] / times[1])
        self.assertIn("K×N 128×(256 a rank)", result.stdout)
        self.assertEqual(result.stdout.count("###"), 1)

    def test_what_this_launch_does_not_have_is_skipped(self):
        _, records = self.run_svd(ranks=[1, 2], method=["gram", "lapack"])
        self.assertEqual(sorted((record["svd_method"], record["ranks"], record["status"]) for record in records),
                         [("gram", 1, "ok"), ("gram", 2, "skipped"), ("lapack", 1, "ok")])
        _, records = self.run_svd(out="grid", method="scalapack", grid_rows=3, grid_cols=2)
        self.assertEqual(records[0]["status"], "skipped")
        exported = self.run_ok("export", self.folder / "out", self.folder / "grid", "--format", "table").stdout
        self.assertIn("mpirun -n 2", exported)

    def test_layers_and_factorisations_in_one_run(self):
        config = svd()
        config["experiments"].append({"workload": "layer", "in_features": 256, "out_features": 128, "tokens": 1,
                                      "threads": 1, "scheme": {"type": "lowrank", "rank": 8}})
        result = self.run_ok("run", self.write("both.json", config), "-o", self.folder / "out")
        records = self.records(self.folder / "out")
        (lowrank,) = [record for record in records if (record.get("scheme") or "").startswith("lowrank")]
        self.assertEqual(lowrank["break_even_rank"], 256 * 128 // (256 + 128))
        if lowrank["speedup_vs_dense"] > 1:
            gain_us = (lowrank["speedup_vs_dense"] - 1) * lowrank["latency_us_p50"]
            self.assertAlmostEqual(lowrank["break_even_forwards"] * gain_us / 1e6 / lowrank["compress_s"], 1, places=6)
        else:
            self.assertIsNone(lowrank["break_even_forwards"])
        self.assertTrue(all(record["break_even_rank"] is None for record in records
                            if (record.get("scheme") or "").startswith("dense")))
        # Each kind has its own columns.
        (header,) = [line for line in result.stdout.splitlines() if "| method" in line]
        self.assertNotIn("NMSE", header)
        (header,) = [line for line in result.stdout.splitlines() if "| scheme" in line]
        self.assertNotIn("bound", header)

    def weights(self, name, values):
        """A safetensors file of one float32 tensor w [256 × 384]."""
        header = json.dumps({"w": {"dtype": "F32", "shape": [256, 384], "data_offsets": [0, 4 * 256 * 384]}}).encode()
        data = struct.pack(f"<{256 * 384}f", *values)
        return {"weights": str(self.write(name, struct.pack("<Q", len(header)) + header + data)), "tensor": "w"}

    def test_weights_of_a_file_that_are_not_finite(self):
        methods = [method for method in METHODS if method not in self.absent()]
        for ranks in (None, 2):
            if ranks:
                self.needs_mpi()
            for bad in (float("nan"), float("inf")):
                with self.subTest(ranks=ranks, bad=bad):
                    values = [0.01 * (i % 13) for i in range(256 * 384)]
                    values[-1] = bad
                    out = f"{ranks}-{bad}"
                    config = self.write("svd.json", svd(method=methods, **self.weights("w.safetensors", values)))
                    result = lamina("run", config, "-o", self.folder / out, ranks=ranks)
                    self.assertNotEqual(result.returncode, 0)
                    records = self.records(self.folder / out)
                    self.assertEqual(len(records), len(methods))
                    for record in records:
                        self.assertEqual(record["status"], "error", record)
                        self.assertIn("finite", record["reason"])

    def test_weights_of_a_file_that_are_zeros(self):
        methods = [method for method in METHODS if method not in self.absent()]
        zeros = self.weights("w.safetensors", [0.0] * (256 * 384))
        for ranks in (None, 2):
            if ranks:
                self.needs_mpi()
            _, records = self.run_svd(launched=ranks, out=f"zeros-{ranks}", method=methods, **zeros)
            self.assertEqual(len(records), len(methods))
            for record in records:
                with self.subTest(record["case"], ranks=ranks):
                    self.assertEqual((record["status"], record["svd_error"], record["svd_rank"]), ("ok", 0, 16))

    def test_the_seven_projections_of_a_block_with_progress(self):
        # Proportions of Llama 3's: grouped keys and values, a wide intermediate.
        model = self.write("model.json", {"model_type": "llama", "hidden_size": 256, "intermediate_size": 640,
                                          "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
                                          "num_hidden_layers": 2, "vocab_size": 1000})
        layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        config = self.write("block.json", svd(in_features=None, out_features=None, rank=None, ratio=0.25, layer=layers,
                                              model=str(model), method=["gram", "randomized"]))
        terminal, stderr = pty.openpty()
        try:
            process = subprocess.Popen(command("run", config, "-o", self.folder / "out"), stdout=subprocess.DEVNULL,
                                       stderr=stderr, env=environment())
            os.close(stderr)
            drawn = b""
            while True:
                try:
                    some = os.read(terminal, 4096)
                except OSError:  # the other end has closed
                    break
                if not some:
                    break
                drawn += some
            self.assertEqual(process.wait(timeout=120), 0, drawn)
        finally:
            os.close(terminal)
        records = self.records(self.folder / "out")
        self.assertEqual([record["layer"] for record in records if record["svd_method"] == "gram"], layers)
        self.assertEqual(len(records), 14)
        for record in records:
            self.assert_whole(record)
        # Drawn ten times a second at most: the first place for certain.
        self.assertRegex(drawn.decode(), r"\[0/14\] .*q_proj")

    def test_the_dry_run_says_what_it_takes(self):
        self.needs_mpi()
        large = {"in_features": 4096, "out_features": 2048, "rank": None, "ranks": 2}
        # Within a tenth; where a sketch grows until it meets an error, no less than what is taken.
        cases = [("rank", {**large, "method": ["gram", "randomized"], "rank": 256}, 0.9),
                 # Copied by one method and not by the other, and by both.
                 ("square", {"in_features": 2048, "out_features": 2048, "rank": 128, "layout": "columns",
                             "method": ["gram", "randomized"], "ranks": 2}, 0.9),
                 ("columns", {"in_features": 2048, "out_features": 4096, "rank": 256, "layout": "columns",
                              "method": ["gram", "randomized"], "ranks": 2}, 0.9),
                 ("error", {**large, "method": "gram", "eigensolver": "lapack", "error": 0.7}, 0.9),
                 ("sketch", {**large, "method": "randomized", "error": 0.9}, 0.2)]
        if "scalapack" not in self.absent():
            cases.append(("scalapack", {"in_features": 1536, "out_features": 768, "rank": 96, "method": "scalapack",
                                        "ranks": [1, 2]}, 0.9))
        for name, changes, least in cases:
            config = self.write("svd.json", svd(**changes))
            dry = self.run_ok("run", config, "--dry-run", ranks=2).stdout
            self.run_ok("run", config, "-o", self.folder / name, ranks=2)
            for record in self.records(self.folder / name):
                with self.subTest(record["case"]):
                    self.assertEqual(record["status"], "ok", record["reason"])
                    stated = float(re.search(re.escape(record["case"]) + r" *\| *([\d.]+)", dry)[1])
                    self.assertAlmostEqual(stated, record["svd_estimated_bytes"] / 2**20, places=1)
                    taken = record["svd_peak_bytes"] / record["svd_estimated_bytes"]
                    self.assertLessEqual(taken, 1.1)
                    self.assertGreaterEqual(taken, least)
                    if name == "rank":
                        beyond = record["svd_peak_bytes"] - 4 * 4096 * 2048 // record["ranks"]
                        self.assertLessEqual(beyond, 3 * 8 * 2048**2)


if __name__ == "__main__":
    main()
