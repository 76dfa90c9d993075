"""Manifests broken on purpose, as distributions on sys.path, each caught by the promise it breaks."""

from __future__ import annotations

import sys
import textwrap

import pytest

from alignkit.registry import Manifest
from alignkit.testing import ManifestPromise, check_manifest, manifest_checks

P = ManifestPromise

BODY = """
    from alignkit.registry import Manifest
    from alignkit.tilting.exact import ExactTiltSampler as Sampler

    def sample(law, n, *, seed, progress=None):
        return law.sample(n, seed=seed)

    def sample_without_a_seed(law, n):
        return law.sample(n, seed=0)

    class Half:
        def bid(self, program):
            raise NotImplementedError

    class Needy:
        def __init__(self, device):
            self.device = device

    table = {}
"""
RIGHT = (
    'Manifest(name="mine", engines=("numpy",), install="pip install mine", tilt_sampler="MODULE:Sampler", '
    'base_sampler="MODULE:sample", lowering="MODULE:table", base_laws={"one": "MODULE:sample"})'
)

#: A manifest, and the promises that it breaks, all of them and no others.
MUTANTS = {
    "another name": (RIGHT.replace('name="mine"', 'name="yours"'), {P.REGISTERED}),
    "no name": (RIGHT.replace('name="mine"', 'name=""'), {P.FIELDS, P.REGISTERED}),
    "engines as a string": (RIGHT.replace('("numpy",)', '"numpy"'), {P.FIELDS, P.ENGINES}),
    "an engine without a command": (
        RIGHT.replace('("numpy",)', '("xml.dom",)').replace("pip install mine", ""),
        {P.FIELDS},
    ),
    "an engine that is not there": (RIGHT.replace('("numpy",)', '("numpy", "no_such_engine")'), {P.ENGINES}),
    "part of an engine that is not there": (RIGHT.replace('("numpy",)', '("no_such.engine",)'), {P.ENGINES}),
    "nothing to offer": ('Manifest(name="mine")', {P.FIELDS}),
    "a path without an attribute": (RIGHT.replace("MODULE:table", "MODULE"), {P.PATHS, P.CAPABILITIES}),
    "a path to nowhere": (RIGHT.replace("MODULE:table", "MODULE:nowhere"), {P.PATHS, P.CAPABILITIES}),
    "a path to no module": (RIGHT.replace("MODULE:table", "nowhere:table"), {P.PATHS, P.CAPABILITIES}),
    "a base law that is not there": (
        RIGHT.replace('"one": "MODULE:sample"', '"one": "MODULE:zzz"'),
        {P.PATHS, P.CAPABILITIES},
    ),
    "a base law that is a table": (RIGHT.replace('"one": "MODULE:sample"', '"one": "MODULE:table"'), {P.CAPABILITIES}),
    "a sampler without open": (RIGHT.replace("MODULE:Sampler", "MODULE:Half"), {P.CAPABILITIES}),
    "a sampler with arguments": (RIGHT.replace("MODULE:Sampler", "MODULE:Needy"), {P.CAPABILITIES}),
    "a base sampler without a seed": (
        RIGHT.replace('MODULE:sample"', 'MODULE:sample_without_a_seed"', 1),
        {P.CAPABILITIES},
    ),
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install the distribution "mine" on sys.path for one test."""

    def add(manifest: str, body: str = BODY) -> None:
        module = "alignkit_conformance_mine"
        source = textwrap.dedent(body) + f"\nmanifest = {manifest}\n"
        (tmp_path / f"{module}.py").write_text(source.replace("MODULE", module))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[alignkit.backends]\nmine = {module}:manifest\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield add
    sys.modules.pop("alignkit_conformance_mine", None)


def broken(manifest):
    return {error.promise for error in check_manifest(manifest).broken}


def test_what_is_right_conforms(install):
    install(RIGHT)
    assert check_manifest("mine").conforms, check_manifest("mine")


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught_by_the_promise_they_break(install, name):
    manifest, promises = MUTANTS[name]
    install(manifest)
    assert broken("mine") == promises, check_manifest("mine")


def test_an_engine_imported_by_the_manifest_is_caught(install):
    # A package of the standard library that alignkit does not import stands for the engine.
    install(RIGHT.replace('("numpy",)', '("wsgiref",)'), "    import wsgiref\n" + BODY)
    report = check_manifest("mine")
    assert {error.promise for error in report.broken} == {P.LAZY}
    assert "imported wsgiref" in str(report)


def test_a_manifest_that_cannot_be_loaded_breaks_everything(install):
    install("1 / 0")
    assert broken("mine") == set(P)
    assert "ZeroDivisionError" in str(check_manifest("mine"))


def test_a_name_that_nobody_registered():
    report = check_manifest("no such backend")
    assert not report.conforms and "there are" in str(report) and "exact" in str(report)


def test_a_manifest_that_is_not_installed():
    loose = Manifest(name="loose", engines=("numpy",), tilt_sampler="alignkit.tilting.exact:ExactTiltSampler")
    assert broken(loose) == {P.REGISTERED, P.LAZY}


def test_every_promise_has_a_mutant():
    assert set().union(*(promises for _, promises in MUTANTS.values())) | {P.LAZY} == set(P)
    assert {check.promise for check in manifest_checks("exact")} == set(P)
