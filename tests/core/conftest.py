"""Makes the helpers beside this file importable from the test folders below it."""
