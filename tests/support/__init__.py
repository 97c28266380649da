"""What tests and benchmarks have in common: hosts, runs of playbooks, visitors, what a host is like."""
