"""The CI files: parsed, and their shell steps executed with stand-ins for what they call."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types
import unittest
import unittest.mock

from support import LAMINA, ROOT, Case, environment, main, tiny

CI = ROOT / "scripts" / "ci"

# A build makes a `lamina` that notes how it was called, and answers as the test asks.
CMAKE = r"""#!/usr/bin/env bash
echo "cmake $*" >>"$LOG"
[ "${FAIL_BUILD:-}" != 1 ] || exit 1
if [ "$1" = --build ]; then
  cat >"$2/lamina" <<'END'
#!/usr/bin/env bash
echo "lamina $*" >>"$LOG"
while [ $# -gt 1 ]; do
  if [ "$1" = -o ]; then
    mkdir "$2" && printf '{"verdict": "stand-in"}\n' >"$2/verdict.json"
    [ "${EMPTY:-}" = 1 ] || printf '| case | verdict |\n' >"$2/report.md"
  fi
  shift
done
exit "${AB_STATUS:-0}"
END
  chmod +x "$2/lamina"
else
  mkdir -p "$4"
fi
"""
NOTES = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$LOG"
[ "$(basename "$0")" != gh ] || [ -z "${GH_IDS:-}" ] || [[ "$*" != *paginate* ]] || printf '%s\\n' $GH_IDS
exit "${NOTE_STATUS:-0}"
"""


@contextlib.contextmanager
def chdir(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def yaml_python():
    """A Python that has PyYAML, which is a package of the system's, whichever Python runs this test."""
    return next((path for path in (sys.executable, "/usr/bin/python3") if subprocess.run(
        [path, "-c", "import yaml"], capture_output=True).returncode == 0), None)


def parse_yaml(path):
    """YAML 1.1 reads the key `on` as true, which JSON then has as a text."""
    script = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
    with open(path) as file:
        return json.loads(subprocess.run([yaml_python(), "-c", script], stdin=file, capture_output=True, check=True,
                                         text=True).stdout)


class WithRepository(Case):
    """A repository of two commits with this tree's scripts, on a branch that left main."""

    def setUp(self):
        super().setUp()
        self.repository, self.bin = self.folder / "repository", self.folder / "bin"
        self.repository.mkdir()
        self.bin.mkdir()
        for name, text in (("cmake", CMAKE), ("gh", NOTES), ("curl", NOTES), ("apt-get", NOTES)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self.log = self.folder / "log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "LAMINA_"))},
            "PATH": f"{self.bin}:{os.environ['PATH']}", "LOG": str(self.log), "LAMINA_NO_INSTALL": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": str(self.folder), "TMPDIR": str(self.folder),
            **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}}
        shutil.copytree(ROOT / "scripts", self.repository / "scripts")
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", "base")
        self.base = self.git("rev-parse", "HEAD")
        self.git("checkout", "--quiet", "-b", "change")
        (self.repository / "config.json").write_text(json.dumps(tiny()))
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", "change")
        self.head = self.git("rev-parse", "HEAD")
        # What others did on main since must not be measured.
        self.git("checkout", "--quiet", "main")
        self.git("commit", "--quiet", "--allow-empty", "-m", "others")
        self.main = self.git("rev-parse", "HEAD")
        self.git("checkout", "--quiet", "change")

    def git(self, *arguments):
        return subprocess.run(["git", *arguments], cwd=self.repository, env=self.environment, check=True, text=True,
                              capture_output=True).stdout.strip()

    def bash(self, script, **environment):
        self.log.write_text("")
        return subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], cwd=self.repository,
                              env={**self.environment, **environment}, capture_output=True, text=True, timeout=60)

    def said(self, program):
        return [line for line in self.log.read_text().splitlines() if line.startswith(program + " ")]


class Gate(WithRepository):
    def gate(self, *arguments, **environment):
        return self.bash(f"scripts/ci/gate.sh {' '.join(arguments)}", **environment)

    def test_builds_both_and_passes_the_verdict_on(self):
        for status in (0, 10, 11, 12):
            with self.subTest(status=status):
                result = self.gate("main", "config.json", "7", AB_STATUS=str(status), LAMINA_AB_ARGS="--limit 10")
                self.assertEqual(result.returncode, status, result.stderr)
                (call,) = self.said("lamina")
                base, new = re.fullmatch(
                    r"lamina ab --base (\S+) --new (\S+) config.json --launches 7 --limit 10 -o \S+/gate/ab",
                    call).groups()
                self.assertNotEqual(base, new)
                self.assertEqual(new, str(self.repository / "build-gate" / "lamina"))
                self.assertIn(f"comparing {self.base} with {self.head}", result.stderr)
                comment = (self.repository / "gate" / "comment.md").read_text()
                self.assertEqual(comment, "<!-- lamina-gate -->\n| case | verdict |\n")
                self.assertTrue((self.repository / "gate" / "verdict.json").exists())
                # The base's tree is gone.
                self.assertEqual(len(self.git("worktree", "list").splitlines()), 1)
                self.assertFalse(pathlib.Path(base).exists())

    def test_without_a_table_the_comment_says_so(self):
        self.assertEqual(self.gate("main", "config.json", "7").returncode, 0)
        self.assertEqual(self.gate("main", "config.json", "7", EMPTY="1", AB_STATUS="64").returncode, 64)
        comment = (self.repository / "gate" / "comment.md").read_text()
        self.assertTrue(comment.startswith("<!-- lamina-gate -->\n"), comment)
        self.assertIn("nothing was compared", comment)
        self.assertIn("exit code 64", comment)

    def test_trouble(self):
        self.assertEqual(self.gate("main", "config.json").returncode, 64)
        result = self.gate("nowhere", "config.json", "7")
        self.assertEqual(result.returncode, 64)
        self.assertIn("fetch the whole history", result.stderr)
        comment = self.repository / "gate" / "comment.md"
        self.assertIn("nothing was compared", comment.read_text())
        self.assertIn("exit code 64", comment.read_text())
        result = self.gate("main", "config.json", "7", FAIL_BUILD="1")
        self.assertEqual(result.returncode, 69)
        self.assertIn("exit code 69", comment.read_text())
        self.assertEqual(len(self.git("worktree", "list").splitlines()), 1)


