"""Files: a table by hand from each format, what a target is taken for, and every refusal."""

import tracemalloc
import zipfile

import numpy as np
import pytest

import hostile
from hostile import fuzzed
from n3.data import tables
from n3.data.tables import DataError, infer_kind, read_rows, read_table

FLOWERS = "size,colour,species\n1.5,red,b\n2,blue,a\n-3e1,red,a\n4,green,b\n"


def write(folder, text, name="own.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def archive(folder, **arrays):
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def numbers(rows=10):
    return np.arange(2.0 * rows).reshape(rows, 2)


def test_a_csv_by_hand(tmp_path):
    table = read_table(write(tmp_path, FLOWERS), target=("species",))
    assert table.inputs == ("size", "colour=blue", "colour=green", "colour=red")
    assert table.samples.inputs.tolist() == [[1.5, 0, 0, 1], [2, 1, 0, 0], [-30, 0, 0, 1], [4, 0, 1, 0]]
    assert table.targets == ("a", "b")
    assert table.samples.targets.tolist() == [1, 0, 0, 1]


def test_several_numbers_may_be_learnt(tmp_path):
    path = write(tmp_path, "a,b,c\n1,2,3.5\n4,5,6.5\n7,8,9.5\n")
    table = read_table(path, target=("c", "a"))
    assert (table.inputs, table.targets) == (("b",), ("c", "a"))
    assert table.samples.targets.tolist() == [[3.5, 1], [6.5, 4], [9.5, 7]]


def test_quotes_blanks_empty_rows_and_a_byte_order_mark_are_read(tmp_path):
    text = '\ufeffname , y\r\n"a, or b", 1.5\r\n\r\nc ,2.5\r\n'
    table = read_table(write(tmp_path, text), target=("y",))
    assert table.inputs == ("name=a, or b", "name=c")
    assert table.samples.targets.tolist() == [[1.5], [2.5]]


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_a_file_is_the_same_in_blocks_of_rows_of_any_number(rows, tmp_path, monkeypatch):
    """Numbers alone, a text in a later block, a value that is missing, and a row of another length."""
    path = write(tmp_path, "a,b,c,y\n1,1,1,1\n2,2,2,2\n\n3,3,,3\n4,x,4,5\n5,x,5,7\n6,x,6,8\n")
    odd = write(tmp_path, "a,y\n1,2\n3,4\n5,6\n7\n8,9,1\n", name="odd.csv")
    whole = tables._cells(path, separator=None, decimal=".", encoding=None)
    monkeypatch.setattr(tables, "BLOCK_ROWS", rows)
    own = tables._cells(path, separator=None, decimal=".", encoding=None)
    assert own[0] == whole[0]
    assert {name: list(cells) for name, cells in own[1].items()} == {n: list(c) for n, c in whole[1].items()}
    assert [type(cells) for cells in own[1].values()] == [np.ndarray, list, list, np.ndarray]
    assert own[1]["b"] == ["1", "2", "3", "x", "x", "x"]
    with pytest.raises(DataError, match=r"row 5 must have 2 cells, as the header; got 1 \(and in row 6\)"):
        read_table(odd, target=("y",))


def test_numbers_of_a_file_take_little_more_than_their_own_memory(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(20_000, 20))
    path = write(tmp_path, ",".join(f"x{n}" for n in range(20)) + "\n")
    with path.open("a") as file:
        np.savetxt(file, numbers, fmt="%.6f", delimiter=",")
    tracemalloc.start()
    tables._cells(path, separator=None, decimal=".", encoding=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * path.stat().st_size  # held as texts, cells alone take more


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ([["a", "b", "a"]], "classification"),
        ([[0.0, 1.0, 0.0, 1.0]], "classification"),
        ([[0.5, 1.0, 0.5, 1.0]], "regression"),
        ([[0.0, 1.0, 2.0, 3.0]], "regression"),  # each value is there once
        ([[1.0, 2.0] * 2, [1.0, 2.0] * 2], "regression"),
        ([[float(n) for n in range(20)] * 2], "classification"),
        ([[float(n) for n in range(21)] * 2], "regression"),
    ],
)
def test_what_a_target_is_taken_for(columns, kind):
    assert infer_kind([np.array(column) for column in columns]) == kind


