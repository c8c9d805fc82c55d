"""What the side-by-side benchmarks share: peers' environments, driven processes, the machine's limits, reports."""
