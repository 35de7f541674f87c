"""`python -m pushforward` is the same program as `pushforward`."""

from __future__ import annotations

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
    except BrokenPipeError:  # `pushforward recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
