"""Class files: names, ids, colours, and what values mean."""

from __future__ import annotations

import pytest

from scribbleseg import LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import read_classes

# ---------------------------------------------------------------------------- class files


@pytest.mark.parametrize(
    ("name", "text", "names", "background"),
    [
        ("classes.txt", "_background_\ncat\ndog\n", ("_background_", "cat", "dog"), 0),
        ("classes.txt", "sky\nroad\n", ("sky", "road"), None),
        ("labels.txt", "__ignore__\n_background_\ncat\n", ("_background_", "cat"), 0),
        ("classes.json", '{"classes": ["background", "x"], "background": null}', None, None),
        ("classes.json", '["background", "x"]', ("background", "x"), 0),
        ("classes.yaml", "classes: [a, b]\nbackground: B", ("a", "b"), 1),
    ],
)
def test_lists_of_names(tmp_path, name, text, names, background):
    (tmp_path / name).write_text(text)
    table = read_classes(tmp_path)
    assert table.names == (names or ("background", "x"))
    assert (table.background, table.ids, table.counted) == (background, None, name.endswith("txt"))


def test_classes_yaml(tmp_path):
    (tmp_path / "classes.yaml").write_text(
        "classes:\n- {id: 0, name: back, color: [1, 2, 3]}\n"
        "- {id: 7, name: Cat, color: '#0a0b0c', aliases: [kitty]}\n"
        "ignore: [4, 255]\nunlabelled_value: 9\nbackground: 0\ncompact: true\n"
    )
    table = read_classes(tmp_path)
    assert table.names == ("back", "Cat")
    assert table.colours == {(1, 2, 3): 0, (10, 11, 12): 1}
    assert table.palette[1].tolist() == [10, 11, 12]
    assert (table.ignore, table.unlabelled_value, table.background) == ((4,), 9, 0)
    assert (table.aliases["kitty"], table.aliases["cat"]) == (1, 1)
    assert table.ids == (0, 7)


def test_an_ignored_class_has_an_id_and_no_name(tmp_path):
    (tmp_path / "classes.yaml").write_text(
        "classes: [{id: 3, name: b}, {id: 9, name: __ignore__}, {id: 1, name: a}]\n"
        "ignore: 4\ncompact: true\nbackground: 3\n"
    )
    table = read_classes(tmp_path)
    assert (table.names, table.ignore, table.background) == (("a", "b"), (4, 9), 1)
    assert table.ids == (1, 3)


def test_the_first_class_file_counts(tmp_path):
    for place, name in enumerate(("labels.txt", "classes.txt", "classes.json", "classes.yaml")):
        text = {"txt": "a\nb{}\n", "json": '["a", "b{}"]', "yaml": "[a, b{}]"}
        (tmp_path / name).write_text(text[name.rsplit(".", 1)[1]].format(place))
    order = []
    while any(tmp_path.iterdir()):
        order.append(read_classes(tmp_path).names[1])
        path = next(p for p in tmp_path.iterdir() if read_classes(p).names[1] == order[-1])
        path.unlink()
    assert order == ["b3", "b2", "b1", "b0"]
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*write classes\.txt"):
        read_classes(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "a\nb\na\n", "used twice"),
        ("classes.txt", "dining-table\nDining Table\n", "used twice"),
        ("classes.txt", "a\n\nb\n", "line 2 is empty"),
        ("labels.txt", "__ignore__\na\n\nb\n", "line 3 is empty"),
        ("classes.txt", "\n".join(map(str, range(256))), "256 classes, expected 2..255"),
        ("classes.txt", "a\n", "1 classes"),
        ("classes.yaml", "classes: [{id: 0, name: a}, {id: 2, name: b}]", "compact: true"),
        ("classes.yaml", "classes: [{id: 0, name: a}, {id: 0, name: b}]", "used twice"),
        ("classes.yaml", "classes: [a, b]\nbackground: 5", "background names 5"),
        ("classes.yaml", "classes: [a, b]\nignored: 5", "unknown keys"),
        ("classes.yaml", "classes: [{name: a, color: red}, b]", "color 'red'"),
        ("classes.yaml", "classes: [a, b]\nunlabelled_value: x", "unlabelled_value is 'x'"),
        ("classes.yaml", "just text", "expected `classes:`"),
        ("classes.yaml", "classes: [a, 3]", "entry 1 is 3, expected a name"),
        ("classes.yaml", "classes: [a, {id: 1}]", r"entry 1 is \{'id': 1\}"),
        ("classes.yaml", "classes: [a, {name: b, hue: 3}]", r"\['hue'\] in the class 'b'"),
        (
            "classes.yaml",
            "classes: [{name: a, color: '#010203'}, {name: b, color: [1, 2, 3]}]",
            r"color \[1, 2, 3\] is used twice, by .a. and by .b.",
        ),
        ("classes.yaml", "classes: [{name: a, color: [0, 0, 256]}, b]", r"color \[0, 0, 256\]"),
        (
            "classes.yaml",
            "classes: [{id: -1, name: a}, {id: 0, name: b}]\ncompact: true",
            r"0\.\.65535, got -1\.\.0",
        ),
        (
            "classes.yaml",
            "classes: [{id: 0, name: a}, {id: 65536, name: b}]\ncompact: true",
            r"0\.\.65535, got 0\.\.65536",
        ),
        ("classes.yaml", "classes: [a, b]\nunlabelled_value: true", "unlabelled_value is True"),
        ("classes.yaml", "classes: [", "D202"),
        ("classes.json", "{", "D202"),
    ],
)
def test_class_file_faults(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelFormatError, match=message) as error:
        read_classes(tmp_path)
    assert name in str(error.value)


def test_colours_that_mean_unlabelled(tmp_path):
    path = tmp_path / "classes.yaml"
    classes = "classes: [{name: a, color: [0, 0, 255]}, {name: b, color: '#ff0000'}%s]\n"
    for text in (
        classes % "" + "unlabelled_color: [10, 20, 30]\n",
        classes % "" + "unlabelled_color: ['#0a141e']\n",
        classes % ", {name: __ignore__, color: [10, 20, 30]}",
    ):
        path.write_text(text)
        table = read_classes(tmp_path)
        assert table.names == ("a", "b")
        assert table.colours == {(0, 0, 255): 0, (255, 0, 0): 1, (10, 20, 30): 255}
        assert table.ignore == (), "a colour alone takes no id"
        assert table.coding().colours[(10, 20, 30)] == 255
    path.write_text(classes % ", {name: __ignore__, id: 7, color: [1, 2, 3]}")
    table = read_classes(tmp_path)
    assert (table.ignore, table.colours[(1, 2, 3)]) == ((7,), 255)
    path.write_text(classes % "" + "unlabelled_color: [0, 0, 255]\n")
    with pytest.raises(LabelFormatError, match=r"D401 .*by 'a' and by unlabelled pixels"):
        read_classes(tmp_path)


def test_aliases_long_numbers_and_nesting_of_a_file_are_refused(tmp_path):
    path = tmp_path / "classes.yaml"
    bomb = "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [*{last}, *{last}]\n"
        for last, name in zip("abcdefg", "bcdefgh", strict=True)
    )
    for text in (bomb, "[" * 3000, f"classes: [{'9' * 5000}]", "x" * 300_000, "? [a]\n: b"):
        path.write_text(text)
        with pytest.raises(LabelFormatError, match=r"D202 .*classes\.yaml"):
            read_classes(tmp_path)
