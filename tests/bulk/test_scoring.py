"""A table of scores: order, columns, provenance, and what a kill leaves."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from decimal import Decimal
from types import SimpleNamespace

import pyarrow as arrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from rewardlab.bulk import Reading, Selection, judging, score_files, select_files
from rewardlab.errors import InputError
from rewardlab.rewards import Ensemble, Function, Length, Reward, Tolerant
from rewardlab.runs.locks import lock_handle
from rewardlab.storage import row_streams
from rewardlab.types import Samples


class Number(Reward):
    """Scores a text by the number that it begins with, and keeps what it was asked for."""

    def __init__(self, stop_after=None):
        super().__init__()
        self._asked = []
        self._stop_after = stop_after

    def forward(self, samples):
        if self._stop_after is not None and len(self._asked) == self._stop_after:
            raise KeyboardInterrupt
        self._asked.append(list(samples.outputs))
        if "bad" in samples.outputs:
            raise InputError("The text is bad")
        return torch.tensor([float(text.split()[0]) for text in samples.outputs])


class TwoOpinions(Reward):
    """Two members: the number, and its square."""

    mean_of_members = True

    def members(self, samples):
        numbers = torch.tensor([float(text) for text in samples.outputs])
        return torch.stack([numbers, numbers**2], 1)

    def forward(self, samples):
        return self.members(samples).mean(1)


def brightness(samples):
    return samples.outputs.flatten(1).mean(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(50):
        rows.append({"response": f"{number} " + "x" * (number * 37 % 50), "id": f"n{number}"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def lines_of(name):
    with open(name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_each_row_keeps_its_place_and_its_columns(folder):
    scored = score_files(Number(), "rows.jsonl", "scores.jsonl", batch_size=7)
    assert (scored.rows, scored.unscored, scored.mean) == (50, 0, 24.5)
    for number, row in enumerate(lines_of("scores.jsonl")):
        assert list(row) == ["row", "score", "reason", "response", "id"]
        assert (row["row"], row["score"], row["id"]) == (number, number, f"n{number}")
    record = json.loads((folder / "scores.jsonl.json").read_text())
    assert record["job"]["samples"]["paths"] == ["rows.jsonl"]
    assert (record["rows"], record["mean"]) == (50, 24.5)
    assert sorted(path.name for path in folder.iterdir()) == [
        "rows.jsonl",
        "scores.jsonl",
        "scores.jsonl.json",
    ]


@pytest.fixture
def reads(monkeypatch):
    """How many rows are parsed; nothing reads a file beside that but the pass that counts them."""
    log = SimpleNamespace(rows=0)

    def counted(function):
        def one(*arguments):
            log.rows += 1
            return function(*arguments)

        return one

    for name in ("_record", "csv_row"):
        monkeypatch.setattr(row_streams, name, counted(getattr(row_streams, name)))
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read only for its digest"))
    return log


@pytest.mark.parametrize(
    ("form", "out", "options", "passes"),
    [
        ("jsonl", "jsonl", {}, 1),
        ("csv", "csv", {}, 1),
        ("csv", "jsonl", {}, 1),
        ("jsonl", "csv", {"keep": "scored"}, 1),
        ("jsonl", "csv", {}, 2),  # another row might have another column
        ("csv", "csv", {"sort": "best"}, 2),
    ],
)
def test_rows_are_read_as_rarely_as_can_be(folder, reads, form, out, options, passes):
    if form == "csv":
        lines = [f"{number} x,n{number}\n" for number in range(50)]
        (folder / "rows.csv").write_text("response,id\n" + "".join(lines))
    score_files(Number(), f"rows.{form}", f"scores.{out}", **options)
    peeks = 4  # at the first row
    assert 50 * passes <= reads.rows <= 50 * passes + peeks


def test_a_selection_reads_its_rows_twice(folder, reads):
    select_files(Number(), "rows.jsonl", "best.jsonl", Selection(group="id"))
    assert 100 <= reads.rows <= 104


def test_a_table_that_grew_until_a_kill_begins_anew(folder, monkeypatch):
    monkeypatch.setattr(judging, "CHUNK_ROWS", 16)
    score_files(Number(), "rows.jsonl", "whole.jsonl", batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        score_files(Number(9), "rows.jsonl", "scores.jsonl", batch_size=4)
    assert not (folder / "scores.jsonl.part.table").exists()
    (folder / "scores.jsonl.part.table").write_text("what a killed process left")
    score_files(Number(), "rows.jsonl", "scores.jsonl", batch_size=4, resume=True)
    assert (folder / "scores.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("stop_after", [0, 1, 4])
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(folder, stop_after):
    score_files(Number(), "rows.jsonl", "whole.csv", batch_size=7)
    killed = Number(stop_after)
    with pytest.raises(KeyboardInterrupt):
        score_files(killed, "rows.jsonl", "scores.csv", batch_size=7)
    part = folder / "scores.csv.part"
    assert part.exists() == (stop_after > 0)
    assert not (folder / "scores.csv").exists()
    if stop_after:
        part.write_bytes(part.read_bytes() + b'{"rows": [1, 2')  # a line that a kill cut off
        with pytest.raises(InputError, match="--resume"):
            score_files(Number(), "rows.jsonl", "scores.csv", batch_size=7)
    reward = Number()
    score_files(reward, "rows.jsonl", "scores.csv", batch_size=7, resume=True)
    assert (folder / "scores.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert not part.exists()
    asked = [text for batch in killed._asked + reward._asked for text in batch]
    assert len(killed._asked) == stop_after
    assert len(asked) == len(set(asked)) == 50, "no row is scored twice, and none is lost"
    again = Number()
    assert score_files(again, "rows.jsonl", "scores.csv", resume=True).mean == 24.5
    assert not again._asked, "what is finished is not scored again"


@pytest.mark.parametrize("changed", ["samples", "reward", "reading"])
def test_scores_of_two_jobs_are_not_mixed(folder, changed):
    with pytest.raises(KeyboardInterrupt):
        score_files(Number(2), "rows.jsonl", "scores.csv", batch_size=7)
    before = (folder / "scores.csv.part").read_bytes()
    reward = Length() if changed == "reward" else Number()
    reading = Reading(skip_unreadable=changed == "reading")
    if changed == "samples":
        with (folder / "rows.jsonl").open("a") as file:
            file.write('{"response": "1"}\n')
    with pytest.raises(InputError, match=f"belongs to another run: {changed} differ"):
        score_files(reward, "rows.jsonl", "scores.csv", reading, resume=True)
    assert (folder / "scores.csv.part").read_bytes() == before


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_not_scored_is_a_value_with_a_reason(folder, suffix):
    samples = Samples([""] * 3, ["1", "bad", "3"])
    out = folder / f"scores.{suffix}"
    scored = score_files(Tolerant(Number(), 0.5), samples, out)
    assert (scored.unscored, scored.mean) == (1, 2.0)
    if suffix == "csv":
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["score"] for row in rows] == ["1.0", "", "3.0"]
    elif suffix == "jsonl":
        rows = lines_of(out)
    else:
        rows = parquet.read_table(out).to_pylist()
    if suffix != "csv":
        assert [row["score"] for row in rows] == [1, None, 3]
        assert rows[0]["reason"] is None
    assert "The text is bad" in rows[1]["reason"]
    record = json.loads((folder / f"scores.{suffix}.json").read_text())
    assert record["unscored"] == 1
    assert list(record["reasons"].values()) == [1]


def test_a_network_that_gives_nan_ends_the_run_and_writes_nothing(folder):
    with pytest.raises(InputError, match="a score of"):
        score_files(
            Function(lambda samples: torch.tensor([torch.nan])), "rows.jsonl", "a.csv", batch_size=1
        )
    assert [path.name for path in folder.iterdir()] == ["rows.jsonl"]


def test_a_picture_that_cannot_be_read_is_refused_or_left_out(folder):
    pictures = folder / "pictures"
    pictures.mkdir()
    for name, value in (("a.png", 0), ("c.png", 255)):
        Image.new("RGB", (4, 4), (value, value, value)).save(pictures / name)
    (pictures / "b.png").write_bytes(b"\x89PNG\r\n and no more")
    with pytest.raises(InputError, match=r"b\.png cannot be used.*--skip-unreadable"):
        score_files(Function(brightness), pictures, "scores.jsonl")
    reading = Reading(skip_unreadable=True)
    score_files(Function(brightness), pictures, "scores.jsonl", reading)
    rows = lines_of("scores.jsonl")
    assert [(row["file"], row["score"]) for row in rows] == [
        ("a.png", 0),
        ("b.png", None),
        ("c.png", 1),
    ]
    Image.new("RGB", (6, 4)).save(pictures / "b.png")
    with pytest.raises(InputError, match=r"several sizes.*b\.png 6×4.*--size"):
        score_files(Function(brightness), pictures, "other.jsonl")
    score_files(Function(brightness), pictures, "other.jsonl", Reading(size=2))
    assert len(lines_of("other.jsonl")) == 3


def test_members_and_their_disagreement_are_columns(folder):
    samples = Samples([""] * 2, ["1", "3"])
    score_files(TwoOpinions(), samples, "scores.jsonl", members=True, keep="none")
    assert lines_of("scores.jsonl")[1] == {
        "row": 1,
        "score": 6.0,
        "reason": None,
        "member_0": 3.0,
        "member_1": 9.0,
        "disagreement": 3.0,
    }


@pytest.mark.parametrize("inside", [True, False])
def test_members_of_what_may_go_unscored_are_columns(folder, inside):
    """A batch of which nothing is scored has none."""
    (folder / "rows.jsonl").write_text('{"response": "bad"}\n{"response": "3 x"}\n')
    number = Tolerant(Number(), 0.5) if inside else Number()
    reward = Ensemble([number, Length()])
    reward = reward if inside else Tolerant(reward, 0.5)
    score_files(reward, "rows.jsonl", "scores.jsonl", members=True, batch_size=1)
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert [(row["score"], row["member_0"], row["member_1"]) for row in rows] == [
        (None, None, None),
        (2.5, 3.0, 2.0),
    ]


def test_columns_that_are_called_as_ours_get_another_name(folder):
    score_files(Number(), "rows.jsonl", "first.jsonl")
    score_files(Function(lambda samples: torch.ones(len(samples))), "first.jsonl", "second.jsonl")
    row = lines_of("second.jsonl")[3]
    assert (row["score"], row["input_score"], row["input_row"], row["id"]) == (1, 3, 3, "n3")
    with pytest.raises(InputError, match="'row' and 'input_row'"):
        score_files(Number(), "second.jsonl", "third.jsonl")


def test_rows_are_sorted_with_those_without_a_score_last(folder):
    samples = Samples([""] * 4, ["1", "bad", "3", "2"])
    score_files(Tolerant(Number(), 1), samples, "best.jsonl", sort="best")
    assert [row["row"] for row in lines_of("best.jsonl")] == [2, 3, 0, 1]
    score_files(Tolerant(Number(), 1), samples, "worst.jsonl", sort="worst")
    assert [row["row"] for row in lines_of("worst.jsonl")] == [0, 3, 2, 1]


def test_a_parquet_table_keeps_its_kinds_and_lines_refuse_bytes(folder):
    columns = {
        "response": ["1", "2"],
        "day": arrow.array([0, 1], arrow.date32()),
        "blob": [b"\xff", None],
    }
    parquet.write_table(arrow.table(columns), folder / "rows.parquet")
    score_files(Number(), "rows.parquet", "scores.parquet")
    table = parquet.read_table(folder / "scores.parquet")
    assert table.schema.field("day").type == arrow.date32()
    assert table.column("blob").to_pylist() == [b"\xff", None]
    assert table.column("score").to_pylist() == [1.0, 2.0]
    with pytest.raises(InputError, match="'blob' holds what neither JSON nor CSV can"):
        score_files(Number(), "rows.parquet", "scores.jsonl")
    assert not (folder / "scores.jsonl").exists()
    assert not list(folder.glob(".*"))
    score_files(Number(), "rows.parquet", "scores.csv", keep="scored", resume=True)


def test_rows_of_several_kinds_make_lines_and_no_parquet(folder):
    rows = [{"response": "1", "note": 5}, {"response": "2", "note": {"a": 1}}, {"response": "3"}]
    (folder / "mixed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="mixes kinds"):
        score_files(Number(), "mixed.jsonl", "scores.parquet")
    score_files(Number(), "mixed.jsonl", "scores.csv")
    with open("scores.csv", newline="") as file:
        notes = [row["note"] for row in csv.DictReader(file)]
    assert notes == ["5", '{"a": 1}', ""]


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("rows.jsonl", "rows.jsonl exists and is never overwritten"),
        ("scores.txt", "a new .csv, .jsonl or .parquet file"),
        ("nowhere/scores.csv", "nowhere of --out does not exist"),
    ],
)
def test_an_output_that_cannot_be_written_is_known_before_scoring(folder, out, sentence):
    reward = Number()
    with pytest.raises(InputError, match=sentence):
        score_files(reward, "rows.jsonl", out)
    assert not reward._asked


def test_if_nothing_is_scored_that_is_an_error(folder):
    with pytest.raises(InputError, match="None of 2 rows is scored"):
        score_files(Tolerant(Number(), 1), Samples([""] * 2, ["bad", "bad"]), "scores.csv")
    assert not (folder / "scores.csv").exists()


def test_a_reward_of_prompts_without_any_warns(folder, caplog):
    reward = Function(lambda samples: torch.ones(len(samples)))
    reward.conditional = True
    score_files(reward, "rows.jsonl", "a.csv")
    assert "no sample has one" in caplog.text
    caplog.clear()
    (folder / "prompts.txt").write_text("hi\n" * 50)
    score_files(reward, "rows.jsonl", "b.csv", Reading(prompts="prompts.txt"))
    assert "no sample has one" not in caplog.text
    with open("b.csv", newline="") as file:
        assert {row["prompt"] for row in csv.DictReader(file)} == {"hi"}


def test_another_batch_size_scores_nothing_twice(folder):
    killed = Number(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        score_files(killed, "rows.jsonl", "scores.csv", batch_size=7)
    reward = Number()
    score_files(reward, "rows.jsonl", "scores.csv", batch_size=64, resume=True)
    scored = [text for batch in [*killed._asked, *reward._asked] for text in batch]
    assert len(scored) == len(set(scored)) == 50
    assert len((folder / "scores.csv").read_text().splitlines()) == 51


def test_a_table_that_stands_is_not_taken_for_one_in_another_order(folder):
    score_files(Number(), "rows.jsonl", "scores.csv")
    with pytest.raises(InputError, match="table differ"):
        score_files(Number(), "rows.jsonl", "scores.csv", sort="best", resume=True)
    (folder / "scores.csv.json").write_text("[")
    with pytest.raises(InputError, match="no record"):
        score_files(Number(), "rows.jsonl", "scores.csv", resume=True)


def test_two_runs_do_not_write_one_journal(folder):
    class Both(Number):
        is_alone = False

        def forward(self, samples):
            if not self._asked and not Both.is_alone:
                Both.is_alone = True
                score_files(Both(stop_after=1), "rows.jsonl", "scores.csv", batch_size=8)
            return super().forward(samples)

    with pytest.raises(KeyboardInterrupt):
        score_files(Both(), "rows.jsonl", "scores.csv", batch_size=8)
    handle = os.open(folder / "scores.csv.part", os.O_RDWR)
    assert lock_handle(handle, wait=False)
    with pytest.raises(InputError, match="Another run with this --out"):
        score_files(Both(), "rows.jsonl", "scores.csv", resume=True)
    os.close(handle)
    assert score_files(Both(), "rows.jsonl", "scores.csv", resume=True).rows == 50


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_file_that_changes_while_it_is_scored_is_a_sentence(folder, change):
    path = folder / "rows.jsonl"
    content = path.read_text()
    changed = {"longer": content + content[:30] + '"}\n', "shorter": content.partition("\n")[0]}

    class Changing(Number):
        def forward(self, samples):
            path.write_text(changed.get(change, content.replace("n1", "m1")))
            return super().forward(samples)

    with pytest.raises(InputError, match="changed while it was read"):
        score_files(Changing(), path, "scores.csv")
    assert not (folder / "scores.csv").exists()


def test_columns_of_parquet_tables_that_differ_all_stay(folder):
    table = {"response": ["1"], "source": [{"site": 7}], "member_0": ["x"], "score": [3]}
    parquet.write_table(arrow.table(table), folder / "a.parquet")
    score_files(TwoOpinions(), "a.parquet", "one.parquet", members=True)
    row = parquet.read_table("one.parquet").to_pylist()[0]
    assert (row["source"], row["member_0"], row["input_member_0"]) == ({"site": 7}, 1.0, "x")
    assert parquet.read_schema("one.parquet").field("input_score").type == arrow.int64()
    (folder / "prompts.txt").write_text("q\n")
    reading = Reading(prompts=folder / "prompts.txt")
    score_files(Number(), "a.parquet", "prompted.parquet", reading)
    assert parquet.read_table("prompted.parquet")["prompt"].to_pylist() == ["q"]
    parquet.write_table(arrow.table({"response": ["2"], "more": [True]}), folder / "b.parquet")
    score_files(Number(), ["a.parquet", "b.parquet"], "both.parquet")
    assert parquet.read_table("both.parquet")["more"].to_pylist() == [None, True]


def test_lines_are_json_where_a_table_has_nan_and_fixed_digits(folder):
    table = {"response": ["1"], "share": [float("nan")], "price": [Decimal("1.50")]}
    parquet.write_table(arrow.table(table), folder / "a.parquet")
    score_files(Number(), "a.parquet", "scores.jsonl")
    text = (folder / "scores.jsonl").read_text()
    assert '"share": null, "price": "1.50"' in text


def test_what_cannot_be_written_is_known_before_scoring(folder):
    table = {"response": ["1"], "sound": [b"\x00"]}
    parquet.write_table(arrow.table(table), folder / "a.parquet")
    reward = Number()
    with pytest.raises(InputError, match="'sound' holds what neither"):
        score_files(reward, "a.parquet", "scores.jsonl")
    assert not reward._asked


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_halves_of_letters_are_written_as_json_writes_them(folder, suffix):
    (folder / "a.jsonl").write_text('{"response": "1", "id": "\\ud800"}\n')
    score_files(Number(), "a.jsonl", f"scores.{suffix}")
    assert "\\ud800" in (folder / f"scores.{suffix}").read_text()


@pytest.mark.parametrize("readable", [0, 1])
@pytest.mark.parametrize("keep", ["scored", "none"])
@pytest.mark.parametrize("out", ["csv", "jsonl", "parquet"])
def test_a_table_of_pictures_may_have_a_row_that_cannot_be_read(folder, out, keep, readable):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    rows = [{"image": b"junk" if place else file.getvalue()} for place in range(2)]
    rows.append({"image": None, "prompt": "no picture at all"})
    order = [0, 1, 2] if readable == 0 else [2, 0, 1]
    table = arrow.Table.from_pylist([{"prompt": "p", **rows[place]} for place in order])
    parquet.write_table(table, folder / "pictures.parquet")
    reading = Reading(skip_unreadable=True)
    reward = Function(brightness)
    scored = score_files(reward, "pictures.parquet", f"scores.{out}", reading, keep=keep)
    assert (scored.rows, scored.unscored) == (3, 2)
    if out == "csv":
        with open("scores.csv", encoding="utf-8", newline="") as written:
            head, *lines = csv.reader(written)
        assert head == ["row", "score", "reason"] + (["prompt"] if keep == "scored" else [])
        assert [bool(line[1]) for line in lines] == [place == 0 for place in order]


def test_a_number_that_parquet_has_no_kind_for_is_a_sentence(folder):
    (folder / "big.jsonl").write_text('{"response": "1", "id": 123456789012345678901234567890}')
    with pytest.raises(InputError, match="holds what parquet has no kind for"):
        score_files(Number(), "big.jsonl", "scores.parquet")


def test_a_file_that_is_given_by_two_names_is_refused(folder):
    (folder / "same.jsonl").symlink_to("rows.jsonl")
    for other in ("same.jsonl", folder / "rows.jsonl"):
        with pytest.raises(InputError, match="is given twice"):
            score_files(Number(), ["rows.jsonl", other], "scores.csv")


def test_the_columns_that_may_be_prompts_are_named(folder, caplog):
    reward = Number()
    reward.conditional = True
    score_files(reward, "rows.jsonl", "scores.csv")
    assert "or --prompt-column NAME of the columns response, id." in caplog.text


def test_texts_without_a_prompt_beside_other_columns_warn(folder, caplog):
    score_files(Number(), "rows.jsonl", "scores.csv")
    assert "No sample has a prompt, and texts are scored without." in caplog.text
    caplog.clear()
    (folder / "texts.txt").write_text("1\n2\n")
    score_files(Number(), "texts.txt", "texts.csv")
    assert not caplog.text
