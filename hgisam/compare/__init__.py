"""Methods against each other on the same cases: one resumable run, tests that fit the pairs, one page to read."""
