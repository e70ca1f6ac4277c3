"""What the benchmarks share: runs, meters, the journal, the environment report."""
