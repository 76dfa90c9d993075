# Every target makes .venv when it is missing or older than what it is made from.
# An idle OpenMP thread that spins steals the core that another process needs: passive waiting was 8× faster here.
export OMP_WAIT_POLICY := PASSIVE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
PROX_PEERS := .venv-peers-prox
WORKERS ?= 2
TUTORIALS := $(wildcard tutorials/[0-9]*.py)

.PHONY: demo test lint bench bench-peers tutorials docs clean

demo: $(VENV)/.demo
	$(BIN)/alignkit demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The API reference, made of the docstrings, into tutorials/html/reference.
docs: $(VENV)/.docs
	$(BIN)/python tutorials/reference.py

bench: $(VENV)/.bench
	$(BIN)/python -m tests.benchmarks

tutorials: $(TUTORIALS:tutorials/%.py=tutorials/html/%.html)

# A progress line would be printed anew for each of its steps.
tutorials/html/%.html: tutorials/%.py $(VENV)/.docs
	mkdir -p $(@D)
	$(BIN)/jupytext --quiet --to ipynb --output $(@:.html=.ipynb) $<
	TQDM_DISABLE=1 $(BIN)/jupyter-nbconvert --to html --execute --embed-images \
		--ExecutePreprocessor.kernel_name=python3 $(@:.html=.ipynb)

bench-peers: $(PEERS)/.made $(PROX_PEERS)/.made
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m tests.benchmarks.kl_peers
	OMP_NUM_THREADS=1 XLA_FLAGS='--xla_cpu_multi_thread_eigen=false' $(PROX_PEERS)/bin/python -m tests.benchmarks.prox

# azula comes without its dependencies: torchvision and gdown serve only its collection of networks.
$(PEERS)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --constraint constraints.txt $(shell grep '^torch==' constraints.txt)
	$(PEERS)/bin/pip install --quiet --constraint constraints.txt --no-deps azula==0.11.1
	$(PEERS)/bin/pip install --quiet --constraint constraints.txt blackjax==1.7.1 jax scikit-learn einops jaxtyping --editable .
	touch $@

# moreau beside cvxpy makes `import cvxpy` load jax, so that these live apart from the others.
$(PROX_PEERS)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PROX_PEERS)
	$(PROX_PEERS)/bin/pip install --quiet --constraint constraints.txt $(shell grep '^torch==' constraints.txt)
	$(PROX_PEERS)/bin/pip install --quiet --constraint constraints.txt moreau==0.4.1 qpax==0.1.4 jaxopt==0.8.5 jax highspy --editable '.[numba]'
	-$(PROX_PEERS)/bin/pip install --quiet prox_tv==3.2.1  # compiles with Debian's liblapacke-dev, and is left out without
	touch $@

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

# torch comes by its exact version first: an open range would fetch a build with several GB of CUDA.
$(VENV)/.%: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt $(shell grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.$(if $(filter demo,$*),,[$*])'
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(PROX_PEERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis tutorials/html
