"""Rows of tables and of WebDataset's shards, as entries."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc

import datasets
import pandas
import pyarrow as arrow
import pytest
import webdataset
from PIL import Image
from pyarrow import parquet
from webdataset import tariterators

from rewardlab.bulk import Reading, open_source
from rewardlab.errors import InputError
from rewardlab.provenance import fingerprint
from rewardlab.storage.records import read_records
from rewardlab.storage.row_streams import RowStream
from rewardlab.storage.shards import shard_members

ROWS = [{"prompt": "2+2?", "response": word, "id": number} for number, word in enumerate("abc")]


def lines_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts_of(source):
    return [(entry.prompt, entry.output) for entry in source]


def read_by_webdataset(*paths):
    """Return the samples as the package groups a tar file's members."""
    samples = []
    for path in paths:
        with open(path, "rb") as stream:
            files = tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
            samples += list(tariterators.group_by_keys(files))
    return samples


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def shard(path, members, mode="w"):
    """Write a tar file with the standard library."""
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "json", "csv", "parquet", "datasets"])
def test_a_table_is_read_in_every_form(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    if form == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    elif form == "jsonl":
        lines_of(path, ROWS)
    elif form == "json":
        path.write_text(json.dumps(ROWS))
    elif form == "csv":
        path.write_text("prompt,response,id\n2+2?,a,0\n2+2?,b,1\n2+2?,c,2\n")
    elif form == "parquet":
        pandas.DataFrame(ROWS).to_parquet(path)
    else:
        mixed = datasets.Dataset.from_list(ROWS[::-1]).select([2, 1, 0])
        mixed.save_to_disk(str(path))
    source = open_source(path)
    assert len(source) == 3
    assert texts_of(source) == [("2+2?", letter) for letter in "abc"]
    assert texts_of(source) == texts_of(source), "it can be read again"
    assert [str(entry.columns["id"]) for entry in source] == ["0", "1", "2"]


def test_lines_are_counted_and_read_one_at_a_time(tmp_path):
    path = tmp_path / "long.jsonl"
    row = json.dumps({"prompt": "", "response": "x" * 10_000}) + "\n\n"
    path.write_text("\ufeff" + row * 2000)
    tracemalloc.start()
    stream = RowStream(path)
    count = sum(1 for _ in stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(stream), count) == (2000, 2000)
    assert peak < path.stat().st_size / 10


def test_several_tables_say_which_each_row_is_of(tmp_path):
    for name in ("b", "a"):
        lines_of(tmp_path / f"{name}.jsonl", ROWS[:2])
    source = open_source(tmp_path / "*.jsonl")
    origins = [entry.origin["source"] for entry in source]
    assert origins == [str(tmp_path / name) for name in ["a.jsonl"] * 2 + ["b.jsonl"] * 2]
    with pytest.raises(InputError, match="is given twice"):
        open_source([tmp_path / "a.jsonl", tmp_path / "*.jsonl"])


def test_columns_can_be_named(tmp_path):
    path = lines_of(tmp_path / "rows.jsonl", [{"q": "2+2?", "a": "4", "prompt": "another"}])
    source = open_source(path, Reading(prompt_column="q", output_column="a"))
    assert texts_of(source) == [("2+2?", "4")]
    with pytest.raises(InputError, match="no column 'answer'; it has q, a, prompt"):
        list(open_source(path, Reading(output_column="answer")))


def test_pictures_in_a_parquet_table_are_decoded(tmp_path):
    cells = [{"bytes": png(value), "path": "a.png"} for value in (0, 255)]
    rows = [{"image": cell, "text": "a cat"} for cell in cells]
    pandas.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    entries = list(open_source(tmp_path / "rows.parquet"))
    assert [entry.prompt for entry in entries] == ["a cat", "a cat"]
    assert [entry.output().mean().item() for entry in entries] == [0, 1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no rows"),
        ("\n\n", "holds no rows"),
        ('{"prompt": "a"}\n', 'no text "response"'),
        ('{"prompt": "a", "response": null}\n', 'no text "response"'),
        ('{"prompt": "a", "response": "b"}\n{"prompt"\n', "line 2 is not JSON"),
        ('{"prompt": "a", "response": "b"}\n[1]\n', "line 2 is not an object"),
    ],
)
def test_a_broken_row_is_named_or_left_out(tmp_path, content, sentence):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        list(open_source(path))
    if "no rows" in sentence:
        return
    entries = list(open_source(path, Reading(skip_unreadable=True)))
    assert sentence in entries[-1].problem
    assert entries[0].problem == "" or len(entries) == 1


