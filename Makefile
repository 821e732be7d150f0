# Every target runs in the active environment; CONTRIBUTING.md says how to make one.

.PHONY: check test test-slow test-gpu coverage bench demo docs wheel

check:  ## style, spelling, metadata, types
	ruff format --check .
	ruff check .
	clang-format --dry-run --Werror kernels/*/*.cu kernels/*/*.cuh tests/hostcuda/*.h tests/hostcuda/*.cc
	codespell
	validate-pyproject pyproject.toml
	mypy

test:  ## every promise at small sizes: minutes
	pytest

test-slow:  ## every variant and architecture, long random tests, memory at size
	pytest -m "slow and not gpu"

test-gpu:  ## the same promises on this machine's GPU
	pytest -m gpu

# Not part of .ci/run: on Python 3.11, tracing makes the tests a fifth slower. On 3.14 it is free.
coverage:  ## coverage of the default run; fails below the floor
	coverage run -m pytest
	coverage report

bench:  ## compare the speed with torchvision and onnxruntime, if they are installed
	python -m cudeform bench

demo:
	python -m cudeform demo

docs:  ## build the documentation, with all figures and tables
	sphinx-build -W docs docs/_build/html

wheel:  ## build the sdist and the wheel
	python -m build
