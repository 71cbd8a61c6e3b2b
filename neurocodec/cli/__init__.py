"""The command line: one module a subcommand, each with add_parser(subparsers) and run(args) -> exit status.

Modules import nothing heavy; what `run` needs, it imports itself, so that `neurocodec info` answers at once.
"""
