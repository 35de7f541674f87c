# Two commands for everyone: `make demo` and `make test`. Each makes .venv on first use and re-uses it afterwards.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test slow lint bench docs encoder clean

$(READY): pyproject.toml constraints.txt
	@# Debian splits ensurepip off Python: without it, make the environment bare and let the system's pip fill it.
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv 2>/dev/null || $(PYTHON) -m venv --without-pip --clear .venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	@echo "installing into .venv (a minute or two) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)  ## three GANs on real digits, judged, on one page: demo/report.html
	@$(BIN)/python tools/demo.py

test: $(READY)  ## the fast tests, about three minutes on two cores
	@$(BIN)/python -m pytest -n 2

slow: $(READY)  ## training and kill tests too
	@$(BIN)/python -m pytest -m "slow"

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)  ## ratios against other people's training steps
	@$(BIN)/python benchmarks/run.py

docs: $(READY)  ## the reference page of every recipe and component
	@$(BIN)/python tools/make_docs.py

encoder: $(READY)  ## train the digit encoder anew (needs the full MNIST)
	@$(BIN)/python tools/train_digits.py

clean:
	rm -rf .venv demo
