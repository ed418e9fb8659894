"""What a run does when a kernel is wrong, throws, hangs or dies: the row says so, the job ends, rows stay."""
import json
import os
import subprocess
import tempfile
import time
import unittest
from unittest import mock

from support import gpus, record_keys

MPIEXEC = os.environ.get("MPIEXEC", "")
PROGRAM = os.environ["LAMINA_FAULTS"]


# A layer and a block alone, and every way of cutting them over ranks.
PLACES = {1: [("layer", "none"), ("mlp", "none")], 2: [("layer", "column"), ("layer", "row"), ("mlp", "column-row")]}
SIZES = {"layer": {"in_features": 96, "out_features": 64}, "mlp": {"hidden": 96, "intermediate": 64}}


def config(places, experiments=None, **measure):
    # The first group is sound, so that a completed record is there to be kept.
    sound = {"workload": "layer", "in_features": 64, "out_features": 48, "tokens": 1, "shard": places and places[0][1],
             "scheme": {"type": "dense"}, "kernel": "openblas"}
    faulty = [{"workload": workload, **SIZES[workload], "tokens": 2, "shard": shard, "scheme": {"type": "dense"},
               "kernel": "faulty"} for workload, shard in places]
    return {
        "name": "faults",
        "measure": {"precision": 0.5, "min_samples": 30, "max_seconds": 0.05, "cache": "hot", **measure},
        "experiments": experiments or [sound, *faulty],
    }


class Launches(unittest.TestCase):
    def launch(self, fault, ranks, places=(), hang_seconds=None, resume=None, **measure):
        """Runs into a new folder, or on in the one to `resume`."""
        folder = resume or tempfile.TemporaryDirectory()
        if not resume:
            self.addCleanup(folder.cleanup)
        self.folder = folder
        path = os.path.join(folder.name, "config.json")
        with open(path, "w") as file:
            json.dump(config(places, **measure), file)
        command = [PROGRAM, fault, path, os.path.join(folder.name, "out")]
        command += ["resume"] if resume else []
        if ranks > 1:
            command = [MPIEXEC, "-n", str(ranks)] + command
        environment = {**os.environ, "LAMINA_CACHE_BYTES": str(2 << 20)}
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


