"""What a run does when a kernel is wrong, throws, hangs or dies: the row says so, the job ends, rows stay."""
import json
import os
import subprocess
import tempfile
import time
import unittest

MPIEXEC = os.environ.get("MPIEXEC", "")
PROGRAM = os.environ["LAMINA_FAULTS"]


def config(shards):
    return {
        "name": "faults",
        "measure": {"precision": 0.5, "min_samples": 30, "max_seconds": 0.05, "cache": "hot"},
        "experiments": [
            # The first group is sound, so that a completed record is there to be kept.
            {"workload": "layer", "in_features": 64, "out_features": 48, "tokens": 1, "shard": shards,
             "scheme": {"type": "dense"}, "kernel": "openblas"},
            {"workload": "layer", "in_features": 96, "out_features": 64, "tokens": 2, "shard": shards,
             "scheme": {"type": "dense"}, "kernel": "faulty"},
        ],
    }


class FaultTest(unittest.TestCase):
    def launch(self, fault, ranks, shard, hang_seconds=None):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "config.json")
        with open(path, "w") as file:
            json.dump(config(shard), file)
        command = [PROGRAM, fault, path, os.path.join(folder.name, "out")]
        if ranks > 1:
            command = [MPIEXEC, "-n", str(ranks)] + command
        environment = dict(os.environ)
        if hang_seconds:
            environment["LAMINA_HANG_SECONDS"] = str(hang_seconds)
        start = time.monotonic()
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=120)
        self.seconds = time.monotonic() - start
        records = []
        file = os.path.join(folder.name, "out", "records.jsonl")
        if os.path.exists(file):
            with open(file) as lines:
                records = [json.loads(line) for line in lines]
        return done, records

    def assert_first_group_kept(self, records):
        # The sound case and its other dense baseline; nothing of the group that was under way.
        self.assertEqual({(record["kernel"], record["status"]) for record in records},
                         {("openblas", "ok"), ("native", "ok")})
        self.assertEqual(len(records), 2)

    def test_a_wrong_kernel_is_an_invalid_row_without_a_time(self):
        for fault in ("scale", "stale"):
            for ranks, shard in ((1, "none"), (2, "column"), (2, "row")):
                if ranks > 1 and not MPIEXEC:
                    continue
                with self.subTest(fault=fault, shard=shard):
                    done, records = self.launch(fault, ranks, shard)
                    self.assertEqual(done.returncode, 1, done.stderr)
                    rows = {record["kernel"]: record for record in records}
                    bad = rows["faulty"]
                    self.assertEqual(bad["status"], "invalid")
                    self.assertIn("wrong at", bad["reason"])
                    self.assertIs(bad["check_passed"], False)
                    for key, value in bad.items():
                        if "_us" in key or key in ("tokens_per_s", "gflops", "weight_gb_per_s", "speedup_vs_dense"):
                            self.assertIsNone(value, key)
                    # Its neighbours, the baseline measured beside it among them, are sound.
                    self.assertEqual(rows["openblas"]["status"], "ok")
                    self.assertIn("invalid", done.stdout)

    @unittest.skipUnless(MPIEXEC, "built without MPI")
    def test_an_exception_on_one_rank_ends_the_job_with_rank_and_place(self):
        done, records = self.launch("throw", 3, "row")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("rank 2 of 3", done.stderr)
        self.assertIn("planted fault", done.stderr)
        self.assertLess(self.seconds, 60)
        self.assert_first_group_kept(records)

    @unittest.skipUnless(MPIEXEC, "built without MPI")
    def test_a_hang_ends_within_its_limit(self):
        done, records = self.launch("hang", 2, "row", hang_seconds=4)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no progress for", done.stderr)
        self.assertLess(self.seconds, 60)
        self.assert_first_group_kept(records)

    @unittest.skipUnless(MPIEXEC, "built without MPI")
    def test_a_killed_rank_ends_the_job_and_keeps_rows(self):
        done, records = self.launch("die", 2, "row")
        self.assertNotEqual(done.returncode, 0)
        self.assert_first_group_kept(records)


if __name__ == "__main__":
    unittest.main()
