# A thin front for Meson. `make help` lists the targets.
#
#   SAN=address | SAN=thread | DEBUG=1 | FUZZ=1   build in a directory of its own (build-address, ...)
#   PREFIX=/usr/local DESTDIR=                    for `make install`

PREFIX ?= /usr/local
MESON ?= meson
NINJA ?= ninja
PYTHON ?= python3

SETUP :=
BUILD := build
ifneq ($(SAN),)
BUILD := build-$(SAN)
ifeq ($(SAN),address)
SETUP += -Db_sanitize=address,undefined
else
SETUP += -Db_sanitize=$(SAN)
endif
SETUP += -Db_lundef=false -Db_ndebug=false
endif
ifneq ($(DEBUG),)
BUILD := $(BUILD)-debug
SETUP += --buildtype=debug -Db_ndebug=false
endif
ifneq ($(FUZZ),)
BUILD := build-fuzz
SETUP += -Dfuzz=true -Dtests=false -Dbench=false -Db_sanitize=address,undefined -Db_lundef=false -Db_ndebug=false
export CC = clang
endif

.PHONY: all build
all: build

build: $(BUILD)/build.ninja
	@$(NINJA) -C $(BUILD)

$(BUILD)/build.ninja:
	$(MESON) setup $(BUILD) --prefix=$(PREFIX) $(SETUP)
