# Everything runs in the environment that is active; CONTRIBUTING.md says how to make one.

.PHONY: check test test-slow test-gpu coverage bench demo docs wheel

check:  ## style, spelling, metadata, types
	ruff format --check .
	ruff check .
	clang-format --dry-run --Werror kernels/*/*.cu kernels/*/*.cuh tests/hostcuda/*.h
	codespell
	validate-pyproject pyproject.toml
	mypy

test:  ## every promise at small sizes: minutes
	pytest

test-slow:  ## every variant and architecture, long random tests, memory at size
	pytest -m "slow and not gpu"

test-gpu:  ## the same promises on this machine's GPU
	pytest -m gpu

# Not in .ci/run: tracing costs a fifth of the time of the tests on Python 3.11. On 3.14 it is free.
coverage:  ## of the default run, with a floor
	coverage run -m pytest
	coverage report

bench:  ## beside torchvision and onnxruntime, where they are installed
	python -m cudeform bench

demo:
	python -m cudeform demo

docs:  ## with every figure and table made anew
	sphinx-build -W docs docs/_build/html

wheel:  ## build it and type-check what it holds under the names users import
	python -m build
