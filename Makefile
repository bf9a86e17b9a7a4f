# A thin front for Meson. `make help` lists what there is.

PREFIX ?= /usr/local
PYTHON ?= python3
ARGS ?=

# A Meson that the distribution does not have: tools/bootstrap.sh puts it there.
export PATH := $(CURDIR)/build/tools:$(PATH)
SHELL := /bin/bash

comma := ,

# Each way of building has a directory of its own, so that going back and forth rebuilds nothing.
BUILD := build
SETUP :=
ifneq ($(SAN),)
BUILD := build-$(SAN)
SETUP += -Db_sanitize=$(if $(filter address,$(SAN)),address$(comma)undefined,$(SAN)) -Db_lundef=false -Db_ndebug=false
endif
ifneq ($(DEBUG),)
BUILD := $(BUILD)$(if $(SAN),,-debug)
SETUP += --buildtype=debug -Db_ndebug=false
endif
ifneq ($(FUZZ),)
BUILD := build-fuzz
SETUP += -Dfuzz=true -Dtests=false -Db_sanitize=address,undefined -Db_lundef=false -Db_ndebug=false
export CC := clang
endif
ifneq ($(WERROR),)
BUILD := build-werror
SETUP += --werror
endif

.PHONY: all build bootstrap run test test-c test-py test-pythons soak valgrind bench lint amalgamation install clean help
.DEFAULT_GOAL := all

all: build

bootstrap:
	@tools/bootstrap.sh

build: bootstrap
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --prefix="$(PREFIX)" --libdir=lib $(SETUP) >$(BUILD).setup.log 2>&1 || \
	    { tail -n 20 $(BUILD).setup.log; exit 1; }
	@rm -f $(BUILD).setup.log
	@ninja -C $(BUILD)

run: build
	@$(PYTHON) tools/demo.py --python $(PYTHON) $(ARGS)

test: build
	@tools/test.sh $(BUILD) all $(ARGS)

test-c: build
	@tools/test.sh $(BUILD) c $(ARGS)

test-py: build
	@tools/test.sh $(BUILD) py $(ARGS)

test-pythons: build
	@tools/test-pythons.sh $(BUILD) $(ARGS)

soak: build
	@$(PYTHON) tools/soak.py --build $(BUILD) $(ARGS)

valgrind: build
	@tools/valgrind.sh $(BUILD) $(ARGS)

bench: build
	@tools/bench.sh $(ARGS)

lint: bootstrap
	@tools/lint.sh

amalgamation:
	@$(PYTHON) tools/amalgamate.py $(if $(ARGS),$(ARGS),build/amalgamation)

install: build
	@meson configure $(BUILD) -Dprefix="$(PREFIX)"
	@meson install -C $(BUILD)

clean:
	rm -rf build build-address build-thread build-undefined build-debug build-fuzz build-werror

help:
	@echo 'make                 build; build/heapkeeper is ready to use'
	@echo 'make run             the demonstration: a shop, its leak, and what it costs to find it'
	@echo 'make test            the C tests and the Python tests   (test-c, test-py: one of them; ARGS=...)'
	@echo 'make test-pythons    the Python tests on every Python there is, chroots included'
	@echo 'make soak            eight programs that strain the heap for 5 minutes each; make valgrind: the C tests there'
	@echo 'make bench           the benchmarks: ratios against named peers'
	@echo 'make lint            format, warnings, leftovers'
	@echo 'make amalgamation    heap and runtime as one heapkeeper.c and heapkeeper.h, in build/amalgamation'
	@echo 'make install         PREFIX=/usr/local DESTDIR='
	@echo
	@echo 'SAN=address | SAN=thread | DEBUG=1 | FUZZ=1 | WERROR=1   each in a build directory of its own'
