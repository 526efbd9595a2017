"""The command line `drirl`: run the graph, look at the results, talk to the aligned model."""
