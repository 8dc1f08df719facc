"""`python -m hgisam` is `hgisam`."""

from hgisam.cli import main

if __name__ == "__main__":
    main()
