"""Pure functions: tensors or arrays in, the same out; the only place of a shared equation."""
