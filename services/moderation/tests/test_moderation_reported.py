import pytest

from moderation.domain import screen
from moderation.mail import MailParts, TextPart
from moderation.reported import is_reported


def reported(text, words):
    data = text.lower().encode()
    start = data.index(words.encode())
    return is_reported(data, start, start + len(words.encode()))


@pytest.mark.parametrize(
    "text",
    [
        'He leaned out of the window and yelled "I will kill you" at my daughter.',
        'The threat "I will kill you" was written on our door.',
        "“I will kill you”, the caller said, and hung up.",
        "Der Nachbar rief: „I will kill you“.",
        "Elle a écrit « I will kill you » hier soir.",
        "He texted me again: I will kill you. Please call me, officer.",
        "The man said, I will kill you, and then he left.",
        'It is wrong to say "I will kill you" to anybody.',
        "my ex wrote 'i will kill you' on the car",
    ],
)
def test_what_another_said_is_reported(text):
    assert reported(text, "i will kill you")


@pytest.mark.parametrize(
    "text",
    [
        "I will kill you.",
        '"I will kill you"',
        'You said "no" to me. I will kill you.',
        "He said no. I will kill you.",
        "Your wife told me everything, I will kill you.",
        'She wrote "bye". Now I will kill you, do you hear?',
        "Don't think that I forgot: I will kill you.",
        "Pay by Friday or I will kill you and your family.",
        "We don't say it twice. I will kill you!",
    ],
)
def test_own_words_are_not(text):
    assert not reported(text, "i will kill you")


def screened(text, policy):
    return screen(MailParts("", (TextPart("text", text),)), policy)


def test_a_text_that_reports_and_threatens_threatens(policy):
    text = 'You told the police that he wrote "I will kill you". Well: I will kill you.'
    decision = screened(text, policy)
    assert (decision.action, decision.rules) == ("block", ("violence.threat",))
    start = text.index("Well: ") + len("Well: ")
    assert [(one.start, one.end) for one in decision.evidence] == [(start, start + len("I will kill you"))]


def test_a_complaint_is_not_what_it_quotes(policy):
    assert screened('Your driver shouted "I will kill you" at my daughter.', policy).action == "allow"
