"""Tables as people have them: kinds of columns, what is learnt of them and from whom, and what is refused."""

import datetime
import decimal

import numpy as np
import pandas
import pyarrow as pa
import pytest
from pyarrow import parquet

from edgekit.data import delimited, load
from edgekit.data.columns import Raw, encode, headings, learn, readable, width
from edgekit.data.objects import loaded
from edgekit.data.settings import Column, Data, Table
from edgekit.data.sources import load_own
from edgekit.data.tables import read
from edgekit.errors import DataError


def _rows(many=240, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(many):
        kind = int(rng.integers(3))
        day = datetime.date(2024, 1, 1) + datetime.timedelta(days=number)
        temperature = "" if number % 17 == 3 else f"{20 + 8 * kind + rng.standard_normal():.2f}"
        mode = ["slow", "fast", "eco"][int(rng.integers(3))]
        rows.append(
            [f"SN{number:04d}", temperature, mode, str(day), f"site{number % 4}", ["ok", "worn", "broken"][kind]]
        )
    return rows


def _write(path, rows, separator=","):
    heading = ["serial", "temperature", "mode", "bought", "site", "fault"]
    path.write_text("".join(separator.join(row) + "\n" for row in [heading, *rows]))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("table") / "machines.csv", _rows())


def _settings(path, **more):
    return Data(source=str(path), clients=4, table=Table(label="fault", **more))


def test_a_file_is_known_by_its_ending_and_its_columns_become_numbers(table):
    dataset = load(_settings(table, group="site").model_copy(update={"partition": "natural"}), 0)
    assert (dataset.clients, dataset.classes) == (4, ["broken", "ok", "worn"])
    assert dataset.normalisation["headings"] == [
        "temperature", "temperature missing", "mode=eco", "mode=fast", "mode=slow",
        "bought", "bought sine of year", "bought cosine of year", "bought sine of week", "bought cosine of week",
    ]  # fmt: skip
    assert "left out: serial (240 different texts)" in dataset.description
    together = np.concatenate([dataset.client(number).x for number in range(4)])
    assert np.abs(together[:, [0, 5]].mean(0)).max() < 1e-5  # by the clients' own mean and spread
    assert set(np.unique(together[:, 2:5].sum(1))) == {1.0}


def test_under_privacy_nothing_is_learnt_of_clients_rows(table, tmp_path):
    private = load(_settings(table), 0, private=True)
    temperature, bought = (private.normalisation["columns"][place] for place in (0, 2))
    first = (np.datetime64("2024-01-01") - np.datetime64("1970-01-01")).astype(int)
    own = np.rint(private.calibration.x[:, 5] * bought["std"] + bought["mean"]).astype(int) - first  # rows by their day
    rows = _rows()
    known = [float(rows[place][1]) for place in own if rows[place][1]]
    np.testing.assert_allclose([temperature["mean"], temperature["std"]], [np.mean(known), np.std(known)], rtol=1e-6)
    others = set(range(240)) - set(own)
    for place in others:
        rows[place][1] = "1000"
    changed = load(_settings(_write(tmp_path / "changed.csv", rows)), 0, private=True)
    assert changed.normalisation["columns"] == private.normalisation["columns"]
    assert load(_settings(tmp_path / "changed.csv"), 0).normalisation["columns"][0]["mean"] == 1000.0


def test_time_and_category_and_missing_follow_their_definitions():
    days = np.array([0.0, 4.5, np.nan])  # Thursday 1 January 1970, Monday noon, unknown
    column = learn("when", Raw("date", days), 10)
    assert (column.clock, column.missing, width(column)) == (True, True, 8)
    made = encode([column], {"when": Raw("date", days)}, np.arange(3))
    by_name = dict(zip(headings([column]), made.T, strict=True))
    np.testing.assert_allclose(by_name["when sine of week"], [np.sin(2 * np.pi * 3 / 7), 0, 0], atol=1e-6)
    np.testing.assert_allclose(by_name["when cosine of day"], [1, -1, 0], atol=1e-6)
    np.testing.assert_allclose(by_name["when missing"], [0, 0, 1])
    few = learn("mode", Raw("category", np.array([0, 0, 1, 2, -1], np.int32), ("a", "b", "c")), 2)
    assert few.values == ["a", "b"]
    np.testing.assert_allclose(
        encode([few], {"mode": Raw("category", np.array([2, 1, -1, 0], np.int32), ("a", "b", "new"))}, np.arange(4)),
        [[0, 0], [0, 1], [0, 0], [1, 0]],
    )


