"""Where results are stored: artifacts, their index and manifest, object stores, row caches and tables."""
