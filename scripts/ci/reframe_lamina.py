"""A ReFrame check: runs a config and takes its figures of merit, each case's median time and rate.

    reframe -c scripts/ci/reframe_lamina.py -r -S lamina=$HOME/lamina/bin/lamina -S config=$PWD/configs/quickstart.json

References are a site's own: a class that derives from this one sets `reference`. Written for ReFrame 4:
https://reframe-hpc.readthedocs.io/en/stable/regression_test_api.html
"""

import re

import reframe as rfm
import reframe.utility.osext as osext
import reframe.utility.sanity as sn
from reframe.core.builtins import run_before, sanity_function, variable

# As `lamina export --format fom` writes them: FOM CASE KEY VALUE UNIT.
FOM = r'^FOM (?P<case>\S+) (?P<key>\S+) (?P<value>\S+) (?P<unit>\S+)$'
TRACKED = ('latency_us_p50', 'tokens_per_s')


@rfm.simple_test
class LaminaCheck(rfm.RunOnlyRegressionTest):
    """Every row of a config is ok, and none took longer than the site's references."""

    descr = 'Compressed layers of language models'
    valid_systems = ['*']
    valid_prog_environs = ['*']
    lamina = variable(str, value='lamina')
    config = variable(str, value='quickstart.json')

    @run_before('run')
    def prepare(self):
        self.executable = self.lamina
        self.executable_opts = ['run', self.config, '-o', 'out']
        # The run's exit code ends the job: what failed is in no export.
        self.postrun_cmds = ['status=$?', f'{self.lamina} export out --format fom',
                             'echo "LAMINA EXIT $status"']

    @sanity_function
    def every_row_is_ok(self):
        return sn.all([sn.assert_found(r'^LAMINA EXIT 0$', self.stdout, msg='a row is not ok; see stdout'),
                       sn.assert_found(FOM, self.stdout, msg='no row has a time')])

    @run_before('performance')
    def take_figures(self):
        # The output's name is relative to the stage's folder, where hooks do not run.
        with osext.change_dir(self.stagedir):
            figures = sn.evaluate(sn.extractall(FOM, self.stdout, ('case', 'key', 'value', 'unit')))
        self.perf_variables = {}
        for case, key, _, unit in figures:
            if key in TRACKED:
                pattern = rf'^FOM {re.escape(case)} {key} (?P<value>\S+) '
                # A colon would part a reference's scope from its name.
                self.perf_variables[f'{case} {key}'.replace(':', '-')] = sn.make_performance_function(
                    sn.extractsingle(pattern, self.stdout, 'value', float), unit)
