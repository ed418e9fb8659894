"""A case's past: added run by run, read back, drawn, and held against what files can contain."""

import json
import re
import xml.etree.ElementTree as ElementTree

from support import Case, lamina, main, tiny

SVG = "{http://www.w3.org/2000/svg}"


def point(commit, us, **changes):
    return {"history_version": 1, "machine": "m", "case": "layer/a", "commit": commit, "date": "2026-01-02T03:04:05Z",
            "run_id": commit, "launch_id": commit, "latency_us_p50": us, "latency_us_ci_low": None,
            "latency_us_ci_high": None, **changes}


def lines(points):
    return "".join(json.dumps(item, separators=(",", ":")) + "\n" for item in points)


def stepped():
    """Slower by a tenth from c12 on."""
    return [point(f"c{i}", (100 if i < 12 else 110) + i % 3 * 0.5) for i in range(24)]


class History(Case):
    def run_of(self, name, **changes):
        out = self.folder / name
        self.run_ok("run", self.write(f"{name}.json", tiny(**changes)), "-o", out)
        return out

    def test_runs_are_added_once(self):
        file = self.folder / "history.jsonl"
        one, two = self.run_of("one"), self.run_of("two", scheme=[{"type": "int8"}, {"type": "dense"}])
        rows = len(self.records(one)) + len(self.records(two))
        result = self.run_ok("history", "add", one, two, "--file", file, "--commit", "abc")
        self.assertIn(f"{rows} rows added", result.stdout)
        before = file.read_bytes()
        points = [json.loads(line) for line in before.decode().splitlines()]
        self.assertEqual([item["latency_us_p50"] for item in points],
                         [record["latency_us_p50"] for record in self.records(one) + self.records(two)])
        self.assertEqual({item["commit"] for item in points}, {"abc"})
        environment = json.loads((one / "environment.json").read_text())
        self.assertIn(environment["machine"]["host"], points[0]["machine"])
        result = self.run_ok("history", "add", one, "--file", file, "--commit", "abc")
        self.assertIn("0 rows added", result.stdout)
        self.assertIn("were in it already", result.stdout)
        self.run_ok("history", "add", one, "--file", file, "--machine", "elsewhere", "--commit", "abc")
        self.assertTrue(file.read_bytes().startswith(before))
        shown = self.run_ok("history", "show", file).stdout
        self.assertIn("### elsewhere", shown)
        self.assertIn(points[0]["case"], shown)

    def test_the_commit_is_the_programs(self):
        file = self.folder / "history.jsonl"
        one = self.run_of("one")
        self.run_ok("history", "add", one, "--file", file)
        environment = json.loads((one / "environment.json").read_text())
        self.assertEqual(json.loads(file.read_text().splitlines()[0])["commit"], environment["lamina"]["commit"])
        (one / "environment.json").unlink()
        result = lamina("history", "add", one, "--file", self.folder / "other.jsonl")
        self.assertEqual(result.returncode, 64)
        self.assertIn("--machine NAME", result.stderr)
        self.assertFalse((self.folder / "other.jsonl").exists())

    def test_a_change_is_found_and_drawn(self):
        file, svg = self.write("history.jsonl", lines(stepped())), self.folder / "past.svg"
        shown = self.run_ok("history", "show", file).stdout
        self.assertRegex(shown, r"layer/a +\| +24 \|.*\| +1 \| +\+10\.0 % \[\+9\.\d %, \+10\.\d %\] \| +c12 \|")
        one = self.run_ok("history", "show", file, "--case", "layer/a", "--svg", svg).stdout
        self.assertEqual(len([line for line in one.splitlines() if line.startswith("| c")]), 25)
        self.assertRegex(one, r"Changed by \+10\.0 % \[.*\] at c12\.")
        root = ElementTree.parse(svg).getroot()
        self.assertEqual(root.tag, SVG + "svg")
        self.assertEqual(len(root.findall(SVG + "circle")), 24)
        texts = [element.text for element in root.findall(SVG + "text")]
        self.assertIn("+10.0 % at c12", texts)
        for commit in ("c0", "c12", "c23"):
            self.assertIn(commit, texts)
        # The same file, the same picture.
        first = svg.read_bytes()
        self.run_ok("history", "show", file, "--case", "layer/a", "--svg", svg)
        self.assertEqual(svg.read_bytes(), first)

    def test_names_cannot_break_out(self):
        evil = "</text><script>alert(1)</script>&\"'|\x1b[2J\u202e\uffff\n# head"
        points = [{**item, "commit": evil, "case": evil, "machine": evil} for item in stepped()]
        file, svg = self.write("history.jsonl", lines(points)), self.folder / "past.svg"
        result = self.run_ok("history", "show", file, "--case", evil, "--svg", svg)
        ElementTree.parse(svg)  # well-formed
        self.assertNotIn("<script>", svg.read_text())
        for text in (result.stdout, svg.read_text(), self.run_ok("history", "show", file).stdout):
            self.assertIsNone(re.search("[\x00-\x09\x0b-\x1f\u202e]", text))
            self.assertNotIn("\n# head", text)

    def test_a_torn_last_line_is_reported(self):
        whole = lines(stepped())
        torn = whole + whole[:70]
        file = self.write("history.jsonl", torn)
        result = self.run_ok("history", "show", file)
        self.assertIn("a torn last line (70 bytes)", result.stderr)
        self.assertIn("skipped", result.stderr)
        self.assertRegex(result.stdout, r"layer/a +\| +24 \|")
        self.assertEqual(file.read_text(), torn)
        one = self.run_of("one")
        result = self.run_ok("history", "add", one, "--file", file)
        self.assertIn("a torn last line (70 bytes)", result.stderr)
        self.assertIn("cut off", result.stderr)
        self.assertTrue(file.read_text().startswith(whole))
        self.assertEqual(len(file.read_text().splitlines()), 24 + len(self.records(one)))
        # A whole line whose newline was lost stays.
        file.write_text(whole[:-1])
        self.assertEqual(self.run_ok("history", "add", one, "--file", file).stderr, "")
        self.assertTrue(file.read_text().startswith(whole))

    def test_hostile_files_are_errors(self):
        good, one = lines(stepped()), self.run_of("one")
        table = {
            good.replace("100.0", "NaN", 1): "history.jsonl:1: ",
            good.replace("100.5", "1e300", 1): "history.jsonl:2: latency_us_p50: expected a number of microseconds",
            good.replace("101.0", "-5", 1): "history.jsonl:3: latency_us_p50",
            good.replace("100.5", '"fast"', 1): "history.jsonl:2: latency_us_p50",
            good.replace('"c3"', "[]", 1): "history.jsonl:4: commit: expected a text",
            good + "\n" + good: "history.jsonl:25: ",
            good + "[" * 100000 + "\n": "history.jsonl:25: ",
            "my notes": "history.jsonl:1: ",
            '{"schema_version":1,"workload":"layer"}\n': "history_version: expected 1",
        }
        for text, message in table.items():
            file = self.write("history.jsonl", text)
            for arguments in (("show", file), ("add", one, "--file", file)):
                with self.subTest(message=message, command=arguments[0]):
                    result = lamina("history", *arguments)
                    self.assertEqual((result.returncode, result.stdout), (64, ""))
                    self.assertIn(message, result.stderr)
                    self.assertEqual(file.read_text(), text)

    def test_what_cannot_be_written_is_a_failure(self):
        one = self.run_of("one")
        result = lamina("history", "add", one, "--file", self.folder / "none" / "history.jsonl")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("No such file or directory", result.stderr)
        result = lamina("history", "add", one, self.folder / "two", "--file", self.folder / "history.jsonl")
        self.assertEqual((result.returncode, result.stdout), (64, ""))
        self.assertFalse((self.folder / "history.jsonl").exists())

    def test_bad_use(self):
        file = self.write("history.jsonl", lines(stepped() + [point("x", 5, machine="n")]))
        for arguments, message in (
                ((self.folder / "none.jsonl",), "none.jsonl"),
                ((self.folder,), "expected a regular file"),
                ((file, "--case", "layer/b"), "did you mean `layer/a`?"),
                ((file, "--machine", "o"), "--machine: expected one of the file's"),
                ((file, "--case", "layer/a", "--svg", self.folder / "a.svg"), "name one by --machine")):
            result = lamina("history", "show", *arguments)
            self.assertEqual((result.returncode, result.stdout), (64, ""), result.stderr)
            self.assertIn(message, result.stderr)
        result = lamina("history", "show", file, "--case", "layer/a", "--machine", "n", "--svg", self.folder / "no" / "a.svg")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.run_ok("history", "show", self.write("empty.jsonl", "")).stdout, "No points.\n")


if __name__ == "__main__":
    main()
