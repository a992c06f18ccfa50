PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# In the order that tests/conftest.py gives: what takes longest is begun first.
PARALLEL = -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
# Seconds that a quick test may take, so that one that hangs ends by itself and says where it was.
PATIENCE ?= 600
export FLWR_TELEMETRY_ENABLED := 0

.PHONY: run test test-all gpu-check lint docs deploy-check clean

run: .venv/ready  ## the main job, on the embedded data set
	$(BIN)/fedalign run configs/quickstart.yaml --again

test: .venv/ready  ## everything that is quick
	$(BIN)/pytest -q $(PARALLEL) --timeout $(PATIENCE) -m "not slow and not gpu"

test-all: test  ## everything that needs no GPU; slow tests one after the other, since some start a Ray of their own; more examples
	$(BIN)/pytest -q -m "slow and not gpu"
	$(BIN)/pytest -q -m "hypothesis and not gpu" --hypothesis-profile=thorough

# PYTHON where it has all that fedalign needs, as on a machine set up for GPUs, else .venv.
gpu-check:  ## tests and measurements on a GPU, at most four minutes; without one, a rehearsal; OUT=table.md
	@export PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}"; \
	if $(PYTHON) -c "import fedalign.server_app" 2>/dev/null; then python=$(PYTHON); \
	else $(MAKE) --no-print-directory .venv/ready && python=$(BIN)/python; fi && \
	"$$python" benchmarks/gpu_check.py $(if $(OUT),--out $(OUT)) $(if $(LOG),--log $(LOG))

lint: .venv/ready  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy --config-file= --ignore-missing-imports --explicit-package-bases --follow-imports=silent benchmarks/*.py

docs: .venv/docs  ## the documentation site in build/docs; an unknown link or name is an error
	$(BIN)/python -m sphinx --builder html --fresh-env --nitpicky --fail-on-warning --keep-going --quiet docs build/docs
	@echo "built build/docs/index.html"

deploy-check: .venv/ready  ## all of docker/ that can be checked without an engine
	PYTHONPATH=docker $(BIN)/python -m check

clean:
	rm -rf .venv build dist *.egg-info

.venv/ready: pyproject.toml
	@echo "setting up .venv (PyTorch is most of the download)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.venv/docs: .venv/ready
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@
