#!/usr/bin/env python3
"""Writes the files that the command's pages are made of into one C source.

    embed.py OUTPUT.c FILE...

Each FILE becomes `const char hk_page_NAME[]`, NUL terminated; NAME is its file name with an underscore for what is not a
letter or digit. src/view/page.h declares them.
"""

import os
import re
import sys


def main(output, files):
    with open(output, "w", encoding="ascii") as out:
        out.write('/* Made by tools/embed.py. */\n#include "view/page.h"\n')
        for path in files:
            with open(path, "rb") as f:
                data = f.read()
            if b"\0" in data or b"</script" in data.lower():
                sys.exit(f"{path}: has a NUL byte, or the end of a script, and cannot be part of a page")
            out.write("\nconst char hk_page_%s[] = {" % re.sub(r"\W", "_", os.path.basename(path)))
            for at, byte in enumerate(data + b"\0"):
                out.write(("\n    " if at % 24 == 0 else " ") + "%d," % (byte - 256 if byte > 127 else byte))
            out.write("\n};\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
