"""Where steps run, and which resources heavy steps request."""
