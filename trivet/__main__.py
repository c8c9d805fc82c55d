"""`python -m trivet` is the command `trivet`."""

from trivet.cli.main import main

main()
