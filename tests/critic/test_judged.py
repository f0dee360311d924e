"""What is kept of a trajectory that a critic judges."""

from critic.judged import answer_of
from tests.tiny import trajectory


def calling(command):
    found = trajectory("t", [""])
    call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": command}}
    message = found.steps[0].decision.message
    found.steps[0].decision.candidates[0].message = message.model_copy(
        update={"tool_calls": [call]}
    )
    return found


def test_what_was_called_is_part_of_an_answer():
    assert answer_of(calling("ls")) == answer_of(calling("ls"))
    assert answer_of(calling("ls")) != answer_of(calling("rm"))


def test_what_was_submitted_is_the_answer_however_it_came_about():
    one, other = trajectory("t", ["a"]), trajectory("t", ["b"])
    one.submission = other.submission = "diff"
    assert answer_of(one) == answer_of(other) == "diff"
