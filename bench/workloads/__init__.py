"""One file for each op, named as its folder in `genkern/ops`, with a list `WORKLOADS`."""
