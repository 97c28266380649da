"""Share hosts, runs of playbooks, load and states of hosts between tests and benchmarks."""
