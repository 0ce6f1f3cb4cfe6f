"""Check the types of the page's JavaScript, which its comments give (``jsconfig.json``).

A module opts in by ``// @ts-check``. Without npm or network nothing is checked, which is said.
"""

import shutil
import subprocess
import sys

import npm

from gidlite.errors import GidliteError, written

CONFIGS = "jsconfig.json", "tools/jsconfig.sw.json"  # a service worker has names of its own


def main() -> None:
    """Exit as the compiler does."""
    (package,) = npm.pinned("dev")
    folder = npm.CACHE / npm.file_name(package).removesuffix(".tgz")
    node = shutil.which("node")
    try:
        if not folder.is_dir():
            archive = npm.fetch(package)
            with written(folder, folder=True) as hidden:
                for path, data in npm.members(archive).items():
                    (hidden / path).parent.mkdir(parents=True, exist_ok=True)
                    (hidden / path).write_bytes(data)
    except GidliteError as error:
        print(f"JavaScript NOT CHECKED: {error}")
        return
    if node is None:
        print("JavaScript NOT CHECKED: there is no node on this machine")
        return
    for config in CONFIGS:
        command = [node, str(folder / "bin" / "tsc"), "-p", config]
        if failed := subprocess.run(command, cwd=npm.ROOT, check=False).returncode:
            sys.exit(failed)


if __name__ == "__main__":
    main()
