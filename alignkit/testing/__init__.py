"""The conformance suite: run it on a backend of your own, as alignkit's are.

`check_manifest`, `check_prox_solver` and `check_tilt_sampler` each give a report to print, and `python -m
alignkit.testing NAME` prints all that apply to an installed backend. `manifest_checks`, `prox_checks` and `tilt_checks`
give the same checks one by one:

    @pytest.mark.parametrize("check", prox_checks(MySolver), ids=str)
    def test_conformance(check):
        check()

A solver that takes other costs is examined on those as well by
`examples=[*prox_examples(), *displaced_examples(ak.costs)]`.

No engine and no test framework is needed. The problems are public too: `prox_examples`, `displaced_examples` and
`tilt_examples`.
"""

from alignkit.testing.conformance import Check, ConformanceError, Outcome, Promise, Report, Verdict
from alignkit.testing.displaced_examples import displaced_examples
from alignkit.testing.manifest_checks import ManifestPromise, check_manifest, manifest_checks
from alignkit.testing.prox_checks import ProxPromise, check_prox_solver, prox_checks
from alignkit.testing.prox_example import ProxExample
from alignkit.testing.prox_examples import prox_examples
from alignkit.testing.tilt_checks import ALLOWANCES, Allowance, TiltPromise, check_tilt_sampler, tilt_checks
from alignkit.testing.tilt_examples import TiltExample, tilt_examples

__all__ = [
    "ALLOWANCES",
    "Allowance",
    "Check",
    "ConformanceError",
    "ManifestPromise",
    "Outcome",
    "Promise",
    "ProxExample",
    "ProxPromise",
    "Report",
    "TiltExample",
    "TiltPromise",
    "Verdict",
    "check_manifest",
    "check_prox_solver",
    "check_tilt_sampler",
    "displaced_examples",
    "manifest_checks",
    "prox_checks",
    "prox_examples",
    "tilt_checks",
    "tilt_examples",
]
