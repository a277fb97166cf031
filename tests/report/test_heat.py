"""A heat map has a rectangle for each cost, darker for more, and says every number."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from builders.report import heat
from builders.report.heat import Point

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*values, title="m <&> n"):
    points = [
        Point(map=name, row=row, column=f"mlp.{column}_proj", value=value)
        for name, row, column, value in values
    ]
    return heat.heat(points, title=title, lead="…")


FOUR = (
    ("fp8", 0, "up", 1e-4), ("fp8", 0, "down", 1e-3), ("fp8", 3, "up", 1e-2), ("nvfp4", 0, "up", 1),
)  # fmt: skip


def test_more_is_darker_on_one_logarithmic_scale():
    made = drawn(*FOUR)
    shades = [cell.shade for one in made.maps for cell in one.cells]
    assert shades == [0, 2, 5, 9]
    assert (made.low, made.high) == ("0.0001", "1")


def test_maps_stand_side_by_side_and_rows_line_up():
    first, second = drawn(*FOUR).maps
    assert second.x > max(cell.x for cell in first.cells) + heat.CELL[0]
    assert first.cells[0].y == second.cells[0].y
    assert first.cells[2].y == first.cells[0].y + heat.CELL[1]
    assert [short for _, short, _ in first.columns] == ["up", "down"]


def test_the_picture_is_well_formed_and_reads_out_every_number():
    root = ElementTree.fromstring(heat.as_svg(drawn(*FOUR)))
    told = [title.text for title in root.iter(f"{SVG}title")]
    assert "fp8, layer 3, mlp.up_proj: 0.01" in told
    assert told[0] == "m <&> n"


def test_the_page_needs_no_network_and_no_script_and_escapes_names():
    page = heat.as_html(drawn(*FOUR, title="<script>x</script>"))
    HTMLParser().feed(page)
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page)
    assert "default-src 'none'" in page


def test_the_table_has_the_largest_cost_first():
    assert [row[:3] for row in drawn(*FOUR).table][:2] == [
        ("nvfp4", "layer 0", "mlp.up_proj"),
        ("fp8", "layer 3", "mlp.up_proj"),
    ]


def test_costs_of_nothing_and_layers_without_a_number_are_drawn_too():
    made = drawn(("fp8", -1, "up", 0.0), ("fp8", 0, "up", 0.5))
    assert [name for _, name in made.rows] == ["others", "layer 0"]
    assert [cell.shade for cell in made.maps[0].cells] == [0, 9]
    assert drawn().maps == ()


def test_equal_costs_give_equal_bytes():
    assert heat.as_html(drawn(*FOUR)) == heat.as_html(drawn(*FOUR))
