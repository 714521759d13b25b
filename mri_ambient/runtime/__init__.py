"""What the computation runs on: files, devices, processes, and data read ahead."""
