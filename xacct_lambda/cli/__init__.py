"""The commands ``demo``, ``layer``, and ``policy`` of ``python -m xacct_lambda``."""