def test_missing_values_of_inputs_get_a_column_of_their_own(tmp_path):
    path = write(tmp_path, "size,colour,y\n1,red,0.5\n?,,1.5\n5,red,2.5\n6,blue,3.5\n")
    table = read_table(path, target=("y",))
    assert table.inputs == ("size", "size=(missing)", "colour=blue", "colour=red", "colour=(missing)")
    expected = [[1, 0, 0, 1, 0], [5, 1, 0, 0, 1], [5, 0, 0, 1, 0], [6, 0, 1, 0, 0]]
    assert table.samples.inputs.tolist() == expected


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_separator_is_found_in_the_header_and_numbers_may_have_a_comma(tmp_path, mark):
    text = f"a, b{mark}y\n1,5{mark}2,5\n-3{mark}4\n".replace("\n", "\r\n")
    table = read_table(write(tmp_path, text, "own.tsv"), target=("y",), decimal=",")
    assert (table.inputs, table.samples.inputs.tolist()) == (("a, b",), [[1.5], [-3]])
    assert table.samples.targets.tolist() == [[2.5], [4]]


def test_a_separator_may_be_given(tmp_path):
    table = read_table(write(tmp_path, "x|z|y\n1|0|2\n3|1|4\n"), target=("y",), separator="|")
    assert table.inputs == ("x", "z")


def test_a_point_is_no_thousand_where_numbers_have_a_comma(tmp_path):
    path = write(tmp_path, "x;y\n1.000;2\n2.000;3\n")
    with pytest.raises(
        DataError, match=r"row 2, column `x` must .*'1\.000', .*thousands: remove the points \("
    ):
        read_table(path, target=("y",), decimal=",")
    path = write(tmp_path, "x;y\n1.5;2\n2.5;3\n")
    with pytest.raises(
        DataError, match=r"`x` must be a number with a comma and no point; .*: set `decimal` \. "
    ):
        read_table(path, target=("y",), decimal=",")


def test_an_encoding_may_be_given(tmp_path):
    content = "größe,y\n1,2.5\n2,3.5\n"
    for encoding in ("latin-1", "utf-16"):
        path = write(tmp_path, content.encode(encoding))
        assert read_table(path, target=("y",), encoding=encoding).inputs == ("größe",)
    with pytest.raises(DataError, match="is not of `encoding` ascii: byte 2 does not fit"):
        read_table(write(tmp_path, content.encode("latin-1")), target=("y",), encoding="ascii")


def test_columns_are_left_out_and_numbers_taken_for_categories(tmp_path):
    path = write(tmp_path, "id,code,x,y\n1,07,1,2.5\n2,7,2,3.5\n3,07,3,1\n")
    table = read_table(path, target=("y",), drop=("id",), categorical=("code",))
    assert table.inputs == ("code=07", "code=7", "x")
    with pytest.raises(ValueError, match=r"`drop` .*; got 'id,x'\. Separate names by spaces: id x\."):
        read_table(path, target=("y",), drop=("id,x",))
    with pytest.raises(ValueError, match=r"`drop` must name a column of .*; got 'idd'\. Did you mean 'id'"):
        read_table(path, target=("y",), drop=("idd",))


def test_all_that_is_wrong_is_in_one_report(tmp_path):
    rows = [f"2024-01-{n:02d},{n if n % 2 else 'x'},{'' if n in (3, 4) else n + 0.5}" for n in range(1, 16)]
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path, "\n".join(["day,size,y", *rows])), target=("y",))
    first, *problems = str(caught.value).splitlines()
    assert first.endswith("own.csv has 3 problems:")
    assert problems[0].startswith("- row 2, column `day` must be a number, such as a count of days, not a date")
    assert problems[0].endswith("(and in row 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 4 more).")
    assert "row 3, column `size` must be a number, as most of the column is; got 'x'" in problems[1]
    assert problems[2] == "- row 4, column `y` must have a value; got '' (and in row 5)."


def test_rows_to_predict_are_read_by_what_was_learnt(tmp_path):
    path = write(tmp_path, "y,code,x,more\n1,7,,z\n2,08,2,z\n")
    frame = read_rows(path, ("x", "code"), texts=("code",))
    assert frame["code"].tolist() == ["7", "08"]
    assert np.array_equal(frame["x"], [np.nan, 2.0], equal_nan=True)
    one = archive(tmp_path, inputs=numbers(3))
    assert list(read_rows(one, ("a", "b"))) == ["a", "b"]
    with pytest.raises(DataError, match="`inputs` must have 1 columns; got 2"):
        read_rows(one, ("a",))


