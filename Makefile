# Needs make and Python 3.10 or newer; everything else goes into .venv.
PYTHON ?= python3
# More options for pip, for example an index that serves CPU-only builds of torch.
PIP_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt $(PIP_FLAGS)
export JUPYTER_PREFER_ENV_PATH := 1
# Threads that spin while they wait starve each other beside other busy programs.
PATIENT := OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=5000

.DEFAULT_GOAL := help
.PHONY: help demo test lint lab notebooks gallery ablation bench book studio wheel clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(READY)  ## animate a real photo: a seamless loop in outputs/demo
	@$(BIN)/gidlite demo -o outputs/demo

test: lint  ## lint, then run all tests, doctests and notebooks (fast mode)
	@$(PIP) "triton ; sys_platform == 'linux'"
	$(PATIENT) $(BIN)/python -m pytest -q -n 2 -m "not browser"
	$(BIN)/python -m pytest -q tests/widget/test_browser.py tests/widget/test_save.py tests/widget/test_eye_page.py
	$(BIN)/python -m pytest -q tests/widget/test_jupyter.py
	$(BIN)/python -m pytest -q -m browser tests/widget/test_studio*.py

lint: $(READY)  ## check style and formatting, notebooks included, and types of JavaScript
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/python tools/check_js.py

lab: $(READY)  ## open the course in JupyterLab
	$(PATIENT) $(BIN)/jupyter lab notebooks

notebooks: $(READY)  ## run every notebook in full and store its outputs
	$(PATIENT) $(BIN)/python tools/execute_notebooks.py

gallery: $(READY)  ## pages to touch in outputs/gallery; PHOTOS=folder for your own photos
	@$(BIN)/python tools/gallery.py -o outputs/gallery $(PHOTOS)

PIECES := $(if $(SPRITES),--sprites $(SPRITES))
ablation: $(READY)  ## train, measure and print the ablation table (hours; CLIPS=, SPRITES=folders)
	$(BIN)/python -m studies.ablation train $(PIECES)
	$(BIN)/python -m studies.ablation measure $(PIECES) $(if $(CLIPS),--clips $(CLIPS))
	$(BIN)/python -m studies.ablation power
	$(BIN)/python -m studies.ablation table
	$(BIN)/python -m studies.ablation table --skip 48

bench: $(READY)  ## every figure of speed beside its target and a peer (ten minutes, idle machine)
	$(BIN)/python -m benchmarks

book: $(READY)  ## the course, pages and API reference in outputs/book, links checked, then tried
	@$(PIP) -e ".[docs]"
	@$(BIN)/python tools/draw_rooms.py --check || { \
		echo "docs/rooms.svg is not what imports say: run tools/draw_rooms.py" >&2; exit 1; }
	$(BIN)/mkdocs build -q --strict
	$(BIN)/python -m pytest -q tests/widget/test_book.py

studio: $(READY)  ## the page that animates a visitor's photo, in outputs/studio for any host
	@$(PIP) -e ".[web]"
	@$(BIN)/python tools/build_studio.py -o outputs/studio

wheel: $(READY)  ## build the wheel, install it elsewhere, and animate a photo with it
	$(BIN)/python tools/try_wheel.py

clean:  ## remove .venv, caches and outputs/demo
	rm -rf $(VENV) outputs/demo outputs/book outputs/studio outputs/.cache outputs/wheel dist .pytest_cache .ruff_cache .hypothesis
	find . -name .git -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune \
		-exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "gidlite needs Python 3.10 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.12." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' has no venv module: install it (on Debian: the package python3-venv)." >&2; \
		exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "Making $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing into $(VENV) (a few minutes the first time): 1 of 2, PyTorch"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@echo "Installing into $(VENV): 2 of 2, gidlite and everything else"
	@$(PIP) -e ".[notebooks,dev]"
	@touch $@
	@echo "Installed."
