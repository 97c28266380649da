.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down test test-all lint clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## all that the demo and the tests stand on
	@tools/setup all

demo: ## a Django site over https, on a bare Debian 13 in a container
	@tools/demo up

demo-down: ## remove the demo's container
	@tools/demo down

pytest = @PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/pytest

test: setup ## lint, unit tests and the main path; SCENARIO=name runs that scenario alone
	$(pytest) $(if $(SCENARIO),--scenario $(SCENARIO),--numprocesses 2 --maxschedchunk 1)

test-all: setup ## all of it: every scenario too
	$(pytest) --all --numprocesses 3 --maxschedchunk 1

lint: ## what is wrong with the style
	@tools/setup venv
	@tools/setup collections
	@tools/setup shellcheck
	@tools/lint

clean: ## remove what setup, demo and tests made here: containers, images, folders; the engine stays
	@tools/setup clean