def test_a_row_is_told_as_it_was_written():
    raw = {
        "when": Raw("date", np.array([19723.5, np.nan, 19000.0])),
        "mode": Raw("category", np.array([1, -1, 0], np.int32), ("eco", "slow")),
        "hours": Raw("number", np.array([12.5, 3.0, np.nan])),
    }
    columns = [learn(name, one, 10) for name, one in raw.items()]
    rows = encode(columns, raw, np.arange(3))
    assert [readable(columns, row) for row in rows] == [
        ["2024-01-01T12:00:00", "slow", "12.5"],
        ["–", "–", "3"],
        ["2022-01-08T00:00:00", "eco", "–"],
    ]


def test_by_time_the_newest_rows_are_tested_and_clients_follow_each_other(table):
    settings = _settings(table, time="bought").model_copy(update={"partition": "time"})
    source = read(str(table), settings.table)
    dataset = load(settings, 0)
    assert len(dataset.test) == 48
    assert "bought" not in dataset.normalisation["headings"]
    newest = source.fitted(np.arange(240)).raw["temperature"].values[192:]
    expected = dataset.normalisation["columns"][0]
    filled = np.where(np.isnan(newest), expected["mean"], newest)
    np.testing.assert_allclose(dataset.test.x[:, 0], (filled - expected["mean"]) / expected["std"], atol=1e-5)


@pytest.mark.parametrize("kind", ["csv", "semicolons", "parquet", "pandas", "arrow", "folder"])
def test_the_same_table_in_other_forms_is_the_same_data(table, tmp_path, kind):
    frame = pandas.read_csv(table)
    expected = load(_settings(table), 0)
    settings = _settings(tmp_path / "t.csv")
    if kind == "csv":
        settings = _settings(table)
    elif kind == "semicolons":
        rows = [[row[0], row[1].replace(".", ","), *row[2:]] for row in _rows()]
        _write(tmp_path / "t.csv", rows, ";")
    elif kind == "parquet":
        settings = _settings(tmp_path / "t.parquet")
        parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "t.parquet")
    elif kind == "folder":
        for part, rows in enumerate([_rows()[:100], _rows()[100:]]):
            _write(tmp_path / f"part{part}.csv", rows)
        settings = _settings(f"csv:{tmp_path}")
        assert sorted(set(read(str(tmp_path), settings.table).groups)) == ["part0", "part1"]
    if kind in ("pandas", "arrow"):
        given = frame if kind == "pandas" else pa.Table.from_pandas(frame)
        found, _ = loaded(given, "it", settings)
        rows = np.arange(240)
        np.testing.assert_array_equal(
            found.fitted(rows).load(rows), read(str(table), settings.table).fitted(rows).load(rows)
        )
        return
    np.testing.assert_array_equal(load(settings, 0).test.x, expected.test.x)


def test_a_device_reads_its_own_table_as_the_federation_learnt(table, tmp_path):
    learnt = load(_settings(table), 0)
    columns = [Column.model_validate(one) for one in learnt.normalisation["columns"]]
    own = _write(tmp_path / "own.csv", [row for row in _rows(seed=5) if row[-1] != "ok"])
    settings = Data(source=f"csv:{own}", table=Table(label="fault", columns=columns))
    found, _ = load_own(settings, learnt.classes)
    assert found.x.shape[1:] == learnt.shape
    assert set(np.unique(found.y)) == {0, 2}
    with pytest.raises(DataError, match="does not say how columns become numbers"):
        load_own(_settings(own), learnt.classes)


