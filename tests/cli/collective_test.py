"""Workload collective: rows of every collective, their bandwidths, exports, skips, bad input, and too little memory."""

import json
import os
import re
import subprocess
import unittest

import support
from support import Case, lamina


def config(*experiments, **measure):
    return {
        "name": "collectives",
        "measure": {"precision": 0.5, "min_samples": 30, "max_seconds": 0.02, **measure},
        "experiments": [{"workload": "collective", "threads": 1, **one} for one in experiments],
    }


class CollectiveTest(Case):
    def run_config(self, *experiments, ranks=None, expect=0, env=None, **measure):
        path = self.write("config.json", config(*experiments, **measure))
        out = self.folder / f"out{len(list(self.folder.iterdir()))}"
        saved = dict(os.environ)
        os.environ.update(env or {})
        try:
            result = lamina("run", path, "-o", out, ranks=ranks)
        finally:
            os.environ.clear()
            os.environ.update(saved)
        self.assertEqual(result.returncode, expect, result.stdout + result.stderr)
        self.out = out
        return self.records(out) if (out / "records.jsonl").exists() else result

    def test_every_collective_on_every_communicator(self):
        self.needs_mpi()
        names = ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv"]
        for ranks in (2, 3):
            records = self.run_config({"collective": names, "message_bytes": [0, 4, 5000], "dtype": ["f32", "int8"],
                                       "communicator": ["mpi", "mpi-shm"]}, ranks=ranks)
            self.assertEqual(len(records), 6 * 3 * 2 * 2)
            factor = {"all_reduce": 2 * (ranks - 1) / ranks, "broadcast": 1, "send_recv": 1}
            for record in records:
                self.assertEqual(record["status"], "ok", record)
                self.assertEqual(record["wrong_elements"], 0)
                self.assertEqual((record["ranks"], record["device"]), (ranks, "cpu"))
                rate = record["message_bytes"] / record["latency_us_p50"] * 1e-3
                self.assertAlmostEqual(record["algbw_gb_per_s"], rate, delta=1e-6 + rate * 1e-9)
                bus = rate * factor.get(record["collective"], (ranks - 1) / ranks)
                self.assertAlmostEqual(record["busbw_gb_per_s"], bus, delta=1e-6 + bus * 1e-9)
                self.assertLessEqual(record["latency_us_rank_min"], record["latency_us_rank_mean"])
                self.assertLessEqual(record["latency_us_rank_mean"], record["latency_us_rank_max"])
                asked = int(re.search(r"/(\d+)B/", record["case"])[1])
                width = 4 if record["dtype"] == "f32" else 1
                parts = ranks if record["collective"] in ("all_gather", "reduce_scatter", "all_to_all") else 1
                self.assertEqual(record["message_bytes"], asked // width // parts * parts * width)
            networks = json.loads((self.out / "environment.json").read_text())["launches"][0]["networks"]
            self.assertTrue(networks)
            for line in networks:
                self.assertGreater(line["beta_gb_per_s"], 0)
                self.assertGreaterEqual(line["alpha_us"], 0)

    def test_ranges_are_axes(self):
        records = self.run_config({"collective": "all_reduce", "message_bytes": {"from": 8, "to": 100}})
        self.assertEqual([record["message_bytes"] for record in records], [8, 16, 32, 64])
        records = self.run_config({"collective": "all_reduce",
                                   "message_bytes": [4, {"from": 10, "to": 1000, "factor": 10}], "dtype": "int8"})
        self.assertEqual([record["message_bytes"] for record in records], [4, 10, 100, 1000])
        self.assertEqual({record["communicator"] for record in records}, {"self"})
        # The next step is past all integers.
        records = self.run_config({"collective": "all_reduce",
                                   "message_bytes": {"from": 1 << 24, "to": 1 << 24, "factor": 1 << 40}})
        self.assertEqual([record["message_bytes"] for record in records], [1 << 24])

    def test_compressed_rows_have_their_error(self):
        self.needs_mpi()
        records = self.run_config({"collective": "all_reduce", "message_bytes": 40_004, "dtype": ["f32", "bf16"],
                                   "payload": ["none", "int8", "fp8", "int4"]},
                                  {"collective": "all_reduce", "message_bytes": 40_004, "payload": "int8",
                                   "error_feedback": True}, ranks=2)
        self.assertEqual({record["status"] for record in records}, {"ok"})
        error = {(record["dtype"], record["payload"], record["error_feedback"]): record["quality_nmse"]
                 for record in records}
        self.assertLess(error["f32", None, None], 1e-12)
        self.assertLess(error["f32", "int8", False], 1e-4)
        self.assertLess(error["f32", "int8", False], error["f32", "fp8", False])
        self.assertLess(error["f32", "fp8", False], error["f32", "int4", False])
        self.assertLess(error["f32", "int8", True], error["f32", "int8", False] / 10)
        bytes_sent = {record["payload"]: record["comm_bytes"] for record in records if record["dtype"] == "f32"}
        self.assertLess(bytes_sent["int8"], 0.3 * bytes_sent[None])
        self.assertLess(bytes_sent["int4"], 0.16 * bytes_sent[None])

    def test_exports_columns_of_nccl_tests(self):
        self.needs_mpi()
        self.run_config({"collective": ["all_reduce", "all_gather"], "message_bytes": [1024, 4096],
                         "in_place": [False, True], "communicator": "mpi"}, ranks=2)
        text = self.run_ok("export", self.out, "--format", "nccl").stdout
        lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self.assertEqual(len(lines), 4)
        for line in lines:
            self.assertEqual(len(line), 13)
            self.assertEqual(line[8], "0")
            self.assertEqual(line[12], "0")
        self.assertEqual(lines[0][:5], ["1024", "256", "float", "sum", "-1"])
        self.assertEqual(lines[2][:5], ["1024", "128", "float", "none", "-1"])
        self.assertIn("# all_reduce: 2 ranks, cpu mpi", text)

    def test_what_cannot_run_is_skipped_with_a_reason(self):
        records = self.run_config({"collective": ["all_to_all", "send_recv"], "message_bytes": 64, "in_place": True},
                                  {"collective": "all_reduce", "message_bytes": 64, "ranks": 5})
        self.assertEqual({record["status"] for record in records}, {"skipped"})
        self.assertIn("no form in place", records[0]["reason"])
        self.assertIn("needs 5 ranks", records[2]["reason"])

    def test_bad_input_is_said_with_its_place(self):
        for experiment, place, words in [
            ({"collective": "all_sum", "message_bytes": 8}, "/experiments/0/collective", "all_reduce"),
            ({"collective": "all_reduce"}, "/experiments/0", "message_bytes"),
            ({"collective": "all_reduce", "message_bytes": -1}, "/experiments/0/message_bytes", "0 to"),
            ({"collective": "all_reduce", "message_bytes": {"from": 8}}, "/experiments/0/message_bytes", "\"to\""),
            ({"collective": "all_reduce", "message_bytes": {"from": 8, "to": 4}}, "/experiments/0/message_bytes", "at least"),
            ({"collective": "all_reduce", "message_bytes": {"from": 8, "to": 64, "factor": 1}},
             "/experiments/0/message_bytes/factor", "found 1"),
            ({"collective": "all_reduce", "message_bytes": {"from": 8, "to": 64, "step": 2}},
             "/experiments/0/message_bytes/step", "from, to and factor"),
            ({"collective": "all_reduce", "message_bytes": 8, "communicator": "mpi-smh"},
             "/experiments/0/communicator", "did you mean \"mpi-shm\""),
            ({"collective": "broadcast", "message_bytes": 8, "payload": "int8"}, "/experiments/0/payload", "all_reduce"),
            ({"collective": "all_reduce", "message_bytes": 8, "payload": "int8", "dtype": "int8"},
             "/experiments/0/payload", "dtype int8"),
            ({"collective": "all_reduce", "message_bytes": 8, "payload": "int8", "payload_block": 100},
             "/experiments/0/payload_block", "multiple of 32"),
            ({"collective": "all_reduce", "message_bytes": 8, "dtype": "f64"}, "/experiments/0/dtype", "bf16"),
        ]:
            result = self.run_config(experiment, expect=64)
            self.assertIn(place + ":", result.stderr)
            self.assertIn(words, result.stderr)

    def test_too_little_shared_memory_names_rank_and_remedy(self):
        self.needs_mpi()
        huge = {"LAMINA_SHM_WINDOW_KIB": str(1 << 40)}
        (record,) = self.run_config({"collective": "all_reduce", "message_bytes": 64, "communicator": "mpi-shm"}, ranks=2,
                                    expect=1, env=huge)
        self.assertEqual(record["status"], "error")
        for words in ("rank 0", "/dev/shm", "LAMINA_SHM_WINDOW_KIB", "\"communicator\": \"mpi\""):
            self.assertIn(words, record["reason"])
        # `auto` does without.
        (record,) = self.run_config({"collective": "all_reduce", "message_bytes": 64}, ranks=2, env=huge)
        self.assertEqual((record["status"], record["communicator"]), ("ok", "mpi"))
        (warning,) = [one for one in record["warnings"] if one.startswith("auto: ")]
        for words in ("auto: mpi-shm: rank 0", "/dev/shm", "LAMINA_SHM_WINDOW_KIB"):
            self.assertIn(words, warning)
        (record,) = self.run_config({"collective": "all_reduce", "message_bytes": 64, "communicator": "mpi-shm"}, ranks=2,
                                    expect=1, env={"LAMINA_SHM_WINDOW_KIB": "abc"})
        self.assertIn("expected KiB of shared memory", record["reason"])
        # As little as it takes: many chunks.
        (record,) = self.run_config({"collective": "all_reduce", "message_bytes": 100_000, "communicator": "mpi-shm"},
                                    ranks=2, env={"LAMINA_SHM_WINDOW_KIB": "4"})
        self.assertEqual(record["status"], "ok")

    def test_too_little_shared_memory_to_start_names_rank_and_remedy(self):
        self.needs_mpi()
        page = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1 none /dev/shm && exec "$@"', "sh"]
        try:
            allowed = subprocess.run([*page, "true"], capture_output=True, text=True)
        except FileNotFoundError:
            self.skipTest("needs unshare (util-linux)")
        if allowed.returncode != 0:
            self.skipTest(f"no mounts of one's own here: {allowed.stderr.strip()}")
        path = self.write("config.json", config({"collective": "all_reduce", "message_bytes": 64}))
        # MPI's own messages would want that memory too.
        result = subprocess.run([*page, *support.command("run", path, "-o", self.folder / "out", ranks=2)],
                                capture_output=True, text=True, timeout=120,
                                env={**support.environment(), "OMPI_MCA_btl": "self,tcp"})
        self.assertNotEqual(result.returncode, 0)
        kib = os.sysconf("SC_PAGE_SIZE") >> 10  # as small as a file system gets
        for words in (f"rank 0: expected {2 * kib} KiB free in /dev/shm", f"found {kib} KiB", "--shm-size"):
            self.assertIn(words, result.stderr)

    def test_list_names_what_there_is(self):
        text = self.run_ok("list").stdout
        for name in ("mpi-shm", "self", "reduce_scatter"):
            self.assertRegex(text, rf"(?m)^  {name} ")


if __name__ == "__main__":
    unittest.main()
