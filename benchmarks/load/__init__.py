"""The load of the benchmarks: generated events, their messages and rows."""
