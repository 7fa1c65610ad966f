"""The forty questions with four answers: what their data card says of them."""

from course_lib.tasks.choices import choices


def test_there_are_twenty_of_each_kind_and_no_text_stands_twice_in_a_question():
    items = choices()
    assert [item.is_long for item in items] == [True] * 20 + [False] * 20
    for item in items:
        assert len(set(item.options)) == 4 and item.options[0] == item.right
        assert all(text == text.strip() and text for text in (item.question, *item.options))
    assert len({item.question for item in items}) == len({item.right for item in items}) == 40


def test_a_right_answer_is_the_longest_or_the_shortest_of_its_four():
    for item in choices():
        sizes = sorted(len(option.encode()) for option in item.wrong)
        assert len(item.right.encode()) > sizes[-1] if item.is_long else len(item.right.encode()) < sizes[0]
