# Every command sets up what it needs: in a fresh clone, `make demo` or `make test` is all to type.
#
#   PYTHON  the interpreter to start from; its torch is reused if it is 2.11 to 2.13  (python3)
#   TORCH   what to install where there is no such torch                       (torch==2.13.0)
#   FUSEDLR_WERROR  0 lets a build pass in which the compiler warns                      (1)
#   ARGS    passed on to the command: make test ARGS="-k cosine -x"
#   OUT     the folder for the results of gpu-check

PYTHON ?= python3
TORCH ?= torch==2.13.0
FUSEDLR_WERROR ?= 1
ARGS ?=
OUT ?=

VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# The tests need no plugin of pytest's, and one that a reused environment happens to hold might warn,
# which fails a test.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD := 1

CSRC := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
NATIVE_TESTS := $(wildcard tests/native/*.cpp)
BUILT := $(VENV)/.built

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help env build cuda-build demo finder test bench bench-schedulers gpu-check lint clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(addprefix $(VENV)/.ready-,build demo test bench lint) ## create .venv with everything that the commands need

build: $(BUILT) ## compile the extension in place, if its sources changed

cuda-build: ## compile it with its CUDA engine too, in an environment of its own (needs nvcc, no GPU)
	@PYTHON='$(PYTHON)' FUSEDLR_WERROR=$(FUSEDLR_WERROR) scripts/cuda_build.sh

demo: $(BUILT) $(VENV)/.ready-demo ## train a small GPT with torch.optim and with fusedlr, and compare
	$(VENV)/bin/python examples/demo.py $(ARGS)

finder: $(BUILT) $(VENV)/.ready-demo ## find a learning rate for handwritten digits, and train with it
	$(VENV)/bin/python examples/lr_finder.py $(ARGS)

test: $(BUILT) $(VENV)/.ready-test ## run the tests
	$(VENV)/bin/python -m pytest $(ARGS)

bench: $(BUILT) $(VENV)/.ready-bench ## time the optimizers against torch's
	$(VENV)/bin/python benchmarks/bench_step.py $(ARGS)

bench-schedulers: $(BUILT) $(VENV)/.ready-bench ## compare the schedulers with torch's: numbers, speed, accuracy
	$(VENV)/bin/python benchmarks/bench_schedulers.py $(ARGS)

gpu-check: ## build, test and time on a GPU, with what PYTHON has: make gpu-check OUT=folder
	@test -n '$(OUT)' || { echo 'Name a folder for the results: make gpu-check OUT=folder' >&2; exit 2; }
	@PYTHON='$(PYTHON)' scripts/gpu_check.sh '$(OUT)' $(ARGS)

lint: $(VENV)/.ready-lint ## check style and types
	ruff check
	ruff format --check
	python -m mypy fusedlr
	clang-format --dry-run -Werror $(CSRC) $(NATIVE_TESTS)

clean: ## remove build outputs and caches; .venv stays
	rm -rf build dist *.egg-info fusedlr/_C*.so $(BUILT)
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find fusedlr tests examples benchmarks -name __pycache__ -exec rm -rf {} +

# A stamp file records what is done, so that a second run does nothing.
$(VENV)/.ready-%: pyproject.toml scripts/setup_env.sh
	@PYTHON='$(PYTHON)' TORCH='$(TORCH)' scripts/setup_env.sh $*
	@touch $@

# --no-deps: the torch that was found stays as it is.
$(BUILT): $(VENV)/.ready-build $(CSRC) setup.py
	@echo '== Building fusedlr and its extension (minutes when all of it is compiled)'
	@FUSEDLR_WERROR=$(FUSEDLR_WERROR) \
		$(VENV)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@