def test_a_file_of_another_separator_is_named_with_its_columns(tmp_path):
    path = write(tmp_path, "x;y\n1,5;2\n2,5;3\n")
    with pytest.raises(
        DataError, match=r"row 2 must have 1 cells, .* got 2 .*\. By `separator` ',' .* 'x;y'\. Set"
    ):
        read_table(path, target=("y",), separator=",")
    path = write(tmp_path, "x;y\n1;2\n2;3\n")
    with pytest.raises(ValueError, match=r"got 'y'\. By `separator` ',' it has the columns 'x;y'\. Set `sep"):
        read_table(path, target=("y",), separator=",")
    with pytest.raises(DataError, match=r"own\.csv must have the columns 'x': not there\. By `separator` ','"):
        read_rows(path, ("x",), separator=",")
    path = write(tmp_path, "x,y\n1,2\n2,3\n")
    with pytest.raises(ValueError, match=r"With `decimal` , a comma separates no cells: save .* `separator` ;"):
        read_table(path, target=("y",), decimal=",")


def test_a_column_of_numbers_to_predict_has_no_text_and_may_be_empty(tmp_path):
    with pytest.raises(DataError, match="row 2, column `x` must be a number, as in training; got 'a'"):
        read_rows(write(tmp_path, "x\na\n"), ("x",))
    assert np.isnan(read_rows(write(tmp_path, "x,z\n,1\n,2\n"), ("x",))["x"]).all()


def test_the_kind_may_be_asked_for(tmp_path):
    path = write(tmp_path, "x,y\n1,0\n2,1\n3,0\n4,-7\n")
    assert read_table(path, target=("y",), kind="regression").samples.targets.tolist() == [[0], [1], [0], [-7]]
    table = read_table(path, target=("y",), kind="classification")
    assert (table.targets, table.samples.targets.tolist()) == (("-7", "0", "1"), [1, 2, 1, 0])
    parts = write(tmp_path, "x,y\n1,0.5\n2,1\n")
    assert read_table(parts, target=("y",), kind="classification").targets == ("0.5", "1.0")


def test_an_archive_by_hand(tmp_path):
    table = read_table(archive(tmp_path, inputs=numbers(), targets=np.array(["no", "yes"] * 5)))
    assert (table.inputs, table.targets) == (("x0", "x1"), ("no", "yes"))
    assert np.array_equal(table.samples.inputs, numbers())
    assert table.samples.targets.tolist() == [0, 1] * 5
    table = read_table(archive(tmp_path, inputs=numbers(3)[:, :1], targets=0.5 + numbers(3)))
    assert (table.inputs, table.targets) == (("x",), ("y0", "y1"))
    assert np.array_equal(table.samples.targets, 0.5 + numbers(3))
    truths = archive(tmp_path, inputs=numbers(4).astype(int), targets=np.array([True, False, True, False]))
    assert read_table(truths).targets == ("0", "1")