class FaultTest(Launches):
    def assert_first_group_kept(self, records):
        # The sound case and its other dense baseline; nothing of the group that was under way.
        self.assertEqual({(record["kernel"], record["status"]) for record in records},
                         {("openblas", "ok"), ("native", "ok")})
        self.assertEqual(len(records), 2)

    def assert_nothing_measured(self, record, sections=("Time", "Rate", "Limit"), forward=True):
        for section in sections:
            for key in record_keys(section):
                if forward:
                    self.assertIn(key, record)
                self.assertIsNone(record.get(key), key)

    def test_a_wrong_kernel_is_an_invalid_row_without_a_time(self):
        for fault in ("scale", "stale", "drop", "swap"):
            for ranks, places in PLACES.items():
                if ranks > 1 and not MPIEXEC or ranks == 1 and fault == "swap":
                    continue
                done, records = self.launch(fault, ranks, places)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn("invalid", done.stdout)
                bad = {(record["workload"], record["shard"]): record for record in records
                       if record["kernel"] == "faulty"}
                for place in places:
                    with self.subTest(fault=fault, place=place):
                        self.assertEqual(bad[place]["status"], "invalid")
                        self.assertIn("wrong at", bad[place]["reason"])
                        self.assertIs(bad[place]["check_passed"], False)
                        self.assert_nothing_measured(bad[place])
                # Their neighbours, the baselines measured beside them among them, are sound.
                others = [record["status"] for record in records if record["kernel"] != "faulty"]
                self.assertEqual(others, ["ok"] * (2 + 2 * len(places)))

    def test_a_row_in_error_or_too_slow_has_no_time(self):
        for fault, status, reason in (("refuse", "error", "planted fault"), ("slow", "timeout", "timeout_seconds")):
            with self.subTest(fault=fault):
                done, records = self.launch(fault, 1, [("layer", "none")], timeout_seconds=0.2)
                self.assertEqual(done.returncode, 1, done.stderr)
                (bad,) = [record for record in records if record["kernel"] == "faulty"]
                self.assertEqual(bad["status"], status)
                self.assertIn(reason, bad["reason"])
                self.assert_nothing_measured(bad)

    def test_factors_that_are_wrong_make_an_invalid_row(self):
        for ranks in (1, 2) if MPIEXEC else (1,):
            for method in ("gram", "randomized"):
                for fault in ("garble", "none"):
                    with self.subTest(fault=fault, method=method, ranks=ranks):
                        done, (record,) = self.launch(fault, ranks, experiments=[
                            {"workload": "svd", "in_features": 384, "out_features": 256, "rank": 64, "method": method}])
                        if fault == "none":
                            self.assertEqual((done.returncode, record["status"]), (0, "ok"), done.stderr)
                            continue
                        self.assertEqual(done.returncode, 1, done.stderr)
                        self.assertEqual(record["status"], "invalid")
                        self.assertIn("factors are wrong", record["reason"])
                        self.assertIs(record["check_passed"], False)
                        self.assertGreater(record["svd_error"], record["svd_error_bound"])
                        self.assert_nothing_measured(record, ("Time", "Limit"), forward=False)
                        self.assertIsNone(record["svd_multiply_s"])

    def test_layers_of_wrong_factors_are_invalid(self):
        schemes = [{"type": "lowrank", "rank": 48}, {"type": "lowrank", "rank": 48, "method": "randomized"},
                   {"type": "lowrank", "rank": 48, "factors": {"type": "int8"}},
                   {"type": "lowrank", "rank": 48, "whiten": "diagonal", "calibration_tokens": 64},
                   {"type": "lowrank", "rank": 48, "whiten": "cholesky", "calibration_tokens": 512},
                   {"type": "sum", "base": {"type": "int4"}, "correction": {"type": "lowrank", "rank": 48}}]
        experiments = [{"workload": "layer", "in_features": 384, "out_features": 256, "tokens": 2, "scheme": schemes},
                       {"workload": "mlp", "hidden": 256, "intermediate": 384, "tokens": 2, "scheme": schemes[0]}]
        for ranks in (1, 2) if MPIEXEC else (1,):
            for fault in ("garble", "none"):
                with self.subTest(fault=fault, ranks=ranks):
                    done, records = self.launch(fault, ranks, experiments=experiments)
                    self.assertEqual(done.returncode, 1 if fault == "garble" else 0, done.stderr)
                    factorised = [record for record in records if "lowrank" in record["scheme"]]
                    self.assertEqual(len(factorised), len(schemes) + 1)
                    for record in factorised:
                        if fault == "none":
                            self.assertEqual(record["status"], "ok", record)
                            self.assertLessEqual(record["svd_error"], record["svd_error_bound"])
                            continue
                        if "whitened" in record["case"]:  # its calibration tokens were garbled before
                            self.assertEqual(record["status"], "error", record)
                            continue
                        self.assertEqual(record["status"], "invalid", record["case"])
                        self.assertIn("the factors are wrong: their error is", record["reason"])
                        self.assertGreater(record["svd_error"], record["svd_error_bound"])
                        self.assertEqual((record["check_error"], record["check_tolerance"]),
                                         (record["svd_error"], record["svd_error_bound"]))
                    for record in records:
                        if record["scheme"].startswith("dense"):
                            self.assertIsNone(record["svd_error_bound"])

    def test_resume_does_again_what_did_not_come_out(self):
        places = [("layer", "none")]
        for fault in ("scale", "refuse"):
            with self.subTest(fault=fault):
                _, bad = self.launch(fault, 1, places)
                done, records = self.launch("none", 1, places, resume=self.folder)
                self.assertEqual(done.returncode, 0, done.stderr)
                # The group that went wrong is done again, its baseline too; the lines there were are kept.
                self.assertEqual([record["status"] for record in bad].count("ok"), 4)
                self.assertEqual(records[:5], bad)
                self.assertEqual([(record["case"], record["status"]) for record in records[5:]],
                                 [(record["case"], "ok") for record in bad[2:]])
                again = {record["case"]: record for record in records[5:]}
                for record in again.values():
                    baseline = again[record["baseline_case"]]
                    self.assertEqual(baseline["launch_id"], record["launch_id"])
                    self.assertAlmostEqual(record["speedup_vs_dense"],
                                           baseline["latency_us_p50"] / record["latency_us_p50"])
                # A table has each case once, as it was last.
                self.assertEqual(done.stdout.count("| dense-f32"), 5)
                self.assertNotIn("not ok", done.stdout)
                self.assertEqual(self.launch("none", 1, places, resume=self.folder)[1], records)

    @unittest.skipUnless(MPIEXEC, "built without MPI")
    def test_an_exception_on_one_rank_ends_the_job_with_rank_and_place(self):
        done, records = self.launch("throw", 3, [("layer", "row")])
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, r"rank 2 of 3 on \S+: timing layer/96x64/\S*cpu-faulty/row/\S+: .*planted fault")
        self.assertLess(self.seconds, 60)
        self.assert_first_group_kept(records)

    @unittest.skipUnless(MPIEXEC, "built without MPI")
    def test_a_hang_ends_within_its_limit(self):
        done, records = self.launch("hang", 2, [("layer", "row")], hang_seconds=4)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no progress for", done.stderr)
        self.assertLess(self.seconds, 60)
        self.assert_first_group_kept(records)

    @unittest.skipUnless(MPIEXEC, "built without MPI")
    def test_a_killed_rank_ends_the_job_and_keeps_rows(self):
        done, records = self.launch("die", 2, [("layer", "row")])
        self.assertNotEqual(done.returncode, 0)
        self.assert_first_group_kept(records)


