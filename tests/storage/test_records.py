"""The same pairs in every form that people keep them in."""

import bz2
import csv
import gzip
import json
import lzma
import random
import sys
from contextlib import suppress

import pytest

from rewardlab.conversations import Conversation, Message, messages_of
from rewardlab.errors import InputError
from rewardlab.storage import read_preferences, read_prompts
from rewardlab.storage.records import read_records

TALK = Conversation((Message("system", "Be brief."), Message("user", "2+2?\nNow; \"go\",\t'you'")))
ROWS = [
    {"prompt": "a, b; c", "chosen": 'say "4"\nthen stop', "rejected": "5", "margin": 2.5},
    {"prompt": messages_of(TALK), "chosen": "007", "rejected": "null", "margin": 0.0},
]


def json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def json_array(path, rows):
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def json_under_a_key(path, rows):
    path.write_text(json.dumps({"data": rows}), encoding="utf-8")


def packed(pack):
    def write(path, rows):
        json_lines(path, rows)
        path.write_bytes(pack(path.read_bytes()))

    return write


def table(delimiter, cell):
    def write(path, rows):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(rows[0])
            for row in rows:
                values = row.values()
                writer.writerow(cell(v) if isinstance(v, list) else v for v in values)

    return write


def arrow_columns(rows):
    texts = [row | {"prompt": json.dumps(row["prompt"])} for row in rows]
    return {name: [row[name] for row in texts] for name in texts[0]}


FORMS = [
    ("pairs.jsonl", json_lines),
    ("pairs.json", json_lines),
    ("pairs.txt", json_lines),
    ("pairs.csv", json_lines),
    ("pairs.json", json_array),
    ("pairs.jsonl", json_array),
    ("pairs.json", json_under_a_key),
    ("pairs.jsonl.gz", packed(gzip.compress)),
    ("pairs.jsonl", packed(gzip.compress)),
    ("pairs.jsonl.bz2", packed(bz2.compress)),
    ("pairs.jsonl.xz", packed(lzma.compress)),
    ("pairs.csv", table(",", json.dumps)),
    ("pairs.csv", table(";", str)),
    ("pairs.tsv", table("\t", json.dumps)),
    ("pairs.txt", table(",", json.dumps)),
]


@pytest.mark.parametrize(("name", "write"), FORMS)
def test_a_file_is_read_by_what_it_holds(tmp_path, name, write):
    write(tmp_path / name, ROWS)
    found = read_preferences(tmp_path / name, strict=True)
    assert found.chosen.prompts == ["a, b; c", TALK]
    assert found.chosen.outputs == ['say "4"\nthen stop', "007"]
    assert found.rejected.outputs == ["5", "null"]
    assert found.chosen.facts["margin"].tolist() == [2.5, 0.0]
    assert read_prompts(tmp_path / name) == ["a, b; c", TALK] or name == "pairs.txt"


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl"])
def test_parquet_is_read_under_any_name(tmp_path, name):
    import pyarrow as arrow
    from pyarrow import parquet

    rows = [
        {**row, "prompt": messages_of(prompt)}
        for row, prompt in zip(ROWS, ["hi", TALK], strict=True)
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / name)
    assert read_preferences(tmp_path / name, strict=True).chosen.prompts == ["hi", TALK]
    content = (tmp_path / name).read_bytes()
    (tmp_path / "half.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"half.parquet is a broken parquet table"):
        read_preferences(tmp_path / "half.parquet")


def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "pairs.jsonl").write_bytes(b"PAR1\xac\n\xff")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for read in (read_preferences, read_prompts):
        with pytest.raises(InputError, match=r"is a parquet table; reading it needs pyarrow"):
            read(tmp_path / "pairs.jsonl")


def test_folders_of_datasets_are_read(tmp_path):
    import datasets

    rows = [{**row, "prompt": messages_of("hi")} for row in ROWS]
    made = datasets.Dataset.from_list(rows)
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=made).save_to_disk(tmp_path / "dict")
    datasets.DatasetDict(train=made, test=made).save_to_disk(tmp_path / "two")
    for name in ("one", "dict", "two/test"):
        assert read_preferences(tmp_path / name).chosen.outputs[1] == "007"
        assert read_prompts(tmp_path / name) == ["hi", "hi"]
    with pytest.raises(InputError, match=r"holds the splits train, test"):
        read_preferences(tmp_path / "two")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04 and so on", "a ZIP archive or an Excel file"),
        ("{}".encode("utf-16"), "text in UTF-16"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (gzip.compress(b"{}", mtime=0)[:-4], "cannot be unpacked"),
        (gzip.compress(b"\n" * 2**27, mtime=0), "unpacks to more than 64 MiB"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_what_holds_no_rows_is_named(tmp_path, content, sentence):
    (tmp_path / "a.jsonl").write_bytes(content)
    for read in (read_preferences, read_prompts):
        with pytest.raises(InputError, match=sentence):
            read(tmp_path / "a.jsonl")


def test_broken_tables_name_the_line(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nhi,a,b,c\n")
    with pytest.raises(InputError, match="line 2 has 4 cells and the first line 3"):
        read_preferences(tmp_path / "a.csv")
    (tmp_path / "c.csv").write_text("prompt,chosen,rejected,Chosen\nhi,a,b,c\n")
    with pytest.raises(InputError, match="the column 'chosen' twice"):
        read_preferences(tmp_path / "c.csv")
    (tmp_path / "b.csv").write_text('prompt,chosen,rejected\nhi,"a,b\n')
    with pytest.raises(InputError, match="is no CSV table"):
        read_preferences(tmp_path / "b.csv")
    (tmp_path / "c.tsv").write_text('Prompt\tNote\n"Hello" on a sign\tnone\n')  # as PartiPrompts
    assert read_prompts(tmp_path / "c.tsv") == ['"Hello" on a sign']


def test_any_bytes_give_rows_or_one_sentence(tmp_path):
    """Cuts, flips and joins of good files of every form."""
    seeds = []
    for number, (name, write) in enumerate(FORMS):
        file = tmp_path / f"{number}{name}"
        write(file, ROWS)
        seeds.append(file.read_bytes())
    draw = random.Random(0)
    for _ in range(400):
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.randrange(1, 6)):
            place = draw.randrange(len(content) + 1)
            content[place : place + draw.randrange(4)] = draw.choice(
                [b"", b'"', b"\n", b"[", b"{", b"\x00", b"\xff", b",", b"\t", draw.randbytes(3)]
            )
        path = tmp_path / f"fuzzed{draw.choice(['.jsonl', '.json', '.csv', '.tsv', '.txt', ''])}"
        path.write_bytes(content)
        for read in (read_preferences, read_prompts, read_records):
            with suppress(InputError):
                read(path)