def test_numbers_to_learn_and_rows_without_a_label(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("size,price\n" + "".join(f"{n},{'' if n == 3 else n * 1.5 + 0.1:}\n" for n in range(60)))
    source = read(str(path), Table())
    assert source.classes == []
    assert source.values.shape == (59, 1)
    assert source.notes == ("1 rows without price",)


@pytest.mark.parametrize(
    ("content", "table", "told"),
    [
        ("a,b\n1,x\n2,y\n", {"label": "c"}, "has no column 'c'"),
        ("price,sort\n1,x\n2,y\n", {"label": "sort", "features": ["pric"]}, "did you mean 'price'"),
        ("a,b\n", {}, "has no rows"),
        ("", {}, "is empty"),
        ("a;b\n1,5;x,y;z\n", {}, "not a readable table"),
        ("1.5,2\n2.5,3\n", {}, "no line of headings"),
        ("one\n1\n2\n", {}, "has one column"),
        ("a,label\n" + "".join(f"{i},n{i}\n" for i in range(60)), {}, "60 different texts in 60 rows"),
        ("a,label\n" + "".join(f"{i % 9},{2**60 + i % 2}\n" for i in range(60)), {}, "beyond 2\\^53"),
        ("a,label\n1,caf\xe9\n", {}, "not in UTF-8"),
        ("x" * 200_000 + ",b\n1,2\n", {}, "no line of headings"),
        ("a,a,b\n1,2,x\n", {}, "two columns 'a'"),
        ("a,b\n1,\n2,\n", {"label": "b"}, "the label, is empty"),
        ("d,b\n31.12.2024,x\n2024,y\n", {"dates": {"d": "%d.%m.%Y"}}, "'2024' in the column 'd' is no date"),
        ("d,b\n2024-01-01,x\n2024-01-02,y\n", {"label": "d"}, "holds dates"),
        ("id,b\n" + "".join(f"n{i},{i % 2}\n" for i in range(60)), {}, "no column is left"),
        ("a,b\n1,x\n2,y\n", {"label": "b", "time": "b"}, "must hold a date or number"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path, content, table, told):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=told) as refused:
        read(str(path), Table(**table))
    assert "\n" not in str(refused.value)


def test_a_large_file_is_read_in_batches_whose_types_may_change_late(tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.data.delimited.BLOCK", 2000)
    path = tmp_path / "large.csv"
    lines = [f"{n},{n % 7},{'' if n < 300 else 'late'}\n" for n in range(600)]
    path.write_text("a,label,note\n" + "".join(lines) + "2.5,1,x\nbroken,1,late\n")
    source = read(str(path), Table())
    assert source.raw["note"].names == ("late", "x")
    assert "a (602 different texts)" in source.notes
    assert len(source.labels) == 602


@pytest.mark.parametrize(
    ("content", "classes", "numbers"),
    [
        ("a,label\n" + "1,none\n2,some\n" * 20, ["none", "some"], ["a"]),  # a word that stands for nothing elsewhere
        ("a,label\n" + "1,-1\n2,1\n" * 20, ["-1", "1"], ["a"]),
        ("a, label ,z\n" + "1, yes,3\n2,no ,4\n" * 20, ["no", "yes"], ["a", "z"]),
        ("x;z;label\n" + "1;2;p\n3;4;q\n" * 40 + "1,5;2;p\n", ["p", "q"], ["x", "z"]),  # a decimal comma, late
        ("y,class\n" + "1,p\n2,q\n" * 20, ["p", "q"], ["y"]),
    ],
)
def test_labels_and_numbers_as_people_write_them(tmp_path, content, classes, numbers):
    (tmp_path / "t.csv").write_text(content)
    source = read(str(tmp_path / "t.csv"), Table())
    assert source.classes == classes
    assert [name for name, raw in source.raw.items() if raw.kind == "number"] == numbers


def test_columns_whose_types_all_change_in_the_last_row_cost_one_more_look(tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.data.delimited.BLOCK", 20_000)
    looks = []
    real = delimited._numbers_in
    monkeypatch.setattr("edgekit.data.delimited._numbers_in", lambda *given: looks.append(1) or real(*given))
    names = [f"c{n}" for n in range(30)]
    rows = [",".join(["1"] * 30)] * 2000 + [",".join(["x"] * 30)]
    (tmp_path / "t.csv").write_text(
        "\n".join([",".join([*names, "label"]), *(f"{row},{n % 2}" for n, row in enumerate(rows))])
    )
    source = read(str(tmp_path / "t.csv"), Table())
    assert {raw.kind for raw in source.raw.values()} == {"category"}
    assert len(looks) == 1


def test_numbers_that_are_too_large_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("a,label\n" + "1e300,p\n2,q\n" * 20)
    with pytest.raises(DataError, match="the column 'a' holds 1e\\+300"):
        read(str(tmp_path / "t.csv"), Table()).fitted(np.arange(40))
    column = Column(name="a", kind="number", mean=0.0, std=1e-300)
    with pytest.raises(DataError, match="far beyond what was learnt"):
        encode([column], {"a": Raw("number", np.array([1.0, 5.0]))}, np.arange(2))


def test_columns_of_objects_are_what_they_hold():
    frame = pandas.DataFrame({"a": np.arange(60) / 7, "label": np.arange(60) % 3})
    for kind in (lambda one: one, decimal.Decimal, lambda one: None if one > 8 else one):
        given = frame.assign(a=pandas.Series([kind(float(one)) for one in frame["a"]], dtype=object))
        assert loaded(given, "it", Data())[0].raw["a"].kind == "number"
    with pytest.raises(DataError, match="two columns 'a'"):
        loaded(pandas.concat([frame, frame[["a"]]], axis=1), "it", Data())