@unittest.skipUnless(gpus(), "no GPU here")
class OneGpuFaultTest(Launches):
    """What a GPU cannot do, and what it meets."""

    def test_an_error_in_mid_run_ends_in_rows_and_an_exit_code(self):
        layer = {"workload": "layer", "in_features": 96, "out_features": 64, "scheme": {"type": "dense"}, "device": "cuda"}
        done, records = self.launch("gpu-stray", 1, experiments=[
            {**layer, "tokens": 1, "kernel": "cublaslt"}, {**layer, "tokens": 2, "kernel": "faulty"},
            {**layer, "tokens": 3, "kernel": "cublaslt"}])
        self.assertEqual(done.returncode, 1, done.stderr)
        by_tokens = {tokens: [record for record in records if record["tokens"] == tokens] for tokens in (1, 2, 3)}
        # What was done before is kept. The context is lost with the fault: so says every row from there on, and none has a time.
        self.assertEqual({record["status"] for record in by_tokens[1]}, {"ok"})
        for record in by_tokens[2] + by_tokens[3]:
            self.assertEqual(record["status"], "error", record)
            self.assertIn("cuda: ", record["reason"])
            self.assertIsNone(record["latency_us_p50"])
        (faulty,) = [record for record in by_tokens[2] if record["kernel"] == "faulty"]
        self.assertIn("the GPU's context is lost", faulty["reason"])
        self.assertIn("--resume", faulty["reason"])
        self.assertTrue(by_tokens[3])

    def test_what_does_not_fit_is_skipped_before_it_is_allocated(self):
        # 5 GiB of weights, packed beside their canonical ones, into 8 GiB.
        layer = {"workload": "layer", "scheme": {"type": "dense", "dtype": "bf16"}, "kernel": "cublaslt", "device": "cuda",
                 "tokens": 1}
        done, records = self.launch("gpu-full", 1, experiments=[
            {**layer, "in_features": 32768, "out_features": 81920}, {**layer, "in_features": 96, "out_features": 64}])
        self.assertEqual(done.returncode, 0, done.stderr)
        large = [record for record in records if record["in_features"] > 96]
        small = [record for record in records if record["in_features"] == 96]
        self.assertTrue(large and small)
        for record in large:
            self.assertEqual(record["status"], "skipped", record)
            self.assertRegex(record["reason"], r"^cuda: needs about [\d.]+ GiB of device memory, [\d.]+ GiB are free$")
        self.assertEqual({record["status"] for record in small}, {"ok"})


