"""The voice of a notebook: a question before the run, and errors that are required."""

from __future__ import annotations

import html
import string
from collections.abc import Sequence
from types import TracebackType


class Prediction:
    """A question that waits for the answer of the machine."""

    def __init__(self, question: str, options: Sequence[object]) -> None:
        if len(options) < 2 or len({str(option) for option in options}) < len(options):
            raise ValueError(
                f"A prediction needs two or more different options, not {list(options)!r}."
            )
        self.question = question
        self.options = [str(option) for option in options]

    def reveal(self, answer: object) -> None:
        """Say which option the machine has computed.

        Args:
            answer: the computed answer; its text must be the text of one of the options.

        Raises:
            AssertionError: the answer is none of the options, so the question was wrong.
        """
        if str(answer) not in self.options:
            raise AssertionError(
                f"The answer {str(answer)!r} is none of the options {self.options}."
            )
        letter = string.ascii_uppercase[self.options.index(str(answer))]
        print(f"{letter}: {answer}")

    def __repr__(self) -> str:
        options = (
            f"  {letter}: {option}"
            for letter, option in zip(string.ascii_uppercase, self.options, strict=False)
        )
        return "\n".join([f"Predict: {self.question}", *options])

    def _repr_html_(self) -> str:
        # Radio buttons, so that a learner can commit to one; nothing listens to them.
        choices = "".join(
            f'<label style="display:block;margin:.25em 0"><input type="radio" name="{html.escape(self.question)}"> '
            f"{letter}: {html.escape(option)}</label>"
            for letter, option in zip(string.ascii_uppercase, self.options, strict=False)
        )
        return (
            f'<fieldset style="border:1px solid;border-radius:4px;padding:.25em 1em;max-width:46em">'
            f"<legend>Predict</legend><strong>{html.escape(self.question)}</strong>{choices}</fieldset>"
        )


def predict(question: str, options: Sequence[object]) -> Prediction:
    """Ask before the run, without waiting for an answer.

    Args:
        question: what will happen?
        options: two or more answers, one of which the run will turn out to give.

    Returns:
        The prediction: show it as the last value of a cell, and call its `reveal` with the answer that a later cell computes.

    Example:
        >>> secret = predict("What is 2 + 2?", [3, 4])
        >>> secret
        Predict: What is 2 + 2?
          A: 3
          B: 4
        >>> secret.reveal(2 + 2)
        B: 4
    """
    return Prediction(question, options)


class expect:  # reads as a word of the language: with expect(TimeoutError):
    """Require the body of a `with` block to raise an error, and print its type and code.

    Args:
        error: the class of the required error.
        code: the required code, if any: a close code, an HTTP status or an errno.

    Raises:
        AssertionError: the block raised nothing, or the right error with another code.
        BaseException: any other error passes through as it is.

    Example:
        >>> with expect(ZeroDivisionError):
        ...     1 / 0
        ZeroDivisionError
    """

    def __init__(self, error: type[BaseException], *, code: int | None = None) -> None:
        self.required = error
        self.code = code
        self.error: BaseException | None = None
        """What was raised, after the block."""

    def __enter__(self) -> expect:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        wanted = self.required.__name__ + ("" if self.code is None else f" with code {self.code}")
        if error is None:
            raise AssertionError(f"This block had to raise {wanted} and raised nothing.")
        if not isinstance(error, self.required):
            return False
        found = code_of(error)
        if self.code is not None and found != self.code:
            raise AssertionError(
                f"This block had to raise {wanted}; the code was {found}."
            ) from error
        self.error = error
        print(type(error).__name__ + ("" if found is None else f" {found}"))
        return True


def code_of(error: BaseException) -> int | None:
    """Return the number that a protocol gave an error: a close code, an HTTP status or an errno, or None."""
    if hasattr(
        error, "rcvd"
    ):  # websockets: the close frame that was received; 1006 says that there was none (RFC 6455, 7.1.5)
        return int(error.rcvd.code) if error.rcvd is not None else 1006
    response = getattr(error, "response", None)
    for value in (
        getattr(response, "status_code", None),
        getattr(error, "code", None),
        getattr(error, "errno", None),
    ):
        if isinstance(value, int):
            return int(value)
    return None