class Workflows(WithRepository):
    def setUp(self):
        if yaml_python() is None:
            if os.environ.get("LAMINA_CI") == "1":
                self.fail("no PyYAML (Debian: python3-yaml)")
            self.skipTest("no PyYAML (Debian: python3-yaml)")
        super().setUp()

    def github(self, name, **environment):
        """Runs a step of the workflow, its expressions filled in."""
        values = {"github.event.pull_request.base.sha": self.main, "github.event.pull_request.head.sha": self.head,
                  "github.token": "token", "github.event.pull_request.number": "42",
                  "steps.compare.outputs.status": environment.get("STATUS_OF_COMPARE", "")}
        job = parse_yaml(CI / "github-actions.yml")["jobs"]["gate"]
        (step,) = [step for step in job["steps"] if step.get("name") == name]
        variables = {key: re.sub(r"\$\{\{ *(.*?) *\}\}", lambda match: values[match[1]], value)
                     for key, value in {**job["env"], **step.get("env", {})}.items()}
        return self.bash(step["run"], **{**variables, "GITHUB_REPOSITORY": "owner/name",
                                         "GITHUB_OUTPUT": str(self.folder / "output"),
                                         "GITHUB_STEP_SUMMARY": str(self.folder / "summary"), **environment})

    def test_github_workflow_is_what_github_takes(self):
        workflow = parse_yaml(CI / "github-actions.yml")
        self.assertIn("pull_request", workflow["true"])
        self.assertEqual(workflow["permissions"], {"contents": "read", "pull-requests": "write"})
        for job in workflow["jobs"].values():
            self.assertIn("runs-on", job)
            ids = {step.get("id") for step in job["steps"]}
            for step in job["steps"]:
                self.assertEqual(("run" in step) + ("uses" in step), 1, step)
                self.assertLessEqual(set(step), {"name", "id", "if", "uses", "with", "run", "env", "continue-on-error"})
                # A value put into a script's text could end its quotes: values come by the environment.
                self.assertNotIn("${{", step.get("run", ""))
                for used in re.findall(r"steps\.(\w+)\.", json.dumps(step)):
                    self.assertIn(used, ids)
            self.assertTrue((ROOT / job["env"]["CONFIG"]).exists())
        checkout = workflow["jobs"]["gate"]["steps"][0]
        self.assertEqual(checkout["with"]["fetch-depth"], 0)

    def test_github_steps(self):
        self.assertEqual(self.github("Install what the build needs").returncode, 0)
        result = self.github("Compare", AB_STATUS="10")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual((self.folder / "output").read_text(), "status=10\n")
        self.assertIn("| case |", (self.folder / "summary").read_text())
        self.assertIn("configs/gate.json --launches 15", self.said("lamina")[0])

        self.assertEqual(self.github("Comment").returncode, 0)
        self.assertEqual([line.split(" --jq")[0] for line in self.said("gh")], [
            "gh api --paginate repos/owner/name/issues/42/comments",
            "gh api --method POST repos/owner/name/issues/42/comments --field body=@gate/comment.md"])
        self.assertEqual(self.github("Comment", GH_IDS="7 8").returncode, 0)
        self.assertEqual(self.said("gh")[1],
                         "gh api --method PATCH repos/owner/name/issues/comments/7 --field body=@gate/comment.md")

        for status, code, word in (("0", 0, "Nothing"), ("12", 0, "::warning::"), ("10", 1, "::error::Something"),
                                   ("11", 1, "::error::Rows"), ("64", 1, "::error::"), ("", 1, "::error::")):
            result = self.github("Verdict", STATUS_OF_COMPARE=status)
            self.assertEqual(result.returncode, code, status)
            self.assertIn(word, result.stdout)

    def test_github_has_no_comment_to_write_where_nothing_was_compared(self):
        self.assertEqual(self.github("Comment").returncode, 0)
        self.assertEqual(self.said("gh"), [])

    def gitlab(self, **environment):
        job = parse_yaml(CI / "gitlab-ci.yml")["lamina-gate"]
        self.assertLessEqual(set(job), {"stage", "image", "rules", "resource_group", "timeout", "variables", "before_script",
                                        "script", "allow_failure", "artifacts"})
        self.assertEqual(job["allow_failure"], {"exit_codes": [12]})
        script = "\n".join(job["before_script"] + job["script"])
        return self.bash(script, **job["variables"], CI_MERGE_REQUEST_DIFF_BASE_SHA=self.main, CI_PROJECT_ID="3",
                         CI_API_V4_URL="https://gitlab.example/api/v4", CI_MERGE_REQUEST_IID="5", **environment)

    def test_gitlab_job(self):
        for status in (0, 10, 12):
            result = self.gitlab(AB_STATUS=str(status), LAMINA_GITLAB_TOKEN="secret")
            self.assertEqual(result.returncode, status, result.stderr)
            (call,) = self.said("curl")
            self.assertIn("body@gate/comment.md https://gitlab.example/api/v4/projects/3/merge_requests/5/notes", call)
            self.assertNotIn("secret", result.stdout + result.stderr)
        # Without a token, or where the note is refused, the verdict still counts.
        self.assertEqual(self.gitlab(AB_STATUS="10").returncode, 10)
        self.assertEqual(self.said("curl"), [])


