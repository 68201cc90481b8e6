"""What `TEACHING.md` takes from notebooks and labs is what they say today, and its plans add up."""

from __future__ import annotations

import json
import re

import pytest

from helpers.authoring import labs, teaching

PAGE = teaching.PAGE.read_text(encoding="utf-8")


def test_the_page_is_up_to_date():
    assert teaching.filled(PAGE) == PAGE, "TEACHING.md is old: run make labs"
    kinds = [match[2] for match in teaching.BLOCK.finditer(PAGE)]
    assert kinds == ["plan"] * 5 + ["mistakes"]


def test_the_plans_add_up():
    totals = []
    for match in teaching.BLOCK.finditer(PAGE):
        if match[2] == "plan":
            lengths = [
                int(minutes)
                for minutes in re.findall(r"^\| \d+:\d\d \| (\d+) \|", match[4], re.MULTILINE)
            ]
            total = int(re.search(r"\*\*(\d+)\*\*", match[4])[1])
            assert sum(lengths) == total <= int(re.search(r"at most (\d+)", match[3])[1])
            totals.append(total)
    assert len(totals) == 5


def test_the_two_days_leave_out_what_the_page_says():
    days = [match[3] for match in teaching.BLOCK.finditer(PAGE) if match[2] == "plan"][3:]
    planned = {item for day in days for item in day.rpartition(": ")[2].split(", ")}
    notebooks = {path.name[:2] for path in (teaching.ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks - planned == {"08"}


def test_each_notebook_has_its_sentence():
    rows = re.findall(r"^\| (\d\d) \| .+ \| .+ \|$", PAGE, re.MULTILINE)
    assert rows == [f"{number:02}" for number in range(17)]


def test_every_wrong_answer_of_every_lab_is_there():
    text = teaching.mistakes()
    wrong = [
        answer.name
        for path in labs.sources()
        for exercise in labs.exercises(labs.read(path))
        for answer in exercise.wrong
    ]
    assert len(wrong) >= 2
    assert text.count("*The check says:*") == len(wrong)
    assert text.count("### ") == len(labs.sources())


def test_a_plan_has_a_clock():
    table, total = teaching.plan(" from 9:50, at most 60 minutes: 00, break 15")
    minutes = teaching.title_and_minutes(teaching.find("00"))[1]
    assert total == minutes + 15
    first, second, end = table.splitlines()[2:]
    assert first.startswith(f"| 9:50 | {minutes} | [00 ")
    assert second == f"| 10:{minutes - 10:02d} | 15 | Break |"
    assert end == f"| 10:{minutes + 5} | **{total}** | of 60 minutes |"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (" from 9:00, at most 30 minutes: 00, 01", r"takes 50 minutes, and has 30"),
        (" from 9:00, at most 30 minutes: 99", "There is no '99'"),
        (" from 9:00, at most 30 minutes: lab 99", "There is no 'lab 99'"),
        (" from nine: 00", "Not understood: plan from nine"),
    ],
)
def test_a_plan_that_does_not_work_out_says_why(words, says):
    with pytest.raises(teaching.PlanError, match=says):
        teaching.plan(words)


def test_the_links_of_the_page_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert len(links) >= 20
    assert [link for link in links if not (teaching.ROOT / link).exists()] == []


def test_the_files_for_hubs_name_what_there_is():
    root = teaching.ROOT
    container = json.loads((root / ".devcontainer/devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make setup"
    required = (root / ".binder/requirements.txt").read_text().removeprefix("-r ").strip()
    assert (root / ".binder" / required).resolve() == root / "requirements.lock"
    assert (root / ".binder/postBuild").stat().st_mode & 0o111
    assert (root / "helpers/apps/socketio_chat/package-lock.json").exists()
