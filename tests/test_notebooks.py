"""The notebooks are what their scripts printed and drew: a script that changed fails here until its
notebook is made anew (`python experiments/notebooks.py docs/notebooks/*.py`).
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
MAKER = ROOT / "experiments" / "notebooks.py"
BYTES = 300 * 1024
PLACES = (str(ROOT), str(Path.home()), tempfile.gettempdir() + "/", "/home/", "/Users/")
EXAMPLE = """\
# %% [markdown]
# # A title
# A text.

# %%
import matplotlib.pyplot as plt

print("two", 1 + 1)
print("━━━ 3/3")
plt.plot([0, 1])
plt.plot([1, 0])
plt.figure()

# %%
two = 2
"""


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("notebooks", MAKER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["notebooks"] = module
    spec.loader.exec_module(module)
    return module


def stem(path):
    return path.stem


def cells_of(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def test_there_is_one_for_each_half():
    assert [script.stem for script in SCRIPTS] == ["adv_rm", "gan_rm"]


@pytest.mark.parametrize("script", SCRIPTS, ids=stem)
def test_a_notebook_holds_the_cells_of_its_script(maker, script):
    cells = [(cell.kind, cell.source) for cell in maker.read_cells(script)]
    entries = cells_of(script.with_suffix(".ipynb"))
    assert [(entry["cell_type"], "".join(entry["source"])) for entry in entries] == cells


@pytest.mark.parametrize("script", SCRIPTS, ids=stem)
def test_a_page_shows_what_its_notebook_holds(maker, script):
    """The text of the page is made from the notebook alone, byte for byte."""
    entries = cells_of(script.with_suffix(".ipynb"))
    cells = [maker.Cell(entry["cell_type"], "".join(entry["source"])) for entry in entries]
    results = [maker.read_result(entry) for entry in entries]
    text, pictures = maker.page(cells, results, script.stem)
    assert text == script.with_suffix(".md").read_text(encoding="utf-8")
    assert pictures
    for path, data in pictures.items():
        assert (FOLDER / path).read_bytes() == data
    files = sorted((FOLDER / f"{script.stem}_files").iterdir())
    assert [f"{script.stem}_files/{file.name}" for file in files] == sorted(pictures)


@pytest.mark.parametrize("script", SCRIPTS, ids=stem)
def test_a_notebook_was_executed_and_is_small_and_names_no_place(script):
    notebook = script.with_suffix(".ipynb")
    assert notebook.stat().st_size < BYTES
    code = [entry for entry in cells_of(notebook) if entry["cell_type"] == "code"]
    assert [entry["execution_count"] for entry in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for entry in code for output in entry["outputs"]}
    assert kinds == {"stream", "display_data"}
    texts = notebook.read_text(encoding="utf-8") + script.with_suffix(".md").read_text("utf-8")
    assert not [place for place in PLACES if place in texts]


def test_what_a_cell_prints_and_draws_is_kept_and_progress_is_not(maker, tmp_path):
    script = tmp_path / "tried.py"
    script.write_text(EXAMPLE, encoding="utf-8")
    title, code, silent = cells_of(maker.make(script))
    assert "".join(title["source"]) == "# A title\nA text."
    printed, *pictures = code["outputs"]
    assert printed["text"] == ["two 2\n"]
    assert len(pictures) == 2
    assert silent["outputs"] == []
    assert (tmp_path / "tried_files" / "0.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "tried.md").read_text(encoding="utf-8")
    assert page.startswith("# A title\n\nWhat a run of the script printed and drew: ")
    assert "```text\ntwo 2\n```\n\n![what the cell above drew](tried_files/0.png)" in page


def test_a_cell_that_fails_writes_nothing(maker, tmp_path):
    script = tmp_path / "tried.py"
    script.write_text("# %%\nprint(1)\n\n# %%\n1 / 0\n", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        maker.make(script)
    assert [path.name for path in tmp_path.iterdir()] == ["tried.py"]


@pytest.mark.nightly
@pytest.mark.parametrize("script", SCRIPTS, ids=stem)
def test_a_script_runs_and_prints_as_many_lines_as_its_notebook(maker, script, tmp_path):
    copy = tmp_path / script.name
    shutil.copy(script, copy)
    counts = []
    for notebook in (maker.make(copy), script.with_suffix(".ipynb")):
        rows = []
        for entry in cells_of(notebook):
            outputs = entry.get("outputs", [])
            rows.append(
                [(output["output_type"], len(output.get("text", []))) for output in outputs]
            )
        counts.append(rows)
    assert counts[0] == counts[1]
