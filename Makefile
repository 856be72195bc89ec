# libdeepseek: one screen of commands. CI calls the same targets.
#
#   make demo     build everything and answer questions with a real model, in four languages
#   make test     all tests, the ONNX backend suite among them
#   make check    format, lints, docs, header and licences
#   make bench    speed against other engines (see docs/benchmarks.md)
#   make package  what users install, under dist/

CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
BIN := $(CARGO_TARGET_DIR)/release
CARGO := cargo
PYTHON ?= python3

.PHONY: setup build demo test test-rust test-c test-bindings test-examples check header bench package fuzz test-models clean

setup:            ## install what is missing, or print the line that does
	@tools/setup.sh

build: setup
	@tools/build.sh

demo: setup       ## semantic search over this project's documentation in C, C++, Node and Java
	@tools/demo.sh

test: setup test-rust test-c test-bindings test-examples
	@echo "make test: all passed"

test-rust:
	$(CARGO) test --release --workspace

test-c:
	tests/c/run.sh

test-bindings:
	bindings/cpp/test.sh
	bindings/node/test.sh
	bindings/java/test.sh

test-examples:    ## the demo, all languages against each other, and the README's examples
	@tools/demo.sh >build/demo.log || { tail -n 20 build/demo.log; exit 1; }
	$(PYTHON) tests/readme.py build/demo

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --quiet
	tools/header.sh --check
	$(CARGO) test --release -q --workspace --test arrows --test files --test parity
	tools/licences.sh

header:           ## regenerate include/deepseek/deepseek.h
	tools/header.sh

bench: build      ## DEEPSEEK_BENCH_PYTHON: a Python with the peers; DEEPSEEK_BENCH_MODELS: tests/models/export.py's output
	@tools/bench.sh

package: setup
	@tools/package.sh

fuzz: setup       ## DEEPSEEK_FUZZ_SECONDS for each target (default 60)
	@tools/fuzz.sh

test-models: build ## whole models against ONNX Runtime; installs torch and friends under build/
	@tools/test_models.sh

clean:
	rm -rf target build dist
