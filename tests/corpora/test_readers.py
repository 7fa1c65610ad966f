"""Texts from files and from the hub, as they come."""

import json
import os
import subprocess
import sys
import tracemalloc
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from course_lib.corpora.readers import read_texts

TEXTS = ["one\n", "zwei — drei", "", "a\u2028b \u0085 c", "🐎 \\n"]


def json_lines(texts) -> bytes:
    return b"".join(json.dumps({"id": i, "text": text}).encode() + b"\n" for i, text in enumerate(texts))


def test_every_kind_of_file_is_read_in_order_of_the_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.jsonl").write_bytes(json_lines(TEXTS) + b'\r\n{"text": null}\r\n{"text": "last"}')
    frames = [zstandard.compress(json_lines([text])) for text in TEXTS]  # a file may have many frames
    (tmp_path / "b" / "x.jsonl.zst").write_bytes(b"".join(frames))
    (tmp_path / "b" / "y.txt").write_bytes("\ufeffwith a mark\r\n".encode())
    table = pa.table({"id": range(6), "text": [*TEXTS, None]})
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=2)
    for passed_over in ("README.md", ".hidden.txt", "d.json"):
        (tmp_path / passed_over).write_text("no")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "e.txt").write_text("no")
    assert list(read_texts(tmp_path)) == [*TEXTS, "last", *TEXTS, "with a mark\n", *TEXTS]


def test_a_large_file_is_never_in_memory(tmp_path):
    line = json_lines(["x" * 10_000])
    (tmp_path / "a.jsonl").write_bytes(line * 3000)  # 30 MB each
    with zstandard.open(tmp_path / "b.jsonl.zst", "wb") as file:
        file.write(line * 3000)
    noise = np.random.default_rng(0).integers(0, 2**31, (128, 1000))
    table = pa.table({"text": [str(row.tolist()) * 40 for row in noise]})  # 128 groups of half a megabyte
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=1)
    del table

    tracemalloc.start()
    try:
        texts = read_texts(tmp_path)
        assert sum(len(text) for text in islice(texts, 6000)) == 60_000_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6
    before, largest = pa.total_allocated_bytes(), 0
    for _ in texts:
        largest = max(largest, pa.total_allocated_bytes() - before)
    assert 0 < largest < 20e6  # of 60


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"content": "y"}\n', r"a\.jsonl, line 2, should be .*content"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y', r"a\.jsonl, line 2"),
        ("a.jsonl", b'["text"]', r"a\.jsonl, line 1"),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl, line 1"),
        ("a.txt", b"\xff\xfe", r"a\.txt is not UTF-8"),
        ("a.md", b"no text", r"holds no file that ends in \.txt"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        list(read_texts(tmp_path))


def test_a_parquet_file_without_texts_names_its_columns(tmp_path):
    parquet.write_table(pa.table({"id": [1], "content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column 'text', but id, content"):
        list(read_texts(tmp_path))


@pytest.mark.parametrize(("ending", "module"), [("jsonl.zst", "zstandard"), ("parquet", "pyarrow.parquet")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, ending, module):
    (tmp_path / f"a.{ending}").touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"course-lib\[data\]'.*{module.split('.')[0]}`"):
        list(read_texts(tmp_path))


STREAMED = """
import sys
from course_lib.storage import AssetError
from course_lib.corpora.readers import stream_hub
print([text for text in stream_hub(sys.argv[1])])
try:
    stream_hub("no-one/no-such-data-set")
except AssetError as error:
    print(error)
"""


def test_a_data_set_is_streamed_and_without_a_hub_an_error_says_so(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(json_lines(["one", "two"]))
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", STREAMED, tmp_path / "set"]
    printed = subprocess.run(command, env=offline, check=True, capture_output=True, text=True).stdout.splitlines()
    assert printed[0] == "['one', 'two']"
    assert "'no-one/no-such-data-set' could not be streamed" in printed[1] and "read_texts" in printed[1]
