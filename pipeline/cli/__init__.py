"""The command line `drirl`: run the road, look at what came out, talk to the aligned model."""