ROW = "1,2\n"
BAD_TEXT = {
    "": "must begin with a header that names its columns; got nothing",
    "1,2\n3,4\n5,6\n": "must begin with a header that names its columns; got 1, 2",
    "x|y\n1|2\n3|4\n": r"`separator` must be given, such as '\|'; its header is 'x\|y'",
    "x,,y\n1,2,3\n4,5,6\n": "column 2 must have a name in the header",
    "x,y,x\n1,2,3\n4,5,6\n": "names of the columns must differ; 'x' appears more than once",
    "x,y\n": "there must be two rows or more below the header; got 0",
    "x,y\n1,2\n": "there must be two rows or more below the header; got 1",
    "x,y\n1,2\n\n3,4,5\n": "row 4 must have 2 cells, as the header; got 3",
    "x,y\n1,2\n3,NaN\n": "row 3, column `y` must have a value; got 'NaN'",
    "x,y\n1,2\n3,4\n5 m,6\n": "row 4, column `x` must be a number, as most of the column is; got '5 m'",
    "x,y\n1,2\n1e999,4\n": r"row 3, column `x` must lie within -1e\+100 and 1e\+100; got 1e999",
    "x,y\n1,2\n3,2\n": r"`y` must hold two different values or more; got 2.0 alone",
    "y\n1\n2\n": "there must be a column beside `target`",
    'x,y\n"1,2\n3,4\n': "cannot be read as comma-separated values: unexpected end of data",
    b"x,y\n\xff,2\n": "must be UTF-8 text; byte 4 is not",
    "x,y\n"
    + "".join(f"n{n},{n}.5\n" for n in range(300)): "`x` must hold .* that repeat; got 300, such as 'n0'",
    'x,y\n"1,5",2\n"2,5",3\n': "row 2, column `x` must be a number with a point and no comma; got '1,5': "
    r"write a point, or set `decimal` , in a file with `separator` ; \(and in row 3\)",
    'x,y\n1,"1,000"\n2,"2,000"\n': "row 2, column `y` must be a number; got '1,000', which looks like "
    r"thousands: remove the commas \(if it means 1\.000, write a point, or set `decimal` , in a file with",
    "x;y\n1;480,300\n2;950\n": r"'480,300', .* remove the commas \(if it means 480\.300, set `decimal` ,\)",
    'x,y\n1,"1,480,300"\n2,"2,000"\n': r"'1,480,300', .* thousands: remove the commas \(and in row 3\)",
    'x,y\n1,"1,480.50"\n2,"2,000"\n': r"'1,480\.50', .* thousands: remove the commas \(and in row 3\)",
    'x,y\n1,"1,480"\n2,"2,5"\n': "must be a number with a point and no comma; got '1,480'",
    "x,y\n2024-01-31,1\n2024-02-01,3\n": "row 2, column `x` must be a number, .* not a date; got '2024-01-31'",
    "x,y\n31.1.2024,1\n1.2.2024,3\n": "row 2, column `x` must be a number, .* not a date; got '31.1.2024'",
    "x,y\n"
    + "".join(
        f"n{n},{n}.5\n" for n in range(30)
    ): "`x` must hold .* Leave it out by `drop` if it names the rows",
    "x,e,y\n1,,2\n2,,3\n": "row 2, column `e` must have a value; leave the column out by `drop`; got ''",
    "x,e,y\n1,None,2\n2,None,3\n": "row 2, column `e` must have a value; .*; got 'None'",
    "x,y\n1,a\n2,\n3,b\n": "row 3, column `y` must have a value; got ''",
    "x,copy,y\n1,2.5,2.5\n2,3.5,3.5\n3,1,1\n": "column `copy` must not repeat the target `y`: leave it out",
    "x,y\n1,9007199254740993\n2,9007199254740992\n": r"row 2, column `y` must lie within 2\*\*53",
    "x,y\n1,\0002\n2,3\n": "row 2 must be text; it holds a NUL",
    "x,y\n1,2\n2,3\n".encode("utf-16"): "must be UTF-8 text; byte 0 is not: set `encoding`, such as utf-16,",
    "x,y\n1,2\n2,3\n".encode("utf-16-le"): "row 1 must be text; it holds a NUL",
    "x,y\n1,2\n" + "a" * 200_000 + ",1\n": "row 3 cannot be read .*: field larger",
    "x,y\n" + "".join(f"{n},n{n}\n" for n in range(300)): "`y` must hold 256 classes at most; got 300",
}


@pytest.mark.parametrize("text", BAD_TEXT)
def test_bad_text_is_refused_by_file_row_and_column(tmp_path, text):
    with pytest.raises(DataError, match=rf"own\.csv.*{BAD_TEXT[text]}.*\.$"):
        read_table(write(tmp_path, text), target=("y",))


BAD_ARRAYS = {
    "must hold the arrays `inputs` and `targets`; it holds inputs": {"inputs": numbers()},
    "`inputs` must be numbers of shape .*; got float64 of shape": {
        "inputs": numbers()[0],
        "targets": numbers(),
    },
    "`inputs` must be numbers of shape": {"inputs": np.array([["a"], ["b"]]), "targets": np.arange(2.0)},
    "`targets` must be numbers of": {"inputs": numbers(), "targets": np.zeros((10, 0))},
    "as many rows, two or more; got 10 and 9": {"inputs": numbers(), "targets": numbers(9)},
    "two or more; got 1 and 1": {"inputs": numbers(1), "targets": numbers(1)},
    "`inputs` must lie within .*; got inf in row 3, column 1, counted from 0": {
        "inputs": np.where(numbers() == 7, np.inf, numbers()),
        "targets": numbers(),
    },
    "`targets` must lie within .*; got nan in row 3, column 1, counted from 0": {
        "inputs": numbers(),
        "targets": np.where(numbers() == 7, np.nan, numbers()),
    },
    "`y1` must hold two different values": {"inputs": numbers() + 0.5, "targets": numbers() * [1, 0]},
    "`inputs` must lie within -9.0072e.15 and 9.0072e.15; got 9.22": {
        "inputs": np.array([[2**63 - 1], [1]]),
        "targets": np.array([0.5, 1]),
    },
    "`inputs` must be numbers of shape .*; got datetime64": {
        "inputs": np.array([["2024-01-01"], ["2024-01-02"]], "datetime64[D]"),
        "targets": np.array([0.5, 1]),
    },
    "`targets` must lie within": {"inputs": numbers(2), "targets": np.array([2**64 - 1, 3], np.uint64)},
    "cannot be read: Object arrays": {"inputs": numbers(), "targets": np.array([{}, {}] * 5)},
}


