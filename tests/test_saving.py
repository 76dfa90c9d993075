"""Saved results: a process of its own draws the same samples from them, and files that are not right are refused."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import alignkit as ak
from alignkit.errors import BackendUnavailableError, ParameterError, SavedResultError, ShapeError, StaleFitError
from alignkit.expressions import ENTRIES
from alignkit.saving.container import read_file, write_file
from alignkit.saving.kinds import kinds
from alignkit.saving.records import Reader, Writer
from alignkit.saving.result import read_account
from alignkit.tilting.law_request import Measured
from alignkit.transport.fitted import FittedTransport
from alignkit.transport.randomised import RandomisedMap
from tests import saved_problems
from tests.saved_problems import CASES, ROWS, SEED, file_of


def kind_of(fitted):
    """The class of a sampler with that of what is in it."""
    if isinstance(fitted, Measured):
        return f"Measured({type(fitted.sampler).__name__})"
    has_coin = isinstance(fitted, FittedTransport) and isinstance(fitted.map, RandomisedMap)
    return f"{type(fitted).__name__}{'(RandomisedMap)' if has_coin else ''}"


def reread(found):
    """An object by way of a file's records."""
    writer = Writer(kinds())
    value = json.loads(json.dumps([writer.value(found), writer.records]))
    return Reader(kinds(), value[1], writer.arrays, outside=writer.outside).value(value[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every case solved and saved here, then loaded and drawn from in another process."""
    place = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("alignkit.problem.draws_wanted", lambda base, seconds: 256)
        for name, case in CASES.items():
            aligned = case.make().solve(seed=0, **case.options)
            assert kind_of(aligned.fitted) == case.fit, name
            aligned.save(file_of(place, name))
            np.save(place / f"{name} before.npy", aligned.sample(ROWS, seed=SEED))
            (place / f"{name} before.json").write_text(
                json.dumps({"plan": str(aligned.plan), "result": str(aligned), "seed": 0})
            )
    command = [sys.executable, "-m", "tests.saved_problems", str(place)]
    # In the same environment: sums over other numbers of threads may round differently.
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    return place


class TestAnotherProcess:
    @pytest.mark.parametrize("name", CASES)
    def test_it_draws_the_same_samples_bit_by_bit(self, folder, name):
        before, after = np.load(folder / f"{name} before.npy"), np.load(folder / f"{name}.npy")
        assert before.dtype == after.dtype and before.tobytes() == after.tobytes()

    @pytest.mark.parametrize("name", CASES)
    def test_it_shows_the_same_plan_certificate_and_status(self, folder, name):
        before, after = (json.loads((folder / f"{name}{end}.json").read_text()) for end in (" before", ""))
        assert before == after

    def test_every_sampler_is_among_them(self):
        from alignkit.saving.fits import _MADE

        found = " ".join(case.fit for case in CASES.values())
        assert all(name in found for name in _MADE)


class TestWhatAResultCanDoOnceLoaded:
    def test_rows_are_moved_alike(self, folder):
        x = np.random.default_rng(0).normal(size=(9, saved_problems.D))
        moved = [ak.load(file_of(folder, "a concave reward")).transport(x) for _ in range(2)]
        problem = CASES["a concave reward"].make()
        assert np.array_equal(moved[0], problem.solve(seed=5).transport(x)) and np.array_equal(*moved)

    def test_its_account_says_what_was_asked_of_the_law(self, folder):
        explanation = read_account(file_of(folder, "moments in closed form"))["explanation"]
        assert explanation == CASES["moments in closed form"].make().explain()
        assert "subject to" in explanation and "log(E(x[1]) + 6)" in explanation

    def test_it_is_reported_and_saved_again(self, folder, tmp_path):
        aligned = ak.load(file_of(folder, "moments in closed form"))
        assert [str(one) for one in aligned.declared.constraints] == ["E([2×6 constant] @ x) == [2 constant]"]
        assert "log(E(x[1]) + 6)" in str(aligned.declared.reward) and aligned.declared.seconds > 0
        aligned.save(tmp_path / "again")
        assert np.array_equal(ak.load(tmp_path / "again").sample(5, seed=0), aligned.sample(5, seed=0))

    def test_its_problem_can_be_declared_again(self, folder):
        aligned = ak.load(file_of(folder, "tilts of a learned network"), base=saved_problems.learned())
        problem = ak.Problem(aligned.declared.reward, aligned.plan.base, aligned.plan.closeness)
        assert problem.compile().route == aligned.plan.route

    def test_it_goes_stale_with_the_parameters_of_the_problem_it_was_given(self, folder):
        problem = CASES["the same parameters"].make()
        aligned = ak.load(file_of(folder, "the same parameters"), problem=problem)
        aligned.sample(1, seed=0)
        problem.closeness.weight.value = 3.0
        with pytest.raises(StaleFitError, match="price"):
            aligned.sample(1, seed=0)
        with pytest.raises(StaleFitError, match="price"):
            aligned.save("nowhere")

    def test_a_problem_may_be_given_that_is_not_needed(self, folder):
        problem = CASES["moments by quadrature"].make()
        aligned = ak.load(file_of(folder, "moments by quadrature"), problem=problem)
        assert aligned.plan.base is problem.base

    def test_it_is_put_on_another_device(self, folder):
        path, base = file_of(folder, "tilts of a learned network"), saved_problems.learned()
        assert ak.load(path, base=base).plan.request.device == "auto"
        aligned = ak.load(path, base=base, device="cpu")
        assert aligned.plan.request.device == aligned.fitted.path.target.program.device == "cpu"
        assert np.array_equal(aligned.sample(ROWS, seed=SEED), np.load(folder / "tilts of a learned network.npy"))
        with pytest.raises(ParameterError, match="abacus"):
            ak.load(path, base=base, device="abacus")


class TestWhatAFileCannotHold:
    def test_a_network_is_asked_for(self, folder):
        with pytest.raises(ParameterError, match="'learned' is a Denoiser") as caught:
            ak.load(file_of(folder, "tilts of a learned network"))
        assert "base=base" in caught.value.ways_out[0]

    def test_another_network_is_told_by_its_draws(self, folder):
        other = saved_problems.learned(ak.base.GaussianMixture([0.5, 0.5], saved_problems.MEANS + 0.2, 0.4))
        with pytest.raises(ParameterError, match="draws differ by"):
            ak.load(file_of(folder, "tilts of a learned network"), base=other)

    @pytest.mark.parametrize(
        ("changed", "error"), [({"sigma_max": 70.0}, ParameterError), ({"exact": True}, ParameterError)]
    )
    def test_another_declaration_of_it_is_named(self, folder, changed, error):
        options = saved_problems.EDM | {"name": "learned"} | changed
        other = ak.base.Denoiser(saved_problems.MIXTURE.denoise, (saved_problems.D,), **options)
        with pytest.raises(error, match=next(iter(changed))):
            ak.load(file_of(folder, "tilts of a learned network"), base=other)

    def test_another_shape_is_named(self, folder):
        with pytest.raises(ShapeError, match=r"\(6,\), and 'Gaussian' has \(1,\)"):
            ak.load(file_of(folder, "tilts of a learned network"), base=saved_problems.NORMAL)
        with pytest.raises(ParameterError, match=r"base law of ak\.base"):
            ak.load(file_of(folder, "tilts of a learned network"), base=lambda x, sigma: x)

    def test_a_law_that_the_file_holds_may_be_given_if_it_is_the_same(self, folder):
        path = file_of(folder, "one tilt")
        assert ak.load(path, base=saved_problems.GAUSSIAN).plan.base is saved_problems.GAUSSIAN
        with pytest.raises(ParameterError, match="not the one that was saved"):
            ak.load(path, base=ak.base.Gaussian(np.zeros(saved_problems.D), 1.0))

    @pytest.mark.parametrize("name", ["a function with a Lipschitz constant", "a linear operator", "a black box"])
    def test_a_function_is_asked_for(self, folder, name):
        with pytest.raises(ParameterError, match="which a file cannot") as caught:
            ak.load(file_of(folder, name))
        assert "problem=problem" in caught.value.ways_out[0]

    @pytest.mark.parametrize("name", ["a function with a Lipschitz constant", "a black box"])
    def test_another_function_is_told_by_its_values(self, folder, name, monkeypatch):
        for function in ("wave", "brightness"):
            other = (lambda x: 2 * x[:, 0]) if function == "wave" else (lambda x: x[:, 1])
            other.__name__ = function
            monkeypatch.setattr(saved_problems, function, other)
        with pytest.raises(ParameterError, match="not the one that was saved"):
            ak.load(file_of(folder, name), problem=CASES[name].make())

    def test_another_problem_is_refused(self, folder):
        path = file_of(folder, "the same parameters")
        problem = CASES["the same parameters"].make()
        problem.closeness.weight.value = 3.0
        with pytest.raises(ParameterError, match="its numbers differ, in a Parameter"):
            ak.load(path, problem=problem)
        with pytest.raises(ParameterError, match="the file has"):
            ak.load(path, problem=CASES["one tilt"].make())
        with pytest.raises(ParameterError, match="problem= or base="):
            ak.load(path, problem=problem, base=problem.base)
        with pytest.raises(ParameterError, match=r"ak\.Problem, not int"):
            ak.load(path, problem=3)

    def test_an_operator_that_leads_to_other_coordinates_is_refused(self, folder, monkeypatch):
        from alignkit.expressions import Subspace

        turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
        embed = Subspace.embed
        monkeypatch.setattr(Subspace, "embed", lambda self, u: embed(self, u @ turned if u.shape == (3, 3) else u))
        with pytest.raises(SavedResultError, match="other coordinates"):
            ak.load(file_of(folder, "a linear operator under KL"), problem=CASES["a linear operator under KL"].make())

    def test_a_backend_that_is_not_installed_is_named(self, folder, monkeypatch):
        monkeypatch.setattr("alignkit.registry.installed_backends", tuple)
        with pytest.raises(BackendUnavailableError, match="'exact'"):
            ak.load(file_of(folder, "few tilts"))

    def test_a_sampler_of_another_kind_is_refused(self, folder, tmp_path):
        aligned = ak.load(file_of(folder, "one tilt"))
        with pytest.raises(ParameterError, match="a sampler of the class SimpleNamespace") as caught:
            from types import SimpleNamespace

            replace(aligned, fitted=SimpleNamespace(moments=aligned.fitted.moments)).save(tmp_path / "x")
        assert "sample(n" in caught.value.ways_out[0] and not (tmp_path / "x").exists()


class TestExpressions:
    @pytest.mark.parametrize("row", ENTRIES, ids=lambda row: row.name)
    def test_every_atom_and_operation_is_the_same_afterwards(self, row):
        before = row.example(ak.Variable((2, 3)))
        after = reread(before)
        assert str(after) == str(before) and after.shape == before.shape and after.curvature == before.curvature
        x = np.random.default_rng(0).uniform(0.1, 0.9, size=(5, 2, 3))
        assert np.array_equal(after.value(x), before.value(x), equal_nan=True)
        assert after.lipschitz == before.lipschitz and after.range == before.range

    def test_a_deep_sum_takes_no_recursion(self):
        total = ak.Variable(())
        for number in range(5000):
            total = ak.abs(total) + float(number)
        assert np.array_equal(reread(total).value(2.0), total.value(2.0))

    def test_what_is_shared_stays_shared(self):
        x, parameter = ak.Variable(3), ak.Parameter(3, [1.0, 2.0, 3.0])
        found = reread(ak.norm1(x - parameter) + ak.norm2(x + parameter))
        assert len(found.variables()) == 1 and len(found.parameters()) == 1

    @pytest.mark.parametrize("key", [(slice(None, None, 2),), ([0, 2],), (Ellipsis, None, 1), (np.array([2, 0]),)])
    def test_keys_of_selections_are_kept(self, key):
        before = ak.Variable(4)[key]
        after = reread(before)
        assert str(after) == str(before)
        x = np.arange(4.0)
        assert np.array_equal(after.value(x), before.value(x))

    def test_ranges_of_variables_and_signs_of_parameters_are_kept(self):
        bounded = ak.square(ak.Variable(2)).over(0.0, 2.0)
        assert reread(bounded).lipschitz == bounded.lipschitz
        signed = ak.Parameter(value=-2.0, nonpos=True, name="sink")
        assert reread(signed).range.upper == 0.0 and reread(signed).name == "sink"
        assert reread(ak.Parameter(3, name="later")).is_unset

    def test_numbers_that_json_does_not_know_are_kept(self):
        found = reread({"a": (np.inf, -np.inf, 3), "b": [True, None, 0.1]})
        assert found == {"a": (np.inf, -np.inf, 3), "b": [True, None, 0.1]} and np.isnan(reread(np.nan))

    def test_matrices_keep_their_order_in_memory(self):
        matrix = np.asfortranarray(np.arange(6.0).reshape(2, 3))
        found = reread((matrix, matrix.T))
        assert found[0].flags.f_contiguous and found[1].flags.c_contiguous
        assert np.array_equal(found[0], matrix) and np.array_equal(found[1], matrix.T)


ARRAYS = {
    "doubles": np.arange(6.0).reshape(2, 3),
    "singles": np.linspace(0, 1, 5, dtype=np.float32),
    "halves": np.ones((1, 2), dtype=np.float16),
    "counts": np.arange(4, dtype=np.int64),
    "small": np.arange(3, dtype=np.int32),
    "flags": np.array([True, False, True]),
    "bytes": np.arange(5, dtype=np.uint8),
    "nothing": np.zeros((0, 3)),
    "number": np.array(2.5),
}


class TestFormat:
    def test_safetensors_reads_what_is_written(self, tmp_path):
        write_file(tmp_path / "file", {"a": ["ü", 1]}, ARRAYS)
        found = load_file(tmp_path / "file")
        assert found.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name
        with safe_open(tmp_path / "file", "numpy") as file:
            assert json.loads(file.metadata()["document"]) == {"a": ["ü", 1]}
            assert file.metadata()["format"] == "alignkit"

    def test_what_safetensors_writes_is_read(self, tmp_path):
        """In whatever order the arrays come."""
        write_file(tmp_path / "mine", {"a": 1}, ARRAYS)
        with safe_open(tmp_path / "mine", "numpy") as file:
            texts = file.metadata()
        save_file(ARRAYS, tmp_path / "theirs", metadata=texts)
        document, arrays = read_file(tmp_path / "theirs")
        assert document == {"a": 1} and arrays.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array), name

    def test_it_reads_what_it_writes(self, tmp_path):
        write_file(tmp_path / "file", {"a": None}, ARRAYS)
        document, arrays = read_file(tmp_path / "file")
        assert document == {"a": None}
        for name, array in ARRAYS.items():
            assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
            assert np.array_equal(arrays[name], array) and arrays[name].flags.writeable

    def test_objects_are_not_written(self, tmp_path):
        for array in (np.array([{}]), np.array(["text"]), np.array([1j])):
            with pytest.raises(ParameterError, match="only numbers and Booleans"):
                write_file(tmp_path / "file", {}, {"a": array})
        assert list(tmp_path.iterdir()) == []

    def test_a_file_is_replaced_in_one_step_and_stays_where_writing_fails(self, tmp_path, monkeypatch):
        path = tmp_path / "file"
        write_file(path, {"a": 1}, {})
        monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("the disk is full")))
        with pytest.raises(OSError, match="full"):
            write_file(path, {"a": 2}, ARRAYS)
        assert read_file(path)[0] == {"a": 1} and [one.name for one in tmp_path.iterdir()] == ["file"]
        monkeypatch.undo()
        write_file(path, {"a": 3}, {})
        assert read_file(path)[0] == {"a": 3}

    def test_others_may_read_it_as_they_may_read_other_files(self, tmp_path):
        write_file(tmp_path / "file", {}, {})
        (tmp_path / "other").write_text("")
        assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode

    def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(ParameterError, match="is a folder"):
            write_file(tmp_path, {}, {})
        with pytest.raises(SavedResultError, match="is a folder"):
            read_file(tmp_path)
        with pytest.raises(FileNotFoundError):
            read_file(tmp_path / "nothing")


@pytest.fixture
def whole(tmp_path):
    """A saved result, as bytes, with the path it lies at."""
    path = tmp_path / "result.alignkit"
    CASES["one tilt"].make().solve(seed=0).save(path)
    return path, path.read_bytes()


class Planted:
    """What a pickle can do."""

    def __reduce__(self):
        return os.mkdir, ("planted",)


class TestFilesThatAreNotRight:
    def test_one_that_was_cut_anywhere(self, whole):
        path, content = whole
        for length in [0, 5, 8, 9, 100, len(content) // 2, len(content) - 1]:
            path.write_bytes(content[:length])
            with pytest.raises(SavedResultError, match=r"was cut|is not a result"):
                ak.load(path)

    def test_one_that_grew(self, whole):
        path, content = whole
        path.write_bytes(content + b"more")
        with pytest.raises(SavedResultError, match="was cut"):
            ak.load(path)

    def test_one_with_any_byte_changed(self, whole):
        path, content = whole
        places = np.random.default_rng(0).choice(len(content), 60, replace=False)
        header = 8 + int.from_bytes(content[:8], "little")
        for place in [*places.tolist(), len(content) - 1, header]:
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            # Spaces that fill the header up mean nothing; all else is found.
            if json.loads(content[8:header]) == _json(changed[8:header]) and place < header:
                continue
            with pytest.raises(SavedResultError):
                ak.load(path)

    def test_one_of_a_later_version(self, whole, monkeypatch):
        path, _ = whole
        document, arrays = read_file(path)
        monkeypatch.setattr("alignkit.saving.container.FORMAT", 2)
        write_file(path, document, arrays)
        monkeypatch.undo()
        with pytest.raises(
            SavedResultError, match=r"version 2 of the format, and this alignkit reads up to 1"
        ) as caught:
            ak.load(path)
        assert "pip install --upgrade alignkit" in caught.value.ways_out[0]

    def test_one_without_an_array_that_it_speaks_of(self, whole):
        path, _ = whole
        document, arrays = read_file(path)
        del arrays[next(iter(arrays))]
        write_file(path, document, arrays)
        with pytest.raises(SavedResultError, match="is damaged: KeyError"):
            ak.load(path)

    @pytest.mark.parametrize("part", ["declaration", "base", "plan", "certificate", "fitted", "records", "composition"])
    def test_one_without_a_part(self, whole, part):
        path, _ = whole
        document, arrays = read_file(path)
        del document[part]
        write_file(path, document, arrays)
        with pytest.raises(SavedResultError, match="is damaged"):
            ak.load(path)

    def test_one_that_names_a_class_that_results_are_not_made_of(self, whole):
        path, _ = whole
        document, arrays = read_file(path)
        document["records"][0]["kind"] = "os.system"
        write_file(path, document, arrays)
        with pytest.raises(SavedResultError, match=r"is damaged: KeyError: 'os\.system'"):
            ak.load(path)

    def test_records_speak_of_earlier_ones_alone(self, whole):
        path, _ = whole
        document, arrays = read_file(path)
        document["records"][0]["of"] = {"shape": {"object": 5}, "name": "x", "lower": 0.0, "upper": 1.0}
        write_file(path, document, arrays)
        with pytest.raises(SavedResultError, match="is damaged: IndexError"):
            ak.load(path)

    def test_a_pickle_is_never_opened(self, whole, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        path, content = whole
        for protocol in range(6):
            path.write_bytes(pickle.dumps(Planted(), protocol=protocol))
            with pytest.raises(SavedResultError, match="is not a result") as caught:
                ak.load(path)
            assert protocol < 2 or "but a pickle" in str(caught.value)
        # As an array of a file that is right but for it: whatever comes of its bytes, they are numbers.
        document, arrays = read_file_of(path, content)
        arrays["a0"] = np.frombuffer(pickle.dumps(Planted()), dtype=np.uint8)
        write_file(path, document, arrays)
        with contextlib.suppress(Exception):
            ak.load(path).sample(1, seed=0)
        assert not (tmp_path / "planted").exists()

    def test_archives_and_other_tensors_are_named(self, whole):
        path, _ = whole
        np.savez(path.with_suffix(".npz"), a=np.ones(2))
        with pytest.raises(SavedResultError, match="zip archive"):
            ak.load(path.with_suffix(".npz"))
        save_file({"a": np.ones(2)}, path)
        with pytest.raises(SavedResultError, match="safetensors file that alignkit did not write"):
            ak.load(path)

    def test_a_route_of_another_version_is_named(self, whole):
        path, _ = whole
        document, arrays = read_file(path)
        names = json.dumps(document["plan"]).replace("linear tilt", "tilt by magic")
        write_file(path, document | {"plan": json.loads(names)}, arrays)
        with pytest.raises(SavedResultError, match="'tilt by magic', which this version does not have"):
            ak.load(path)


def read_file_of(path, content):
    path.write_bytes(content)
    return read_file(path)


def _json(raw):
    try:
        return json.loads(bytes(raw))
    except ValueError:
        return None
