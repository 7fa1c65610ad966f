"""What several widgets share: how one is put together, drawing, the line to the kernel, curves, attention maps, settings."""
