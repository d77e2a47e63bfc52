# Everything starts here: `make run` for a trial, `make test` and `make check` for the developer.
# Needs only Python 3.11 or newer and make. The virtual environment is .venv in this folder.

PYTHON ?= python3
DATA ?= ./data
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help run setup test-fast test test-long check bench constraints clean

help:
	@echo 'make run        试用：在本机启动驿站（数据在 DATA=./data） | start a trial on this machine'
	@echo 'make setup      为开发准备 .venv                          | prepare .venv for development'
	@echo 'make test-fast  两分钟内的测试                            | the tests of two minutes'
	@echo 'make test       全部测试（长时间测试除外）                | all tests but the long ones'
	@echo 'make test-long  长时间测试                                | the long tests'
	@echo 'make check      风格、类型、分层、拼写                    | style, types, layers, spelling'
	@echo 'make bench      与 Synapse 比较速度                       | compare the speed with Synapse'

run: $(VENV)/.run-installed
	@$(BIN)/yizhan up --demo --data '$(DATA)'

setup: $(VENV)/.dev-installed

test-fast: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -n 2 -m 'not slow and not long' $(ARGS)

test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -n 2 -m 'not long' $(ARGS)

test-long: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -m long $(ARGS)

check: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: $(VENV)/.dev-installed
	$(BIN)/python -m bench $(ARGS)

# The stamps make a second start immediate; what they depend on makes the next one install again.
$(VENV)/.run-installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo '正在安装依赖，仅第一次需要几分钟…… | Installing dependencies, once; this takes a minute ...'
	@# The pinned hatchling and setuptools build, without build isolation: ours, and what has no wheel.
	@$(PIP) hatchling setuptools
	@$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.run-installed
	@echo '正在安装开发工具…… | Installing the development tools ...'
	@$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo '需要 Python 3.11 或更新版本：make run PYTHON=python3.11 | Python 3.11 or newer is needed: make run PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '这个 Python 缺少 venv：请运行 sudo apt install python3-venv | This Python lacks venv: run sudo apt install python3-venv' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# Resolves everything anew and writes down the versions, without any URL.
constraints:
	rm -rf .cache/constraints
	$(PYTHON) -m venv .cache/constraints
	.cache/constraints/bin/python -m pip --disable-pip-version-check install --quiet --upgrade -e '.[dev]' setuptools \
	  "$$($(PYTHON) -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"][0])')"
	{ echo '# Every version that Yizhan is run and tested with. Written by `make constraints`.'; \
	  .cache/constraints/bin/python -m pip freeze --all --exclude pip --exclude-editable | LC_ALL=C sort -f; } > constraints.txt
	rm -rf .cache/constraints

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