def test_a_truncated_parquet_or_gzip_is_a_sentence(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(InputError, match="broken parquet table"):
        open_source(tmp_path / "a.parquet")
    lines = gzip.compress(b'{"response": "a"}\n' * 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(lines[:-20])
    with pytest.raises(InputError, match="copied in part"):
        open_source(tmp_path / "a.jsonl.gz")


TABLES = {
    "marks.csv": b'\xef\xbb\xbfPrompt,response\r\nhi,"a, b"\r\n\r\nho,c\r\n',
    "lines.csv": b'\n\nprompt;response;id\nhi;"two\n\nlines";1\n;;\nho;b\n',
    "tabs.tsv": b'prompt\tresponse\nhi\t5" long\nho\t"b"\n',
    "no-quotes.tsv": b'prompt\tresponse\nhi\t"half\nho\tb\n',
    "old.csv": b"prompt,response\rhi,a\rho,b\r",
    "long.csv": b'prompt,response\nhi,"' + b"x" * 300_000 + b'"\nho,b\n',
    "talk.csv": b"messages\n\"[{'role': 'assistant', 'content': 'a'}]\"\n",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_a_csv_table_is_read_piece_by_piece_as_it_is_read_whole(tmp_path, name, packed):
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(TABLES[name]) if packed else TABLES[name])
    stream = RowStream(path)
    assert list(stream) == list(stream) == read_records(path)
    assert len(stream) == len(list(stream)) > 0
    assert stream.names == list(next(iter(stream)).row)
    assert open_source(path, Reading(skip_unreadable=True)).fingerprint() == fingerprint([path])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'prompt,response\nhi,"a\n', "is no CSV table: unexpected end of data"),
        (b"prompt,response\nhi,a,b\n", "line 2 has 3 cells and the first line 2"),
        (b"prompt,response,Prompt\nhi,a,b\n", "has the column 'prompt' twice"),
        (b"prompt,response\nhi,a\nhi,\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
        (b"prompt,response\n", "holds no rows"),
        (b"\xff\xfep\x00", "is text in UTF-16"),
        (b"PK\x03\x04 and so on", "a ZIP archive or an Excel file"),
    ],
)
def test_a_broken_csv_table_is_a_sentence_before_anything_is_scored(tmp_path, content, sentence):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        open_source(tmp_path / "a.csv")


def test_a_csv_table_need_not_fit_into_memory(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("prompt,response\n" + f'"",{"x" * 400}\n' * 10_000)
    tracemalloc.start()
    stream = RowStream(path)
    count = sum(1 for _ in stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(stream), count) == (10_000, 10_000)
    assert peak < path.stat().st_size / 4


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_shards_that_webdataset_wrote_are_read(tmp_path, suffix):
    """A contract: what webdataset's own writer writes, and what its own reader makes of it."""
    for number in range(2):
        with webdataset.TarWriter(str(tmp_path / f"s-{number:03}.{suffix}")) as writer:
            for row in range(3):
                key = f"{number}-{row}"
                writer.write({"__key__": key, "png": png(row * 60), "txt": f"cat {row}"})
    pattern = str(tmp_path / ("s-{000..001}." + suffix))
    entries = list(open_source(pattern))
    theirs = read_by_webdataset(*sorted(tmp_path.glob("s-*")))
    assert [entry.origin["key"] for entry in entries] == [sample["__key__"] for sample in theirs]
    assert [entry.prompt for entry in entries] == [sample["txt"].decode() for sample in theirs]
    assert [entry.output().mean().item() for entry in entries] == pytest.approx(
        [0, 60 / 255, 120 / 255] * 2
    )


def test_shards_of_texts_are_rows_in_json_or_texts(tmp_path):
    path = shard(
        tmp_path / "a.tar",
        [
            ("x/1.json", json.dumps({"prompt": "2+2?", "response": "4", "id": 3}).encode()),
            ("x/2.txt", b"only a text"),
            ("__meta__", b"of the shard"),
        ],
    )
    entries = list(open_source(path))
    assert [(entry.prompt, entry.output) for entry in entries] == [
        ("2+2?", "4"),
        ("", "only a text"),
    ]
    assert entries[0].columns["id"] == 3
    assert entries[1].origin == {"shard": str(path), "key": "x/2"}


def test_members_can_be_named(tmp_path):
    members = [("1.q", b"2+2?"), ("1.a.txt", b"4"), ("1.txt", b"another")]
    path = shard(tmp_path / "a.tar", members)
    source = open_source(path, Reading(prompt_column="q", output_column="a.txt"))
    assert texts_of(source) == [("2+2?", "4")]
    with pytest.raises(InputError, match=r"no member 'b'; it has q, a\.txt, txt"):
        list(open_source(path, Reading(prompt_column="b", output_column="a.txt")))


def test_keys_with_dots_are_refused_where_webdataset_merges_them(tmp_path):
    """The package, at 1.0.2, reads both samples as one, w0, with the members 25.txt and 50.txt."""
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for key in ("w0.25", "w0.50"):
            writer.write({"__key__": key, "txt": key})
    merged = read_by_webdataset(path)
    assert [sample["__key__"] for sample in merged] == ["w0"]
    with pytest.raises(InputError, match=r"a\.tar holds w0\.25\.txt: is its key 'w0\.25'"):
        open_source(path)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([("1.txt", b"a"), ("2.txt", b"b"), ("1.json", b"{}")], "key '1' in two places"),
        ([("1.txt", b"a"), ("1.txt", b"b")], "holds 1.txt twice"),
        ([("README", b"a")], "holds no samples"),
        ([("1.json", b"[]")], "no object of JSON"),
        ([("1.txt", b"\xff")], "no text in UTF-8"),
        ([("1.mp4", b"")], "nothing to score"),
    ],
)
def test_a_shard_that_cannot_be_read_is_a_sentence(tmp_path, members, sentence):
    path = shard(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match=sentence):
        list(open_source(path))


