# Two commands for everyone: `make demo` and `make test`. Each makes .venv on first use and re-uses it afterwards.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test slow lint bench peers docs encoder clean

$(READY): pyproject.toml constraints.txt
	@# Debian splits ensurepip off Python: without it, make the environment bare and let the system's pip fill it.
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv 2>/dev/null || $(PYTHON) -m venv --without-pip --clear .venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	@echo "installing into .venv (a minute or two) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)  ## three GANs on real digits, compared on one page: demo/index.html
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

.venv-peers/.ready: pyproject.toml constraints.txt benchmarks/peers.txt
	@$(PYTHON) -m venv --clear .venv-peers
	@echo "installing the peers into .venv-peers ..."
	@grep -v '^scipy==' constraints.txt > .venv-peers/constraints.txt  # the peers need SciPy's old sqrtm
	@.venv-peers/bin/python -m pip install --quiet -c .venv-peers/constraints.txt -e ".[dev]" "scipy==1.16.3"
	@.venv-peers/bin/python -m pip install --quiet --no-deps -r benchmarks/peers.txt
	@touch $@

peers: .venv-peers/.ready  ## parity with torch-fidelity, pytorch-fid and clean-fid, in an environment of its own
	@.venv-peers/bin/python -m pytest --override-ini=addopts= -q benchmarks/test_peers.py

docs: $(READY)  ## the reference page of every recipe and component
	@$(BIN)/python tools/expect.py
	@$(BIN)/python tools/make_docs.py

encoder: $(READY)  ## train the digit encoder anew (needs the full MNIST)
	@$(BIN)/python tools/train_digits.py

clean:
	rm -rf .venv .venv-peers demo