@pytest.mark.parametrize("message", BAD_ARRAYS)
def test_bad_arrays_are_refused_by_file_and_name(tmp_path, message):
    with pytest.raises(DataError, match=rf"own\.npz.*{message}"):
        read_table(archive(tmp_path, **BAD_ARRAYS[message]))


def test_what_is_no_archive_or_a_damaged_one_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"must be an archive as `numpy\.savez` writes it"):
        read_table(write(tmp_path, "text", "own.npz"))
    path = archive(tmp_path, inputs=numbers(), targets=numbers())
    content = bytearray(path.read_bytes())
    content[180] ^= 255
    with pytest.raises(DataError, match=r"own\.npz cannot be read: "):
        read_table(write(tmp_path, bytes(content), "own.npz"))


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        (
            ("specie",),
            None,
            r"`target` must name a column of .*, size, colour, species; got 'specie'\. Did you",
        ),
        (("species",), "regression", "`species` must hold numbers for regression; got 'b'"),
        (("size", "species"), None, "`species` must hold numbers for regression; got 'b'"),
        (("size", "species"), "classification", "`kind` classification takes one `target`; got size, species"),
    ],
)
def test_a_target_that_does_not_fit_is_no_fault_of_the_file(tmp_path, target, kind, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_table(write(tmp_path, FLOWERS), target=target, kind=kind)
    assert not isinstance(caught.value, DataError)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"`data` must name a file; there is none at '.*nowhere\.csv'"):
        read_table(tmp_path / "nowhere.csv", target=("y",))


@pytest.mark.parametrize("header", ["a,a=b,y", "a=b,a,y"])
def test_a_category_that_makes_another_columns_name_is_refused(tmp_path, header):
    rows = ["b,1,0", "c,2,1", "b,3,0"] if header.startswith("a,") else ["1,b,0", "2,c,1", "3,b,0"]
    path = write(tmp_path, "\n".join([header, *rows]) + "\n")
    with pytest.raises(DataError, match="'a=b', which is there"):
        read_table(path, target=("y",))


def test_a_quoted_line_break_a_constant_and_names_of_rows_that_are_numbers_stay(tmp_path):
    path = write(tmp_path, 'id,text,constant,y\r\n1,"a\nb",5,2.5\r\n2,c,5,3.5\r\n3,"a\nb",5,1\r\n')
    table = read_table(path, target=("y",))
    assert table.inputs == ("id", "text=a\nb", "text=c", "constant")
    assert table.samples.inputs.tolist() == [[1, 1, 0, 5], [2, 0, 1, 5], [3, 1, 0, 5]]


def test_an_archive_that_says_it_is_larger_than_all_memory_is_refused(tmp_path):
    header = str({"descr": "<f8", "fortran_order": False, "shape": (10**13, 1)}).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "own.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("inputs", "targets"):
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match=r"own\.npz cannot be read"):
        read_table(tmp_path / "own.npz")


def test_random_tables_are_read_or_refused(tmp_path):
    fuzzed(hostile.TABLES, lambda content: hostile.check_table(tmp_path, content), examples=50)


def test_a_decoder_that_names_no_byte_names_the_file(tmp_path):
    path = write(tmp_path, b"x,y\n1-!,2\n")
    with pytest.raises(DataError, match=r"own\.csv is not of `encoding` punycode: decoding with"):
        read_table(path, target=("y",), encoding="punycode")


def test_a_target_whose_every_row_is_a_class_of_its_own_is_refused(tmp_path):
    path = write(tmp_path, b"x,y\n1,a\n2,b\n3,c\n")
    with pytest.raises(DataError, match="`y` must hold a class twice or more; all 3 rows differ"):
        read_table(path, target=("y",))


def test_a_file_is_read_once_for_plan_and_training_and_anew_when_it_changes(tmp_path, monkeypatch):
    path, read, seen = tmp_path / "own.csv", tables._cells, []
    monkeypatch.setattr(tables, "_cells", lambda *own, **how: seen.append(own) or read(*own, **how))
    path.write_text("x,y\n1,2.5\n2,3.5\n4,5.25\n")
    first, again = (read_table(path, target=["y"]) for _ in range(2))
    assert len(seen) == 1
    assert first is again
    path.write_text("x,y\n1,2.5\n2,3.5\n4,5.75\n5,6.25\n")
    assert len(read_table(path, target=["y"]).samples[0]) == 4
    assert read_table(path, target=["x"]).inputs == ("y",)
    assert len(seen) == 3
