"""`python -m pushforward` is the same program as `pushforward`."""

from __future__ import annotations

import errno
import os
import sys


def main() -> None:
    """Run the command line; an error a user can mend is its message and exit code 2."""
    from pushforward.errors import PushforwardError

    try:
        from pushforward.cli import app

        app(prog_name="pushforward")
    except PushforwardError as error:
        print(f"pushforward: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("pushforward: stopped; what was saved is whole, and --resume goes on from there.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `pushforward recipes | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        where = f"{error.filename}: " if error.filename else ""
        full = (
            " What was saved before is whole; make room and repeat with --resume."
            if error.errno == errno.ENOSPC
            else ""
        )
        print(f"pushforward: {where}{error.strerror or error}.{full}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
