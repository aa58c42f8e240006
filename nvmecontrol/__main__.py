"""`python -m nvmecontrol`."""

from .main import main

main()
