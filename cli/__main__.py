"""``python -m mri_ambient.cli``: the command line under another launcher, such as torchrun."""

from .app import main

if __name__ == "__main__":
    main()
