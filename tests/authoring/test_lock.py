"""`make lock` writes both locks without an address, and fails where something would be compiled."""

from __future__ import annotations

import subprocess

import pytest

from helpers.authoring import lock


@pytest.fixture
def asked(monkeypatch):
    """Record what uv is asked for, and answer that all is well, but for Windows when told so."""
    calls: list[tuple[str, ...]] = []
    refused: list[str] = []

    def compiled(*arguments: str) -> subprocess.CompletedProcess[str]:
        calls.append(arguments)
        failed = any(word in refused for word in arguments)
        return subprocess.CompletedProcess(arguments, int(failed), "", "no usable wheels\n")

    monkeypatch.setattr(lock, "compiled", compiled)
    return calls, refused


def test_both_locks_are_written_then_every_system_is_asked(asked, capsys):
    """Two resolutions for all systems at once, one question for each system and Python."""
    calls, _ = asked
    assert lock.main([]) == 0
    learners, authors, *questions = calls
    assert learners[0] == "pyproject.toml"
    assert learners[-2:] == ("--output-file", "requirements.lock")
    assert authors[:4] == ("--group", "dev", "--constraint", "requirements.lock")
    assert authors[-2:] == ("--output-file", "requirements-dev.lock")
    for call in (learners, authors):
        assert {"--universal", "--generate-hashes", "--no-emit-index-url"} <= set(call)
        assert "--upgrade" not in call
    assert len(questions) == 20
    assert len({question[2:6] for question in questions}) == 20
    assert all(question[-2:] == ("--only-binary", ":all:") for question in questions)
    systems = {question[3].split("-", 1)[1] for question in questions}
    assert systems == {"unknown-linux-gnu", "apple-darwin", "pc-windows-msvc"}
    assert capsys.readouterr().out == (
        "Both locks written; wheels for everything on 20 combinations.\n"
    )


def test_an_upgrade_is_asked_for_by_name(asked):
    """Otherwise what is pinned stays pinned."""
    calls, _ = asked
    lock.main(["--upgrade"])
    assert ["--upgrade" in call for call in calls[:2]] == [True, True]


def test_a_system_without_a_wheel_fails(asked, capsys):
    """The line names the system and the Python, and what to do in pyproject.toml."""
    _, refused = asked
    refused.append("x86_64-pc-windows-msvc")
    assert lock.main([]) == 1
    err = capsys.readouterr().err
    assert "x86_64-pc-windows-msvc, Python 3.14:\nno usable wheels" in err
    assert "No wheels on 4 of 20 combinations." in err
    assert "pyproject.toml" in err


def test_what_cannot_be_resolved_is_an_error(asked):
    """With uv's own words."""
    _, refused = asked
    refused.append("pyproject.toml")
    with pytest.raises(SystemExit, match=r"requirements\.lock cannot be resolved:\nno usable"):
        lock.main([])


def test_uv_answers():
    """The real uv, on a question that needs no network."""
    result = lock.compiled("no-such-file.txt")
    assert result.returncode != 0
    assert "no-such-file.txt" in result.stderr
