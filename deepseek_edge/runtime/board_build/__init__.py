"""The deferred build: a board turns a graph into its TensorRT engine once, safely.

    read the recipe -> make the key -> reuse, or: check memory -> lock -> build -> verify -> measure
    -> keep the winner, or name the program that takes over

A board may have no more than Python 3.8 and JetPack, so the modules of this package and those
that they need are joined to one file, dse_build.py (``single_file``), which the bundle carries.
``decisions`` is pure; only ``board`` and ``trtexec`` touch the board, and tests replace them.
"""
