# `make serve` sets everything up and serves the built-in model; `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NATIVE := $(shell find native -name '*.cpp' -o -name '*.h' 2>/dev/null) CMakeLists.txt

.PHONY: serve test lint compare native test-isas test-emulated clean

serve: $(VENV)/.installed
	$(BIN)/trivet serve --port 8080

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n logical

lint: $(VENV)/.installed-test
	$(BIN)/pip install -q --group lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

compare: $(VENV)/.installed-test
	$(BIN)/pip install -q --group compare
	$(BIN)/python -m pytest -n logical -m compare

# For work on the native code: builds trivet/_native*.so in place, with the tools of the active environment.
native:
	cmake -S . -B build/native -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE=$$(command -v python)
	cmake --build build/native
	cmake --install build/native --prefix .

# The everyday suite under each lesser instruction set that this processor has, one after another.
test-isas: $(VENV)/.installed-test
	isas=$$($(BIN)/python -c "from trivet._native import system_info; i = system_info(); \
	  print(*i['available'][:i['available'].index(i['isa'])])") || exit 1; \
	for isa in $$isas; do echo "TRIVET_ISA=$$isa"; TRIVET_ISA=$$isa $(BIN)/python -m pytest -n logical || exit 1; done

# Tests the kernels of all instruction sets, those that this processor lacks in software (slow; needs libsimde-dev).
# The module lies in a copy of the package, so that the one in place stays as it is.
EMULATED := build/emulated
test-emulated:
	cmake -S . -B $(EMULATED) -G Ninja -DCMAKE_BUILD_TYPE=Release -DTRIVET_EMULATE=ON \
	  -DPython_EXECUTABLE=$$(command -v python)
	cmake --build $(EMULATED)
	rm -rf $(EMULATED)/package && mkdir $(EMULATED)/package
	cp -r pyproject.toml tests trivet $(EMULATED)/package && rm -f $(EMULATED)/package/trivet/_native*.so
	cmake --install $(EMULATED) --prefix $(EMULATED)/package
	cd $(EMULATED)/package && for isa in avx512 avx512_bf16 amx; do \
	  TRIVET_ISA=$$isa python -m pytest -q tests/native || exit 1; done

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip

$(VENV)/.installed: $(VENV)/bin/pip pyproject.toml $(NATIVE)
	$(BIN)/pip install -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --group test
	touch $@

clean:
	rm -rf build dist $(VENV)
