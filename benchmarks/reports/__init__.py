"""Text tables of the benchmarks, from the numbers that they write as JSON."""
