"""The command line: parse, call, print. Nothing heavy is imported before a command needs it, so `--help` answers at once."""

from pushforward.cli import generate, judge, laboratory, shelves
from pushforward.cli.options import app

__all__ = ["app", "generate", "judge", "laboratory", "shelves"]
