"""The command line: one file per command; options in, one library call, exit code out."""
