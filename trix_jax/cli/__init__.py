"""The programs: `trix train`, `trix eval`, `trix generate`, `trix export` and `trix lookup`.

`launcher` starts each of them, `arguments` reads what several of them are given. A program is a module with `FLAGS`,
its absl flags, and `main()`.
"""
