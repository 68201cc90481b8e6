"""What every lab has to be, proven for each exercise in a kernel of its lab.

Nothing here names a lab: whoever writes `labs/src/NN_name.ipynb` and its checks gets all of these tests.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re

import nbformat
import pytest
from test_notebooks import BELONGINGS, STOP_ALL, client_for, run

from helpers import lab
from helpers.authoring import labs, refresh

SOURCES = labs.sources()
QUICK = 0.5
"""Seconds of patience at the first look at a wrong answer: most of what waits in it waits for something that never comes."""

each_lab = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
NOTEBOOKS = {path: labs.read(path) for path in SOURCES}
EXERCISES = {path: labs.exercises(NOTEBOOKS[path]) for path in SOURCES}


def every(kind):
    """Parametrize over the answers of a kind, of all exercises of all labs."""
    return pytest.mark.parametrize(
        ("bench", "exercise", "answer"),
        [
            pytest.param(path, exercise, answer, id=f"{exercise.id}-{answer.name}")
            for path in SOURCES
            for exercise in EXERCISES[path]
            for answer in getattr(exercise, kind)
        ],
        indirect=["bench"],
    )


each_exercise = pytest.mark.parametrize(
    ("bench", "exercise"),
    [pytest.param(path, e, id=e.id) for path in SOURCES for e in EXERCISES[path]],
    indirect=["bench"],
)

LOOK = """
import json as _json
print(_json.dumps([_.state, repr(_), _.at]))
"""


class Bench:
    """A kernel in which the cells of one lab run, with any answer in the place of the solution."""

    def __init__(self, path, client):
        self.path = path
        self.client = client
        self.notebook = NOTEBOOKS[path]
        self._refusals = {}
        self._usual = {}

    def cell(self, source):
        """Run a cell as a learner would, and return its outputs."""
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        try:
            self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        finally:
            self.client.nb.cells.remove(cell)
        return cell.outputs

    def check(self, exercise, answer, patience=lab.PATIENCE):
        """Run all cells up to an exercise, this answer to it, and its check; return state, words and the line of the check."""
        run(self.client, "%reset -f")
        haste = f"_patience, helpers.lab._most = {patience}, {4 * patience}"
        run(self.client, f"import helpers.lab; helpers.lab.{haste}")
        for cell in self.notebook.cells[: exercise.position]:
            if cell.cell_type == "code" and not labs.tags(cell) & (labs.AUTHORS_ONLY | {"check"}):
                self.cell(labs.worked(cell.source, cell["id"]))
        self.cell(answer)
        self.cell(exercise.check)
        return json.loads(run(self.client, LOOK))

    def refusal(self, exercise, wrong):
        """Return what the check says of a wrong answer; first with little patience, because most only cost time."""
        key = exercise.id, wrong.name
        for patience in (QUICK, lab.PATIENCE):
            if key not in self._refusals or plain(wrong.says) not in plain(self._refusals[key][1]):
                self._refusals[key] = self.check(exercise, wrong.source, patience)
        return self._refusals[key]

    def usual(self, exercise, wrong):
        """Return the line of the checks that refuses a wrong answer, with the checks as they are, or None."""
        key = exercise.id, wrong.name
        if key not in self._usual:
            self._usual[key] = (self.refusal(exercise, wrong)[2] or [None, None])[1]
        return self._usual[key]

    def replace_checks(self, source):
        """Use other checks, or with None those of the lab again."""
        self._refusals.clear()
        path = str(self.path.with_name(f"{self.path.stem}_checks.py"))
        run(
            self.client,
            f"import helpers.lab, pathlib; helpers.lab.replace(pathlib.Path({path!r}), {source!r})",
        )


def plain(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def open_bench():
    """Give out the bench of one lab at a time: that of the last one closes when another is asked for."""
    with contextlib.ExitStack() as stack:
        opened = {}

        def bench_of(path):
            if path not in opened:
                stack.close()
                opened.clear()
                client = client_for(nbformat.v4.new_notebook(), labs.LABS)
                stack.enter_context(client.setup_kernel())
                run(client, "import helpers.process, helpers.broker, helpers.lab")
                opened[path] = Bench(path, client)
            return opened[path]

        yield bench_of


@pytest.fixture(scope="module")  # so that pytest runs all tests of one lab in a row
def bench(request, open_bench):
    return open_bench(request.param)


@each_lab
def test_what_is_made_from_it_is_fresh(path):
    assert labs.stale(path) == []
    assert refresh.stale(labs.LABS / "solutions" / path.name) == []


@each_lab
def test_the_exercise_gives_no_solution_away(path):
    made = nbformat.read(labs.LABS / path.name, as_version=4)
    assert labs.leaks(NOTEBOOKS[path], made) == []
    text = (labs.LABS / path.name).read_text()
    for trace in ("SOLUTION", "# Wrong:", "# Says:", "# Right:"):
        assert trace not in text
    for cell in made.cells:
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)
    todo = [cell for cell in made.cells if cell.cell_type == "code" and "# TODO: " in cell.source]
    assert [cell["id"] for cell in todo] == [exercise.id for exercise in EXERCISES[path]]


def minutes(path):
    """Return how long the first cell says that a lab takes."""
    return re.search(r"\*\*Time:\*\* about (\d+) minutes", NOTEBOOKS[path].cells[0].source)[1]


@each_lab
def test_it_has_the_skeleton(path):
    number, exercises = path.name[:2], EXERCISES[path]
    first, *_, last = NOTEBOOKS[path].cells
    assert first.source.startswith(f"# Lab {number}: ")
    for part in ("Time:", "You will do", "You will learn", "You need"):
        assert f"**{part}**" in first.source
    assert 20 <= int(minutes(path)) <= 40
    assert sum(exercise.minutes for exercise in exercises) <= int(minutes(path))
    assert 3 <= len(exercises) <= 5
    prose = [cell.source for cell in NOTEBOOKS[path].cells if cell.cell_type == "markdown"]
    assert "\n## In practice" in "\n" + "\n".join(prose)
    assert not any("```python" in text for text in prose)
    for target in re.findall(r"\]\(([^)#]+)\)", "\n".join(prose)):
        assert target.startswith("https://") or (labs.LABS / target).exists(), target
    assert "../notebooks/" in last.source
    for exercise in exercises:
        assert re.fullmatch(rf"{number}-[a-z0-9-]+", exercise.id)


@each_lab
def test_each_exercise_has_its_check_its_hints_and_its_answers(path):
    checks = lab.load(path.with_name(f"{path.stem}_checks.py"))
    assert list(checks) == [exercise.id for exercise in EXERCISES[path]]
    for exercise in EXERCISES[path]:
        hints = checks[exercise.id].hints
        assert len(hints) == 3
        assert all(len(hint.split()) >= 5 for hint in hints)
        assert len(exercise.wrong) >= 2, f"{exercise.id} needs two wrong answers"
        assert len(exercise.right) >= 1, f"{exercise.id} needs another right answer"
        for name in ("wrong", "right"):
            names = [answer.name for answer in getattr(exercise, name)]
            assert len(set(names)) == len(names)
        for answer in exercise.wrong:
            assert len(answer.says) >= 20 or answer.says.startswith("No answer"), answer.says


def test_the_readme_lists_every_lab_with_its_minutes():
    readme = (labs.ROOT / "README.md").read_text()
    rows = re.findall(
        r"^\| \[(\d\d)\]\(labs/(\w+)\.ipynb\) \| \S.* \| (\d+) \|$", readme, re.MULTILINE
    )
    assert rows == [(path.stem[:2], path.stem, minutes(path)) for path in SOURCES]


def test_no_two_exercises_share_an_id():
    ids = [exercise.id for path in SOURCES for exercise in EXERCISES[path]]
    assert len(set(ids)) == len(ids) >= 4


def test_every_lab_has_its_checks_and_no_file_is_an_orphan():
    stems = {path.stem for path in SOURCES}
    assert {p.name.removesuffix("_checks.py") for p in (labs.LABS / "src").glob("*.py")} == stems
    for folder in (labs.LABS, labs.LABS / "solutions"):
        assert {p.stem for p in folder.glob("*.ipynb")} == stems


@pytest.mark.parametrize("bench", SOURCES, ids=lambda path: path.stem, indirect=True)
def test_both_notebooks_run_with_every_cell_twice_and_leave_nothing(bench):
    before = json.loads(run(bench.client, BELONGINGS))
    for folder in (labs.LABS, labs.LABS / "solutions"):
        run(bench.client, "%reset -f")
        states = {}
        for cell in nbformat.read(folder / bench.path.name, as_version=4).cells:
            if cell.cell_type != "code":
                continue
            for _ in range(2):
                assert not [out for out in bench.cell(cell.source) if out.get("name") == "stderr"]
            if id := re.match(r'check\("([^"]+)"', cell.source):
                states[id[1]] = json.loads(run(bench.client, LOOK))[0]
        expected = lab.NOT_ATTEMPTED if folder == labs.LABS else lab.CORRECT
        assert states == {exercise.id: expected for exercise in EXERCISES[bench.path]}
    run(bench.client, STOP_ALL)
    for _ in range(50):  # the last thread of a client may be on its way out
        after = json.loads(run(bench.client, BELONGINGS))
        if after == before:
            break
    assert after == before


@each_exercise
def test_untouched_it_is_not_attempted(bench, exercise):
    source = labs.stub(bench.notebook.cells[exercise.position].source, exercise.id)
    state, said, _ = bench.check(exercise, source)
    assert state == lab.NOT_ATTEMPTED, said


@each_exercise
def test_the_solution_is_correct(bench, exercise):
    source = labs.worked(bench.notebook.cells[exercise.position].source, exercise.id)
    state, said, _ = bench.check(exercise, source)
    assert state == lab.CORRECT, said
    assert len(said) > len("Correct. ")


@every("right")
def test_another_right_answer_is_correct(bench, exercise, answer):
    state, said, _ = bench.check(exercise, answer.source)
    assert state == lab.CORRECT, said


@every("wrong")
def test_a_wrong_answer_gets_its_own_message(bench, exercise, answer):
    state, said, _ = bench.refusal(exercise, answer)
    assert state in (lab.NOT_YET, lab.RAISED, lab.NO_ANSWER), said
    assert plain(answer.says) in plain(said)
    others = [other for other in exercise.wrong if other is not answer]
    assert not [other.name for other in others if plain(other.says) in plain(said)]


@pytest.mark.parametrize("bench", SOURCES, ids=lambda path: path.stem, indirect=True)
def test_every_requirement_of_the_checks_refuses_a_wrong_answer(bench):
    """Whoever takes one out, or makes it weaker, makes the test of that answer fail; `make soak` takes each out in turn."""
    checks = bench.path.with_name(f"{bench.path.stem}_checks.py")
    answers = [(e, wrong) for e in EXERCISES[bench.path] for wrong in e.wrong]
    lines = {at[1] for _, _, at in [bench.refusal(*answer) for answer in answers] if at}
    idle = [
        f"{checks.name}, line {node.lineno}"
        for node in ast.walk(ast.parse(checks.read_text()))
        if isinstance(node, ast.stmt)
        and labs.is_requirement(node)
        and not lines & set(range(node.lineno, (node.end_lineno or 0) + 1))
    ]
    assert idle == []


def mutations():
    """Parametrize over the requirements of all checks."""
    for path in SOURCES:
        checks = path.with_name(f"{path.stem}_checks.py")
        for line, weaker in labs.mutants(checks.read_text()):
            yield pytest.param(path, line, weaker, id=f"{path.name[:2]}-line-{line}")


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("bench", "line", "weaker"), list(mutations()), indirect=["bench"])
def test_a_check_without_one_of_its_requirements_is_found_out(bench, line, weaker):
    answers = [(e, wrong) for e in EXERCISES[bench.path] for wrong in e.wrong]
    bench.replace_checks(None)
    # Those first that this line refuses: mostly it is one of them.
    answers.sort(key=lambda answer: abs((bench.usual(*answer) or 0) - line))
    bench.replace_checks(weaker)
    try:
        for exercise, wrong in answers:
            _, said, _ = bench.refusal(exercise, wrong)
            if plain(wrong.says) not in plain(said):
                return
    finally:
        bench.replace_checks(None)
    pytest.fail("every wrong answer still got its own message")
