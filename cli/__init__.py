"""`shoptalk`, the operator's command line: `main` assembles it, each group of commands has a file, `output` prints.

The statements in `sql/queries` and the functions in `sql/functions` do the work; commands only call them.
"""
