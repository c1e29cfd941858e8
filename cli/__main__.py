"""`python -m cli`: the same as `shoptalk`."""

from cli.main import main

main()
