"""Documentation that is made from the code: settings, tables and the picture of the graph."""
