"""Comparisons by cycles as a user makes them: recorded launches of rows that have them, with known changes."""

import json
import shutil

from compare_test import Compare
from support import ROOT, main


class RecordedByCycles(Compare):
    """tests/data/compare-cycles: real launches of rows that have cycles, beside a clock that moves by several percent."""

    CYCLES = ROOT / "tests" / "data" / "compare-cycles"
    ROWS = ("int8 native", "int4-g128-a8 native")

    def changed(self, name, change):
        """NEW, each row of launch K (from 1) altered in place by change(row, K)."""
        folder = self.folder / name
        shutil.copytree(self.CYCLES / "new", folder)
        for number in range(1, 11):
            path = folder / f"launch-{number}" / "records.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            for row in rows:
                change(row, number)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    def judged(self, new, *arguments, code, verdict, measure="cycles"):
        result = self.verdict(self.CYCLES / "base", new, *arguments, code=code)
        self.assertTrue(result["paired"])
        self.assertEqual(self.rows(result), dict.fromkeys(self.ROWS, verdict))
        self.assertEqual(self.rows(result, "measure"), dict.fromkeys(self.ROWS, measure))
        return result

    @staticmethod
    def more(factor, of=("latency_us_p50", "cycles_p50")):
        def change(row, number):
            for key in of:
                row[key] *= factor
            row["core_clock_mhz"] = row["cycles_p50"] / row["latency_us_p50"]
        return change

    def test_no_change(self):
        result = self.judged(self.CYCLES / "new", code=0, verdict="ok")
        for row in result["rows"]:
            self.assertAlmostEqual(row["new_cycles"] / row["base_cycles"], 1, delta=0.01)
            self.assertLess(row["could_have_seen"], 0.03)

    def test_three_percent_are_seen_in_cycles_and_not_in_times(self):
        slower = self.changed("slower", self.more(1.03))
        self.judged(slower, code=10, verdict="slower")
        result = self.verdict(self.CYCLES / "base", slower, "--times", code=12)
        self.assertEqual(self.rows(result, "measure"), dict.fromkeys(self.ROWS, "time"))
        self.assertNotIn("slower", self.rows(result).values())

    def test_what_takes_more_time_in_as_many_cycles_does_not_pass(self):
        result = self.judged(self.changed("clock", self.more(1.2, of=("latency_us_p50",))), code=10, verdict="slower")
        for row in result["rows"]:
            self.assertAlmostEqual(row["ratio"], 1, delta=0.01)
            self.assertIn("by its time", row["notes"][-1])

    def test_launches_without_cycles(self):
        def without(numbers):
            def change(row, number):
                if number in numbers:
                    row.update(cycles_p50=None, core_clock_mhz=None)
            return change
        result = self.judged(self.changed("one", without({3})), code=0, verdict="ok")
        self.assertIn("in 9 of 10 of NEW", result["rows"][0]["notes"][0])
        result = self.verdict(self.CYCLES / "base", self.changed("three", without({3, 5, 8})), code=0)
        self.assertEqual(self.rows(result, "measure"), dict.fromkeys(self.ROWS, "time"))

    def test_cycles_that_cannot_be_are_not_believed(self):
        for name, keys in (("few", {"cycles_p50": 1}), ("clock", {"core_clock_mhz": 1e300}), ("none", {"core_clock_mhz": None})):
            with self.subTest(name):
                result = self.verdict(self.CYCLES / "base", self.changed(name, lambda row, number: row.update(keys)), code=0)
                self.assertEqual(self.rows(result, "measure"), dict.fromkeys(self.ROWS, "time"))

    def test_cycles_of_two_machines_are_not_compared(self):
        result = self.verdict(self.CYCLES / "base", self.CYCLES / "new", "--across-machines", code=0)
        self.assertEqual(self.rows(result, "measure"), dict.fromkeys(self.ROWS, "time"))


if __name__ == "__main__":
    main()
