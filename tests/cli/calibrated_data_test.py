"""tests/data/calibrated.json is what its script makes of NumPy: where NumPy is."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"


class CalibratedData(unittest.TestCase):
    @unittest.skipUnless(importlib.util.find_spec("numpy"), "needs NumPy")
    def test_the_file_is_what_the_script_writes(self):
        with tempfile.TemporaryDirectory() as folder:
            script = shutil.copy(DATA / "calibrated.py", folder)
            subprocess.run([sys.executable, script], check=True)
            written = json.loads(pathlib.Path(script).with_suffix(".json").read_text())
        kept = json.loads((DATA / "calibrated.json").read_text())
        self.assertEqual(list(written), list(kept))
        for name, arrays in kept.items():
            self.assertEqual(list(written[name]), list(arrays), name)
            for array, numbers in arrays.items():
                self.assertEqual(len(written[name][array]), len(numbers), f"{name}, {array}")
                for found, number in zip(written[name][array], numbers):
                    self.assertAlmostEqual(found, number, delta=1e-5 * abs(number) + 1e-6, msg=f"{name}, {array}")


if __name__ == "__main__":
    unittest.main()
