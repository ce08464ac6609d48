"""That the list of mutants is of the source there is. Running them takes minutes: see `mutants`."""

import shlex

from tests.stress.mutant_list import MUTANTS
from tests.stress.mutants import REPOSITORY


def test_every_mutant_changes_one_place_of_the_present_source():
    for number, mutant in enumerate(MUTANTS, 1):
        name = f"mutant {number}: {mutant.what}"
        text = (REPOSITORY / "src" / "batchwright" / mutant.file).read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, name
        assert mutant.new != mutant.old, name
        compile(text.replace(mutant.old, mutant.new), name, "exec")  # no mere error of syntax


def test_the_tests_of_every_mutant_are_there():
    for number, mutant in enumerate(MUTANTS, 1):
        paths = [each for each in shlex.split(mutant.tests) if each.startswith("tests/")]
        assert paths, number
        assert all((REPOSITORY / path).exists() for path in paths), (number, paths)
