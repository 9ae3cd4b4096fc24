"""The programs: `trix train`, `trix eval`, `trix generate`, `trix export` and `trix lookup`.

`launcher` starts each of them, and `arguments` reads the flags that several of them share. A program is a module with
`FLAGS`, its absl flags, and `main()`.
"""
