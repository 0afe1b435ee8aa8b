"""Faster layers for CPUs, with the results of the plain ones: reordered work, packed kernels, less memory.

A fast layer is a subclass of a plain one, with the same weights under the same names. `swap.accelerate` replaces a
model's layers, by type, with the fast layers of this package; `swap.restore` puts the plain ones back.
"""
