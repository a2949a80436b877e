"""Tables of text."""

import pytest

from omnimouse.support.text_tables import markdown_table, text_table


def test_the_first_column_is_to_the_left_and_the_others_to_the_right_without_spaces_at_the_end():
    assert text_table(["task", "score", "note"], [["population", "0.25", "x"], ["stimulus", "-", ""]], rule=True) == [
        "task        score  note",
        "----------  -----  ----",
        "population   0.25     x",
        "stimulus        -",
    ]


def test_markdown_columns_are_padded():
    assert markdown_table(["core", "r"], [["small", "0.25"]]) == [
        "| core  | r    |",
        "| ----- | ---- |",
        "| small | 0.25 |",
    ]


@pytest.mark.parametrize("table", [text_table, markdown_table])
def test_a_row_with_a_cell_too_few_is_no_table(table):
    with pytest.raises(ValueError):
        table(["core", "r"], [["small"]])
