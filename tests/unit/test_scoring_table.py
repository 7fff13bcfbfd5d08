"""CSV files as people have them: which column is which, what is left out, and what is said about it."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from eventproc.errors import InvalidInput
from eventproc.scoring import Columns, aggregate, read_csv


@pytest.fixture
def file(tmp_path):
    def write(content, name="series.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        "timestamp,value\n2014-04-01 00:00:00,20.0\n2014-04-01 00:05:00,21.5\n",
        "2014-04-01 00:00:00,20.0\n2014-04-01 00:05:00,21.5\n",
        "value;time\n20,0;01.04.2014 00:00\n21,5;01.04.2014 00:05\n",
        "host\ttimestamp\tcpu\na\t2014-04-01T00:00:00Z\t20\nb\t2014-04-01T00:05:00Z\t21.5\n",
        "\ufefftimestamp,value\r\n1396310400,20\r\n1396310700,21.5\r\n",
        "# made by hand\ntimestamp,value\n2014-04-01,20\n\n2014-04-01 00:05,21.5",
        "dttm,value,label\ndatetime,float,float\nT,,\n2014-04-01 00:00:00,20,0\n2014-04-01 00:05:00,21.5,0\n",
        '"timestamp","value"\n"2014-04-01 00:00:00","20"\n"2014-04-01 00:05:00","21.5"\n',
        "Date,Reading\n2014-04-01 00:00:00,20\n2014-04-01 00:05:00,21.5\n",
        "id,when,amount\n7,2014-04-01 00:00:00,20\n8,2014-04-01 00:05:00,21.5\n",
    ],
)  # fmt: skip
def test_the_same_two_samples_in_many_files(file, content):
    table = read_csv(file(content))
    assert table.seconds.tolist() == [1396310400.0, 1396310700.0]
    assert table.values.tolist() == [20.0, 21.5]
    assert not table.refused
    assert not table.odd


def test_packed_and_utf16_files_are_read(file):
    plain = "timestamp,value\n2014-04-01,1\n2014-04-02,2\n"
    assert read_csv(file(gzip.compress(plain.encode()), "a.csv.gz")).values.tolist() == [1.0, 2.0]
    assert read_csv(file(plain.encode("utf-16"), "b.csv")).values.tolist() == [1.0, 2.0]


def test_rows_that_can_not_be_read_are_refused_one_by_one(file):
    table = read_csv(
        file("timestamp,value\n2014-04-01,1\nyesterday,2\n2014-04-03,three\n2014-04-04\n2014-04-05,inf\n2014-04-06,6\n")
    )
    assert table.values.tolist() == [1.0, 6.0]
    assert [(row.line, row.kind) for row in table.refused] == [(3, "time"), (4, "value"), (5, "short"), (6, "value")]
    assert "'yesterday'" in str(table.refused[0])


@pytest.mark.parametrize("word", ["", "NA", "n/a", "NaN", "null", "None", "-"])
def test_rows_without_a_value_are_counted(file, word):
    table = read_csv(file(f"timestamp,value\n2014-04-01,1\n2014-04-02,{word}\n2014-04-03,3\n"))
    assert table.values.tolist() == [1.0, 3.0]
    assert table.missing == 1
    assert not table.refused


def test_repeated_and_unordered_rows_are_named_and_can_be_left_out(file):
    table = read_csv(file("timestamp,value\n2014-04-02,1\n2014-04-02,2\n2014-04-01,3\n2014-04-03,4\n"))
    assert table.values.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert [(row.line, row.kind) for row in table.odd] == [(3, "repeated"), (4, "unordered")]
    assert table.advancing().values.tolist() == [1.0, 4.0]


def test_columns_are_given_by_name_or_number(file):
    path = file("when,a,b\n2014-04-01,1,10\n2014-04-02,2,20\n")
    assert read_csv(path).columns == {"timestamp": "when", "value": "a"}
    assert read_csv(path, Columns(value="B")).values.tolist() == [10.0, 20.0]
    assert read_csv(path, Columns(value="3", timestamp="1")).values.tolist() == [10.0, 20.0]
    with pytest.raises(InvalidInput, match="no value column 'c'; there are: when, a, b"):
        read_csv(path, Columns(value="c"))
    with pytest.raises(InvalidInput, match="both the timestamp and the value"):
        read_csv(path, Columns(value="when"))


def test_labels_are_found_and_are_never_the_value(file):
    table = read_csv(file("timestamp,is_anomaly,cpu\n2014-04-01,0,5\n2014-04-02,True,6\n2014-04-03,1,7\n"))
    assert table.values.tolist() == [5.0, 6.0, 7.0]
    assert table.labels is not None
    assert table.labels.tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no rows"),
        ("timestamp,value\n", "a header and no rows"),
        ("a,b\nx,y\n", "no column holds times"),
        ("timestamp,name\n2014-04-01,x\n", "--value-column"),
        ("timestamp,value\n2014-04-01,NA\n", "none of 1 rows"),
        ("timestamp,value\n01/02/2014,1\n02/03/2014,2\n", "day and month can not be told apart"),
    ],
)
def test_a_file_that_is_no_series_says_why(file, content, said):
    with pytest.raises(InvalidInput, match=said):
        read_csv(file(content))


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(InvalidInput, match="No such file"):
        read_csv(tmp_path / "none.csv")


def test_windows_hold_what_lies_in_them():
    seconds = np.array([0.0, 59.0, 60.0, 200.0, 30.0])
    values = np.array([1.0, 2.0, 5.0, 7.0, 3.0])
    found = {
        name: aggregate(seconds, values, 60.0, name)[1].tolist() for name in ("sum", "mean", "count", "last", "max")
    }
    assert found == {"sum": [6, 5, 7], "mean": [2, 5, 7], "count": [3, 1, 1], "last": [2, 5, 7], "max": [3, 5, 7]}
    assert aggregate(seconds, values, 60.0)[0].tolist() == [0.0, 60.0, 180.0]
    with pytest.raises(InvalidInput, match="there are mean, sum"):
        aggregate(seconds, values, 60.0, "median of means")
