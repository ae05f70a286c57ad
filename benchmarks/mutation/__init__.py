"""What benchmarks/mutants.py is made of: the changes, how one is put in place, and the tests that look at it."""
