"""Compare the test AWS with an independent IAM simulator: ``python -m tests.iam_oracle --requests 20000 --seed 1``."""