def test_a_cut_off_shard_is_a_sentence(tmp_path):
    path = shard(tmp_path / "a.tar", [(f"{row}.txt", b"x" * 2000) for row in range(9)])
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match="cannot be read as a tar file"):
        shard_members(path)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("s-{000..002}.tar", "s-000.tar does not exist"),
        ("nothing-*.tar", "does not exist"),
        ("https://example.org/a.tar", "no local file"),
        ("s-{0..99999999}.tar", "more than a million"),
    ],
)
def test_a_pattern_without_files_is_a_sentence(tmp_path, monkeypatch, pattern, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        open_source(pattern)


def test_a_sample_without_its_picture_is_no_text(tmp_path):
    members = [("a.png", png(9)), ("a.txt", b"three"), ("b.txt", b"eight")]
    path = shard(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match="key 'b' has no picture, and other samples have one"):
        list(open_source(path))
    entries = list(open_source(path, Reading(skip_unreadable=True)))
    assert [bool(entry.problem) for entry in entries] == [False, True]


def test_columns_of_one_name_and_halves_of_letters_are_sentences(tmp_path):
    names = ["prompt", "response", "response"]
    path = tmp_path / "a.parquet"
    table = arrow.table([["a"], ["b"], ["c"]], names=names)
    parquet.write_table(table, path)
    with arrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(InputError, match="the column 'response' twice"):
            open_source(tmp_path / name)
    (tmp_path / "a.jsonl").write_text('{"response": "a \\ud800"}\n')
    with pytest.raises(InputError, match="line 1 has half a surrogate pair"):
        list(open_source(tmp_path / "a.jsonl"))


def test_an_empty_cell_beside_messages_is_not_the_response(tmp_path):
    path = tmp_path / "mixed.csv"
    talk = json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}])
    columns = {"prompt": ["", "2+2?", "3?"], "response": ["", "4", ""], "messages": [talk, "", ""]}
    pandas.DataFrame(columns).to_csv(path, index=False)
    assert texts_of(open_source(path)) == [("hi", "ho"), ("2+2?", "4"), ("3?", "")]
    named = open_source(path, Reading(output_column="response"))
    assert [output for _, output in texts_of(named)] == ["", "4", ""], "who names a column means it"


def test_no_other_column_stands_in_for_one_that_was_named(tmp_path):
    path = lines_of(tmp_path / "rows.jsonl", [{"prompt": "q", "answer": None, "completion": "x"}])
    with pytest.raises(InputError, match="has no text"):
        texts_of(open_source(path, Reading(output_column="answer")))


def test_a_named_output_is_no_prompt_beside(tmp_path):
    path = lines_of(tmp_path / "rows.jsonl", [{"query": "4", "question": "2+2?"}])
    source = open_source(path, Reading(output_column="query"))
    assert texts_of(source) == [("2+2?", "4")]


def test_an_unreadable_row_has_its_prompt_whatever_it_is_called(tmp_path):
    path = lines_of(tmp_path / "rows.jsonl", [{"question": "2+2?", "response": 4}])
    (entry,) = open_source(path, Reading(skip_unreadable=True))
    assert entry.problem
    assert entry.prompt == "2+2?"
