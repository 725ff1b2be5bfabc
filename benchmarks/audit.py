"""Are weaknesses known of what is installed? `python -m benchmarks.audit` asks pip-audit, and says how much it could ask.

Exit status 1 where a weakness is known. Where the advisory service cannot be reached, or does not know a package, nothing is
known to be wrong and nothing to be right: that is said, and is a failure (exit status 2) with `--required` only.
"""

import argparse
import json
import subprocess
import sys


def main() -> None:
    """Ask, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--required", action="store_true", help="an audit that could not be done is a failure")
    not_done = 2 if parser.parse_args().required else 0
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        found = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("audit: NOT DONE, the advisory service could not be asked")
        sys.exit(not_done)
    asked = [one for one in found if "vulns" in one]
    weak = [f"{one['name']} {one['version']}: {weakness['id']}" for one in asked for weakness in one["vulns"]]
    if not asked:
        print(f"audit: NOT DONE, the advisory service knows none of the {len(found)} packages installed, or could not be asked")
        sys.exit(not_done)
    print(f"audit: {len(asked)} of {len(found)} packages installed were audited, {len(weak)} weaknesses are known")
    print("\n".join(weak))
    sys.exit(1 if weak else 0)


if __name__ == "__main__":
    main()
