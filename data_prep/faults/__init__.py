"""What is wrong with the samples of a scan, found by the samples themselves: one fault a module."""
