"""The programs of the command `trix`: train, eval, generate, export, lookup, carve, edit and graft.

`launcher` starts each of them, and `arguments` reads the flags that several of them share. `new_run` writes what carve,
edit and graft make. A program is a module with `FLAGS`, its absl flags, and `main()`.
"""
