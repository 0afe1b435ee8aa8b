"""Layers that compute on a CPU what the plain ones compute, faster: other orders of work, packed kernels, less memory.

A fast layer is a subclass of a plain one, with the same weights under the same names. `swap.accelerate` puts the fast
layers of this package in the place of a model's, by their types, and `swap.restore` the plain ones back.
"""