class StandIn:
    """What of ReFrame the check uses. Files are read from where the process stands, as ReFrame does."""

    @staticmethod
    def modules():
        reframe = types.ModuleType("reframe")
        reframe.simple_test = lambda cls: cls
        reframe.RunOnlyRegressionTest = object
        builtins = types.ModuleType("reframe.core.builtins")
        builtins.variable = lambda kind, value=None: value
        builtins.run_before = lambda stage: lambda function: function
        builtins.sanity_function = lambda function: function
        sanity = types.ModuleType("reframe.utility.sanity")

        def extractall(pattern, file, tag, conv=None):
            found = re.finditer(pattern, pathlib.Path(file).read_text(), re.MULTILINE)
            if isinstance(tag, tuple):
                return [tuple(match[name] for name in tag) for match in found]
            return [(conv or str)(match[tag]) for match in found]

        def assert_found(pattern, file, msg=None):
            if not re.search(pattern, pathlib.Path(file).read_text(), re.MULTILINE):
                raise AssertionError(msg)
            return True

        sanity.extractall = extractall
        # Deferred: called where performance is judged.
        sanity.extractsingle = lambda *arguments: lambda: extractall(*arguments)[0]
        sanity.assert_found = assert_found
        sanity.all = all
        sanity.evaluate = lambda value: value
        sanity.make_performance_function = lambda value, unit: (value, unit)
        core, utility = types.ModuleType("reframe.core"), types.ModuleType("reframe.utility")
        utility.sanity = sanity
        utility.osext = osext = types.ModuleType("reframe.utility.osext")
        osext.change_dir = chdir
        return {"reframe": reframe, "reframe.core": core, "reframe.core.builtins": builtins,
                "reframe.utility": utility, "reframe.utility.sanity": sanity, "reframe.utility.osext": osext}


class Reframe(Case):
    def check(self):
        with unittest.mock.patch.dict(sys.modules, StandIn.modules()):
            scope = {"__name__": "reframe_lamina"}
            exec(compile((CI / "reframe_lamina.py").read_text(), "reframe_lamina.py", "exec"), scope)
        return scope["LaminaCheck"]()

    def run_job(self, check):
        check.lamina = LAMINA
        check.prepare()
        lines = [" ".join([check.executable, *check.executable_opts]), *check.postrun_cmds]
        result = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=self.folder, env=environment(), capture_output=True,
                                text=True, timeout=120)
        check.stagedir, check.stdout = str(self.folder), "rfm_job.out"
        (self.folder / check.stdout).write_text(result.stdout)

    def test_takes_the_figures_of_a_run(self):
        check = self.check()
        check.config = str(self.write("tiny.json", tiny(scheme={"type": "pruned", "pattern": "2:4"})))
        self.run_job(check)
        # The stage's folder is where sanity is judged, not where hooks run.
        with chdir(self.folder):
            self.assertTrue(check.every_row_is_ok())
        check.take_figures()
        records = self.records(self.folder / "out")
        with chdir(self.folder):
            figures = {name: (value(), unit) for name, (value, unit) in check.perf_variables.items()}
        self.assertEqual(figures, {
            f"{record['case']} {key}".replace(":", "-"): (record[key], unit) for record in records
            for key, unit in (("latency_us_p50", "us"), ("tokens_per_s", "tokens/s"))})

    def test_a_run_that_fails_is_no_sane_one(self):
        check = self.check()
        check.config = str(self.write("bad.json", "{}"))
        self.run_job(check)
        with chdir(self.folder), self.assertRaisesRegex(AssertionError, "not ok"):
            check.every_row_is_ok()


if __name__ == "__main__":
    main()
