"""Judging data: Great Expectations suites built from the contract, and the rules of each check family."""
