"""Rows of collectives, layers and MLPs over GPUs, each checked by the program itself. Skipped with fewer than two GPUs."""

import unittest

import support
from support import Case, gpus

RANKS = 2


class GpuTest(Case):
    def setUp(self):
        super().setUp()
        self.needs_mpi()
        if gpus() < RANKS:
            self.skipTest(f"needs {RANKS} GPUs, found {gpus()}")

    def run_experiments(self, *experiments):
        path = self.write("config.json", {"name": "gpus", "measure": {"precision": 0.5, "min_samples": 6, "max_seconds": 0.02},
                                          "experiments": [{"device": "cuda", "ranks": RANKS, **one} for one in experiments]})
        out = self.folder / "out"
        self.run_ok("run", path, "-o", out, ranks=RANKS, timeout=500)
        return self.records(out)

    def test_collectives_of_all_forms(self):
        names = ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv"]
        moved = {"workload": "collective", "communicator": ["nccl", "nccl-oneshot", "mpi"]}
        records = self.run_experiments(
            {**moved, "collective": names, "message_bytes": [4, 4099, 100_001], "dtype": ["f32", "bf16", "int8"]},
            {**moved, "collective": names[:4], "message_bytes": [4, 4099], "in_place": True},
            {**moved, "collective": names, "message_bytes": 4099, "graph": False},
            {**moved, "collective": "all_reduce", "message_bytes": [4, 4099, 100_001], "payload": "int8",
             "payload_block": [64, 96]})
        self.assertTrue(records)
        for record in records:
            self.assertEqual(record["status"], "ok", record)
            self.assertEqual(record["wrong_elements"], 0, record)
        self.assertEqual({record["communicator"] for record in records}, {"nccl", "nccl-oneshot", "mpi-staged"})

    def test_mlps_of_all_cuts(self):
        schemes = [{"type": "dense", "dtype": "bf16"}, {"type": "int4", "group": 64}, {"type": "lowrank", "rank": 32}]
        records = self.run_experiments({"workload": "mlp", "hidden": 256, "intermediate": 512, "tokens": [1, 33],
                                        "shard": ["column-row", "sequence"], "overlap": [1, 3], "scheme": schemes})
        self.assertTrue(records)
        for record in records:
            if record["shard"] == "sequence" and record["overlap"] > 1:
                self.assertEqual(record["status"], "skipped", record)
                self.assertIn("overlap 3", record["reason"])
            else:
                self.assertEqual(record["status"], "ok", record)
        done = {(record["shard"], record["overlap"]) for record in records if record["status"] == "ok"}
        self.assertEqual(done, {("column-row", 1), ("column-row", 3), ("sequence", 1)})


if __name__ == "__main__":
    support.main()
