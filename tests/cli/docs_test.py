"""Documentation that can be held to the code: record keys, config keys, links, and the files it names."""

import json
import os
import re
import unittest
from pathlib import Path

ROOT = Path(os.environ.get("LAMINA_ROOT", Path(__file__).resolve().parents[2]))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def page(name):
    return (ROOT / "docs" / name).read_text()


def code_words(text):
    """Every word that stands alone in backticks."""
    return set(re.findall(r"`([A-Za-z_$][A-Za-z0-9_$*]*)`", text))


def record_keys():
    source = (ROOT / "bench" / "record_keys.cpp").read_text()
    return re.findall(r'^\s*\{"([a-z0-9_]+)",\s*Unit::', source, re.MULTILINE)


def config_keys(schema):
    """The names of all properties, at any depth."""
    if isinstance(schema, list):
        return set().union(*map(config_keys, schema)) if schema else set()
    if not isinstance(schema, dict):
        return set()
    properties = schema.get("properties")
    names = set(properties) if isinstance(properties, dict) else set()
    return names.union(*map(config_keys, schema.values()))


class Docs(unittest.TestCase):
    def test_every_record_key_is_explained(self):
        keys = record_keys()
        self.assertGreater(len(keys), 60)
        self.assertEqual(sorted(set(keys) - code_words(page("record.md"))), [])

    def test_no_record_key_is_made_up(self):
        text = page("record.md")
        rows = re.findall(r"^\| (`[^|]*`) \|", text[text.index("## Identity"):text.index("## environment.json")],
                          re.MULTILINE)
        named = set().union(*map(code_words, rows))
        self.assertGreater(len(named), 50)
        self.assertEqual(sorted(named - set(record_keys()) - {"scheme_*"}), [])

    def test_every_config_key_is_explained(self):
        keys = config_keys(json.loads((ROOT / "configs" / "schema.json").read_text()))
        self.assertGreater(len(keys), 30)
        self.assertEqual(sorted(keys - code_words(page("config.md")) - {"type"}), [])

    def test_every_environment_variable_is_explained(self):
        names = set()
        for folder in ("kernels", "distributed", "bench"):
            for file in (ROOT / folder).rglob("*.cpp"):
                names |= set(re.findall(r'getenv\("(LAMINA_[A-Z_]+)"\)', file.read_text()))
        self.assertTrue(names)
        self.assertEqual(sorted(names - code_words(page("config.md"))), [])

    def test_every_scheme_is_explained(self):
        register = (ROOT / "kernels" / "register.cpp").read_text()
        schemes = re.findall(r"(\w+)_scheme\(\)", register)
        self.assertGreater(len(schemes), 4)
        for scheme in schemes:
            self.assertRegex(page("schemes.md"), rf"(?m)^## {scheme}$")

    def test_links_lead_somewhere(self):
        links = 0
        for file in PAGES:
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text()):
                if not target.startswith("http"):
                    links += 1
                    self.assertTrue((file.parent / target).exists(), f"{file.name}: {target}")
        self.assertGreater(links, 10)

    def test_files_that_are_named_exist(self):
        pattern = r"(?<![\w/.<~-])((?:bench|kernels|distributed|scripts|configs|tests|cmake)/[\w./-]*\.(?:cpp|hpp|inc|sh|json|py|sbatch|cmake))\b"
        named = 0
        for file in PAGES:
            for path in re.findall(pattern, file.read_text()):
                if "NAME" not in path:
                    named += 1
                    self.assertTrue((ROOT / path).exists(), f"{file.name}: {path}")
        self.assertGreater(named, 20)


def tables(text):
    """What all rows share, and every table below its heading, of a table as the program prints it."""
    lines = [line for line in text.splitlines() if line.startswith(("All rows:", "### ", "|"))]
    headings = [i for i, line in enumerate(lines) if line.startswith("### ")] + [len(lines)]
    return lines[:headings[0]], {lines[a]: lines[a + 1:b] for a, b in zip(headings, headings[1:])}


class Published(unittest.TestCase):
    """The run that README shows."""

    def setUp(self):
        readme = (ROOT / "README.md").read_text()
        self.shown = readme.split("<!-- quickstart table -->")[1].split("<!-- /quickstart table -->")[0]
        (link,) = re.findall(r"\]\((results/[^)]*/quickstart/table\.md)\)", self.shown)
        self.run = ROOT / Path(link).parent

    def test_readme_shows_its_table(self):
        common, shown = tables(self.shown)
        all_common, published = tables((self.run / "table.md").read_text())
        self.assertTrue(common)
        self.assertEqual(common, all_common)
        self.assertTrue(shown)
        for heading, rows in shown.items():
            self.assertGreater(len(rows), 2)
            self.assertEqual(rows, published.get(heading), heading)

    def test_it_is_of_a_commit_and_of_this_program(self):
        environment = json.loads((self.run / "environment.json").read_text())
        self.assertRegex(environment["lamina"]["commit"], r"^[0-9a-f]+$")
        # Each group has a dense row of each kernel for dense weights, as every run does now.
        groups = {}
        for line in (self.run / "records.jsonl").read_text().splitlines():
            record = json.loads(line)
            if record["scheme"] == "dense-f32":
                groups.setdefault((record["layer"], record["tokens"], record["shard"]), set()).add(record["kernel"])
        self.assertEqual(len(groups), 12)
        self.assertEqual(set(map(frozenset, groups.values())), {frozenset({"native", "openblas"})})

    def test_every_row_is_ok(self):
        records = [json.loads(line) for line in (self.run / "records.jsonl").read_text().splitlines()]
        self.assertGreater(len(records), 10)
        self.assertEqual({record["case"]: record["status"] for record in records if record["status"] != "ok"}, {})


if __name__ == "__main__":
    unittest.main()