@unittest.skipUnless(MPIEXEC and gpus(), "no GPU here")
class GpuFaultTest(Launches):
    """Ranks whose GPUs wait for one another."""

    def gpu_launch(self, fault, **arguments):
        layer = {"workload": "layer", "in_features": 96, "out_features": 64, "tokens": 2, "scheme": {"type": "dense"},
                 "shard": "row", "device": "cuda", "communicator": "nccl"}
        return self.launch(fault, 2, experiments=[
            {"workload": "collective", "collective": "all_reduce", "message_bytes": 4096, "device": "cuda",
             "communicator": "nccl"},
            {**layer, "kernel": "faulty"}], **arguments)

    @unittest.skipUnless(gpus() > 1, "one GPU here")
    def test_a_rank_that_fails_between_collectives_ends_the_job(self):
        for fault in ("gpu-throw", "gpu-die", "gpu-hang"):
            with self.subTest(fault=fault):
                done, records = self.gpu_launch(fault, hang_seconds=20)
                self.assertNotEqual(done.returncode, 0)
                self.assertLess(self.seconds, 90)
                if fault == "gpu-throw":
                    self.assertIn("planted fault", done.stderr + "".join(str(one.get("reason")) for one in records))
                if fault == "gpu-hang":
                    self.assertIn("no progress for", done.stderr)
                # What was done before is kept.
                self.assertIn(("collective", "ok"), {(record["workload"], record["status"]) for record in records})

    @unittest.skipUnless(gpus() > 1, "one GPU here")
    def test_nccl_that_cannot_be_set_up_is_a_row(self):
        # Hosts that cannot talk: no network of that name. That waiting ends in time is gpu_transport_test's.
        with mock.patch.dict(os.environ, NCCL_SOCKET_IFNAME="=lamina-none"):
            done, records = self.launch("none", 2, experiments=[
                {"workload": "collective", "collective": "all_reduce", "message_bytes": 4096, "device": "cuda",
                 "communicator": "nccl"},
                {"workload": "collective", "collective": "all_reduce", "message_bytes": 4096, "communicator": "mpi"}])
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertLess(self.seconds, 90)
        self.assertEqual({(record["device"], record["status"]) for record in records}, {("cuda", "error"), ("cpu", "ok")})
        (bad,) = [record for record in records if record["status"] == "error"]
        self.assertIn("nccl: ", bad["reason"])
        self.assertIn("NCCL_DEBUG=INFO", bad["reason"])

    def test_more_ranks_than_gpus_are_refused_by_name(self):
        path = os.path.join(tempfile.mkdtemp(), "config.json")
        with open(path, "w") as file:
            json.dump({"name": "shared", "measure": {"min_samples": 5, "max_seconds": 0.05}, "experiments": [
                {"workload": "collective", "collective": "all_reduce", "message_bytes": 4096, "device": "cuda",
                 "communicator": communicator} for communicator in ("nccl", "nccl-oneshot", "auto", "mpi")] + [
                {"workload": "layer", "in_features": 96, "out_features": 64, "tokens": 2, "device": "cuda", "shard": "column",
                 "scheme": {"type": "dense", "dtype": "bf16"}},
                {"workload": "svd", "in_features": 512, "out_features": 384, "rank": 16, "device": "cuda",
                 "communicator": "nccl"}]}, file)
        ranks = gpus() + 1
        done = subprocess.run([MPIEXEC, "--oversubscribe", "-n", str(ranks), os.environ["LAMINA"], "run", path, "-o",
                               os.path.join(os.path.dirname(path), "out")],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
        self.assertEqual(done.returncode, 1, done.stderr)
        with open(os.path.join(os.path.dirname(path), "out", "records.jsonl")) as lines:
            records = [json.loads(line) for line in lines]
        # With the layer comes what its speed-up is against.
        self.assertEqual([record["workload"] for record in records], ["collective"] * 4 + ["layer"] * 2 + ["svd"])
        for record in records:
            self.assertEqual(record["status"], "error")
            self.assertIn(f"ranks 0, {ranks - 1} share GPU", record["reason"])
            self.assertIn("start as many ranks a node as it has GPUs", record["reason"])


if __name__ == "__main__":
    unittest.main()
