.DEFAULT_GOAL := help
.PHONY: help setup demo demo-down test lint clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## all that the demo and the tests stand on
	@tools/setup venv
	@tools/setup collections
	@tools/setup key
	@tools/setup engine
	@tools/setup image bookworm trixie
	@tools/setup pebble
	@tools/setup chromium

demo: ## a Django site over https, on a bare Debian 13 in a container
	@tools/demo up

demo-down: ## remove the demo's container
	@tools/demo down

test: setup ## lint, unit tests and every scenario; SCENARIO=name runs one
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/pytest $(if $(SCENARIO),--scenario $(SCENARIO),--numprocesses 2 --maxschedchunk 1)

lint: ## what is wrong with the style
	@tools/setup venv
	@tools/setup collections
	@tools/lint

clean: ## forget what setup made here; the engine and its images stay
	@rm -rf .venv .cache/wheel .ansible collections/ansible_collections/.stamp \
	  collections/ansible_collections/ansible collections/ansible_collections/community
	@find . -name __pycache__ -not -path './.cache/*' -prune -exec rm -rf {} +
