"""Where results lie: artifacts, their index and manifest, object stores, row caches and tables."""
